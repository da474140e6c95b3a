"""Tests of local runs of a toy job: worker deaths, worker errors and a signal."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from l2features.core.chunks import ChunkBox
from l2features.core.geometry import Chunk
from l2features.local.job_run import ChunkJob, JobRun, WorkerError
from l2features.local.pool import LocalPool
from l2features.store.base import Store, open_store

BOX = ChunkBox((0, 0, 0), (5, 5, 2))


class Unpicklable(Exception):
    """An error that other processes cannot unpickle."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} is not {right}")


def double(chunk: Chunk) -> int:
    return 2 * sum(chunk)


def fail(chunk: Chunk) -> int:
    raise Unpicklable(*chunk[:2])


def opened(work: Callable[[Chunk], int]) -> Callable[[Chunk], int]:
    return work


def pending(_: Store, first: int, last: int) -> list[Chunk]:
    return [Chunk(*xyz) for xyz in BOX.positions(first, last).tolist()]


def job(work: Callable[[Chunk], int], folder: Path) -> ChunkJob[int]:
    store = partial(open_store, f"sqlite://{folder}/store.db", "table")
    return ChunkJob(BOX, store, pending, lambda: None, partial(opened, work), lambda *_: -1)


def test_kill_9_of_a_worker_between_chunks(tmp_path: Path) -> None:
    results: list[int] = []
    pool = LocalPool(1)
    run = JobRun(job(double, tmp_path), pool, results.append)

    def kill_once(chunks: int) -> None:
        if len(results) == 10:
            pid = pool.workers[0].pid
            assert pid
            os.kill(pid, signal.SIGKILL)

    progress = run.run(kill_once)
    assert sorted(results) == sorted(double(chunk) for chunk in pending(run.store, 0, len(BOX)))
    assert sum(run.deaths.values()) == 1
    assert not progress.stopped


def test_an_error_that_cannot_be_pickled_ends_the_run(tmp_path: Path) -> None:
    run = JobRun(job(fail, tmp_path), LocalPool(1), lambda result: None)
    with pytest.raises(WorkerError, match="Unpicklable: 0 is not 0"):
        run.run()


def test_a_signal_stops_before_the_next_chunk(tmp_path: Path) -> None:
    results: list[int] = []
    run = JobRun(job(double, tmp_path), LocalPool(1), results.append)
    progress = run.run(lambda chunks: os.kill(os.getpid(), signal.SIGTERM) if results else None)
    assert (len(results), progress.stopped) == (1, True)


def triple(chunk: Chunk) -> int:
    return 3 * sum(chunk)


def wait_until_idle(pool: LocalPool) -> None:
    while pool.free < pool.most:
        pool.wait()


def test_workers_do_the_next_job_too(tmp_path: Path) -> None:
    """Check that a worker that dies between two jobs is replaced."""
    with closing(LocalPool(2)) as pool:
        results: list[int] = []
        JobRun(job(double, tmp_path), pool, results.append, last=False).run()
        wait_until_idle(pool)
        dead, survivor = [worker.pid for worker in pool.workers]
        assert dead
        os.kill(dead, signal.SIGKILL)
        run = JobRun(job(triple, tmp_path), pool, results.append, last=False)
        run.run()
        chunks = pending(run.store, 0, len(BOX))
        assert sorted(results) == sorted(
            [double(chunk) for chunk in chunks] + [triple(chunk) for chunk in chunks]
        )
        wait_until_idle(pool)
        assert survivor in [worker.pid for worker in pool.workers]
        assert dead not in [worker.pid for worker in pool.workers]
