"""Tests of chunks and messages that kill their worker in Beam's portability layer.

Unlike Dataflow, Beam's local job service does not retry a bundle whose worker died: the job fails.
So the tests run the job again, which the store sees as a retry. Before the first run, they record
`ATTEMPTS` - 1 attempts in the store, as if that many workers had died.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2features.config.datasets import load_dataset
from l2features.core.geometry import Chunk
from l2features.core.ids import as_ids
from l2features.ingest.steps import ATTEMPTS, GIVEN_UP, begin_attempt, prepare
from l2features.messages.parts import Member
from l2features.pubsub.letter_folder import LetterFolder
from l2features.store.base import FAILED
from l2features.testing.stores import chunk_rows, lose, open_table
from l2features.updates.message_attempts import Attempts
from tests.support import stream_job
from tests.support.ingest_jobs import N_CHUNKS, done_chunks, open_sample, run_ingest, table_bytes
from tests.support.jobs import Ran, dataset_file, own_copy, run_job
from tests.support.portable import Cluster, cluster, python
from tests.support.updates import edit

__all__ = ["cluster", "python"]
DEADLY = Chunk(1, 0, 0)
WAITS = "--job_server_timeout=180"
N_MESSAGES, N_BEFORE = 200, 90
LOST = ("a worker is lost", "Channel closed prematurely")
"""The job service's error for a lost worker."""


@pytest.fixture
def deadly(cluster: Cluster, sample: Path, undisturbed: Path) -> Iterator[Path]:
    """Return a file; while it exists, workers die on reading the file of chunk `DEADLY`."""
    geometry = open_sample(undisturbed)[1]
    corners = zip(geometry.origins([DEADLY])[0].tolist(), geometry.chunk_size, strict=True)
    bounds = "_".join(f"{start}-{start + size}" for start, size in corners)
    [file] = sample.rglob(f"{bounds}*")
    cluster.deadly.write_text(str(file))
    yield cluster.deadly
    cluster.deadly.unlink(missing_ok=True)


def test_a_chunk_that_kills_its_worker_is_recorded(
    cluster: Cluster, sample: Path, undisturbed: Path, tmp_path: Path, deadly: Path
) -> None:
    """Check that the chunk fails after three attempts, others are done, and the next run retries it."""
    config = dataset_file(tmp_path, sample)

    def run() -> Ran:
        return run_ingest(config, "--create", *cluster.flags, WAITS)

    ingest = prepare(load_dataset("sample", config), create=True)
    with closing(ingest.open_store()) as store:
        for _ in range(ATTEMPTS - 1):
            assert begin_attempt(store, ingest.geometry, DEADLY) == ""
    code, _, err = run()
    assert code == 1
    assert any(words in err for words in LOST), err
    code, out, err = run()
    assert (code, err) == (1, "error: 1 chunks failed: l2features status names them\n")
    assert "failed_chunks 1" in out
    assert done_chunks(config) == N_CHUNKS - 1
    store, geometry = open_sample(config)
    [failed] = [record for record in store.chunk_records() if record.state == FAILED]
    assert (failed.chunk_id, failed.reason) == (geometry.chunk_id(DEADLY), GIVEN_UP)
    deadly.unlink()
    assert run().returncode == 0
    assert table_bytes(config) == table_bytes(undisturbed)


@contextmanager
def pausing(file: Path) -> Iterator[None]:
    """Lock the store for a second, repeatedly."""
    ended = threading.Event()

    def pause() -> None:
        db = sqlite3.connect(file, timeout=60, isolation_level=None)
        while not ended.wait(0.5):
            db.execute("BEGIN IMMEDIATE")
            ended.wait(1)
            db.execute("ROLLBACK")
        db.close()

    thread = threading.Thread(target=pause)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def write_messages(file: Path, edits: list[bytes]) -> None:
    """Write messages of the last minute to a file for `stream_job`."""
    now = time.time()
    lines = [json.dumps([f"{n}", data.hex(), now - 60 + n / 10]) for n, data in enumerate(edits)]
    file.write_text("\n".join(lines))


def run_stream(config: Path, folder: Path, flags: list[str]) -> Ran:
    files = [config, folder / "messages", folder / "dead"]
    return run_job(lambda argv: stream_job.main(*argv), *files, *flags, WAITS)


def test_a_stream_with_a_message_that_kills_its_worker_is_drained(
    cluster: Cluster, undisturbed: Path, tmp_path: Path, deadly: Path
) -> None:
    """One message kills its worker, one is malformed, one has an unknown node. The store is often locked."""
    config = own_copy(undisturbed, tmp_path)
    store = open_table(config)
    geometry = store.geometry()
    assert geometry
    places = [Chunk(*xyz) for xyz in np.ndindex(*geometry.grid) if xyz != DEADLY]
    before = {place: chunk_rows(store, place).features.tobytes() for place in places}
    ids = [node for place in places for node in lose(store, place, 20).tolist()]
    [killing] = lose(store, DEADLY, 1).tolist()
    unknown = geometry.chunk_id(places[0]) + 60_000
    good = [edit(ids[n % len(ids)], ids[-1 - n % len(ids)]) for n in range(N_MESSAGES - 3)]
    write_messages(
        tmp_path / "messages", [*good[:N_BEFORE], edit(killing), b"poison.", edit(unknown), *good[N_BEFORE:]]
    )
    deadly_part = Member(f"{stream_job.SOURCE}/{N_BEFORE}", as_ids([killing]))
    for _ in range(ATTEMPTS - 1):
        Attempts(store, geometry.chunk_id(DEADLY), [deadly_part]).begin()
    with pausing(Path(load_dataset("sample", config).store.removeprefix("sqlite://"))):
        code, _, err = run_stream(config, tmp_path, cluster.flags)
        assert code == 1
        assert any(words in err for words in LOST), err
        code, out, err = run_stream(config, tmp_path, cluster.flags)
    assert code == 0, err
    counts: dict[str, Any] = json.loads(out)
    assert (counts["messages_done"], counts["messages_dead"]) == (N_MESSAGES - 3, 3)
    assert {place: chunk_rows(store, place).features.tobytes() for place in places} == before
    reasons = {tuple(letter.reasons): letter.ids for _, letter in LetterFolder(tmp_path / "dead").letters()}
    assert reasons == {("bad_pickle",): [], ("still_failed",): [killing], ("unknown_node",): [unknown]}
