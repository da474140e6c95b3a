"""Tests of giving up chunks that kill their workers, after attempts counted in the store."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_jobs.transforms import build
from l2features.config.datasets import load_dataset
from l2features.core.errors import StoreError
from l2features.core.geometry import Chunk
from l2features.core.ids import as_ids
from l2features.ingest.chunk_results import failed_chunk, save_result
from l2features.ingest.steps import (
    ATTEMPTS,
    GIVEN_UP,
    Ingest,
    begin_anew,
    begin_attempt,
    prepare,
    save_failure,
    save_given_up,
)
from l2features.store.base import DONE, FAILED
from l2features.testing.stores import lose, open_table
from tests.support.jobs import dataset_file

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
        outcomes = build(pipeline, ingest, beam.Create([CHUNK, OTHER]), counted=True)
        states = outcomes | beam.Map(
            lambda result: (tuple(result.chunk), result.record.state, result.record.reason)
        )
        assert_that(states, equal_to([(tuple(CHUNK), FAILED, GIVEN_UP), (tuple(OTHER), DONE, "")]))
    assert store.read(lost).found.all()
    assert begin_attempt(store, ingest.geometry, OTHER) == ""
    assert begin_attempt(store, ingest.geometry, CHUNK) == GIVEN_UP


def test_a_chunk_that_is_given_up_stays_so_until_a_run_has_ended(ingest: Ingest, config: Path) -> None:
    """If two chunks that kill their workers were retried in turn, the run might never end."""
    store, chunk_ids = open_table(config), ingest.chunk_ids(0, len(ingest.box))
    save_given_up(store, ingest.geometry, CHUNK)
    other_failure = save_failure(store, ingest.geometry, OTHER, "cannot read it")
    for _ in range(2):
        assert begin_attempt(store, ingest.geometry, CHUNK) == GIVEN_UP
        save_given_up(store, ingest.geometry, CHUNK)
    without_a_record = as_ids([ingest.geometry.chunk_id(CHUNK), ingest.geometry.chunk_id(OTHER) + (1 << 62)])
    begin_anew(store, without_a_record)
    assert begin_attempt(store, ingest.geometry, CHUNK) == GIVEN_UP
    assert store.count_attempts(other_failure.chunk_id) == [1]
    begin_anew(store, chunk_ids)
    assert begin_attempt(store, ingest.geometry, CHUNK) == ""
    assert store.count_attempts(other_failure.chunk_id) == [2]


def test_two_chunks_that_kill_are_given_up_one_after_the_other(sample: Path, tmp_path: Path) -> None:
    """Each run dies at its first chunk not yet given up. Once a run survives, both chunks are retried."""
    ingest = prepare(load_dataset("sample", dataset_file(tmp_path, sample)), create=True)
    store, chunks = ingest.open_store(), (CHUNK, OTHER)
    chunk_ids = as_ids([ingest.geometry.chunk_id(chunk) for chunk in chunks])

    def died_of() -> Chunk | None:
        begin_anew(store, chunk_ids)
        for chunk in chunks:
            if not begin_attempt(store, ingest.geometry, chunk):
                return chunk
            save_given_up(store, ingest.geometry, chunk)
        return None

    deaths = [*[CHUNK] * ATTEMPTS, *[OTHER] * ATTEMPTS, None]
    assert [died_of() for _ in deaths * 2] == deaths * 2
    store.close()


def test_a_chunk_that_could_not_be_written_killed_nothing(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = ingest.open_source().compute(CHUNK)
    store = ingest.open_store()
    begin_attempt(store, ingest.geometry, CHUNK)

    def write(_: object) -> None:
        raise StoreError("no room")

    monkeypatch.setattr(store, "write", write)
    with pytest.raises(StoreError, match="no room"):
        save_result(store, ingest.geometry, computed)
    assert store.count_attempts(ingest.geometry.chunk_id(CHUNK)) == [1]
    store.close()


def test_a_failure_that_could_not_be_recorded_killed_nothing(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ingest.open_store()
    begin_attempt(store, ingest.geometry, CHUNK)

    def put_chunk(*_: object) -> None:
        raise StoreError("no room")

    monkeypatch.setattr(store, "put_chunk", put_chunk)
    with pytest.raises(StoreError, match="no room"):
        save_result(store, ingest.geometry, failed_chunk(CHUNK, "cannot read it"))
    assert store.count_attempts(ingest.geometry.chunk_id(CHUNK)) == [1]
    store.close()
