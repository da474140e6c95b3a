"""Tests of job runs with an executor without processes: retries, chunks given up, and errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from l2features.core.chunks import ChunkBox
from l2features.core.geometry import Chunk
from l2features.local.job_run import AttemptEnd, ChunkJob, JobRun, WorkerError
from l2features.local.numbered_job import nothing
from l2features.store.base import Store, open_store

BOX = ChunkBox((0, 0, 0), (30, 1, 1))
DEADLY = Chunk(7, 0, 0)


class Toy:
    """An executor that runs three chunks at a time; ``end`` returns their outcomes."""

    def __init__(self, end: Callable[[Chunk], list[AttemptEnd]]) -> None:
        self.end = end
        self.running: list[Chunk] = []
        self.most = 0
        self.closed = False

    @property
    def free(self) -> int:
        return 3 - len(self.running)

    def start(self, job: ChunkJob[Any]) -> None:
        """There is nothing to start."""

    def submit(self, chunk: Chunk) -> None:
        self.running.append(chunk)
        self.most = max(self.most, len(self.running))

    def wait(self) -> Sequence[AttemptEnd]:
        outcomes = self.end(self.running[0])
        if any(outcome.chunk for outcome in outcomes):
            self.running.pop(0)
        return outcomes

    def close(self) -> None:
        self.closed = True


def run(folder: Path, end: Callable[[Chunk], list[AttemptEnd]]) -> tuple[Toy, list[object], JobRun[object]]:
    """Return an executor, the list to which results go, and the run of a job for the chunks in `BOX`."""

    def pending(_: Store, first: int, last: int) -> list[Chunk]:
        return [Chunk(*xyz) for xyz in BOX.positions(first, last).tolist()]

    def give_up(_: Store, chunk: Chunk, reason: str) -> object:
        return chunk, reason

    store = partial(open_store, f"sqlite://{folder}/store.db", "table")
    job = ChunkJob[object](BOX, store, pending, nothing, lambda: lambda chunk: chunk, give_up)
    toy, results = Toy(end), list[object]()
    return toy, results, JobRun(job, toy, results.append)


def done(chunk: Chunk) -> list[AttemptEnd]:
    return [AttemptEnd(chunk, chunk)]


def test_each_chunk_is_done_once(tmp_path: Path) -> None:
    toy, results, job = run(tmp_path, done)
    assert job.run().total == len(results) == len({*results}) == len(BOX)
    assert (toy.most, toy.closed) == (3, True)


@pytest.mark.parametrize(("each", "attempts", "times"), [(1, 3, 3), (2, 2, 4), (4, 1, 4)])
def test_a_chunk_is_given_up_after_three_deaths(tmp_path: Path, each: int, attempts: int, times: int) -> None:
    """One outcome may report several deaths."""
    tried = []

    def end(chunk: Chunk) -> list[AttemptEnd]:
        if chunk != DEADLY:
            return done(chunk)
        tried.append(chunk)
        return [AttemptEnd(chunk, died=each, how="it died")]

    _, results, job = run(tmp_path, end)
    job.run()
    assert len(tried) == attempts
    assert (DEADLY, f"it died at this chunk, {times} times") in results
    assert len(results) == len(BOX)


def test_workers_that_die_before_they_receive_a_chunk(tmp_path: Path) -> None:
    """Check that deaths between finished chunks do no harm, and that four in a row end the run."""
    seen = list[Chunk]()

    def some(chunk: Chunk) -> list[AttemptEnd]:
        seen.append(chunk)
        return done(chunk) if seen.count(chunk) == 4 else [AttemptEnd(None, died=1, how="it died")]

    _, results, job = run(tmp_path, some)
    job.run()
    assert len(results) == len(BOX)

    toy, _, job = run(tmp_path, lambda _: [AttemptEnd(None, died=1, how="it died")])
    with pytest.raises(WorkerError, match=r"^it died before it received a chunk, 4 times$"):
        job.run()
    assert toy.closed
