"""Attempts at chunks that never end, counted in the store for runners that repeat what kills a process."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_jobs.pipeline import build
from beam_jobs.transforms import _WriteFn
from l2features.config import load_dataset
from l2features.errors import StoreError
from l2features.geometry import Chunk
from l2features.ingest import ATTEMPTS, GIVEN_UP, Ingest, begin_attempt, prepare, save_failure
from l2features.store import DONE, FAILED

from .stores import lose, open_table

CHUNK, OTHER = Chunk(0, 0, 0), Chunk(2, 1, 1)


@pytest.fixture
def ingest(config: Path) -> Ingest:
    return prepare(load_dataset("sample", config))


def test_a_chunk_is_given_up_after_three_attempts_and_then_retried(ingest: Ingest) -> None:
    store = ingest.open_store()
    reasons = [begin_attempt(store, ingest.geometry, CHUNK) for _ in range(ATTEMPTS + 1)]
    assert reasons == [""] * ATTEMPTS + [GIVEN_UP]
    save_failure(store, ingest.geometry, CHUNK, GIVEN_UP)
    assert begin_attempt(store, ingest.geometry, CHUNK) == ""


def test_the_pipeline_gives_it_up_and_does_the_others(ingest: Ingest, config: Path) -> None:
    store = open_table(config)
    for _ in range(ATTEMPTS):
        begin_attempt(store, ingest.geometry, CHUNK)
    lost = lose(store, OTHER, 2)
    with beam.Pipeline("FnApiRunner") as pipeline:
        results = build(pipeline, ingest, beam.Create([CHUNK, OTHER]), counted=True)
        outcomes = (results.written, results.failed) | beam.Flatten()
        states = outcomes | beam.Map(lambda result: (tuple(result.chunk), result.state, result.reason))
        assert_that(states, equal_to([(tuple(CHUNK), FAILED, GIVEN_UP), (tuple(OTHER), DONE, "")]))
    assert store.read(lost).found.all()
    for chunk in (CHUNK, OTHER):
        assert store.count_attempts(ingest.geometry.chunk_id(chunk)) == [1]


def test_a_chunk_that_could_not_be_written_killed_nothing(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = ingest.open_source().compute(CHUNK)
    fn = _WriteFn(ingest)
    fn.setup()
    begin_attempt(fn.store, ingest.geometry, CHUNK)

    def write(_: object) -> None:
        raise StoreError("no room")

    monkeypatch.setattr(fn.store, "write", write)
    with pytest.raises(StoreError, match="no room"):
        list(fn.process(computed))
    assert fn.store.count_attempts(ingest.geometry.chunk_id(CHUNK)) == [1]
    fn.teardown()
