"""A batch job on one machine: worker processes that share out the chunks as they go.

The workers (`beam_jobs.worker`) get their chunks from this process, one at a time. A chunk whose worker died
is given to another; a chunk that kills its workers counts as failed.
"""

from __future__ import annotations

import logging
import multiprocessing.connection
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from l2features.core.errors import L2FeaturesError
from l2features.core.geometry import Chunk
from l2features.ingest.steps import ATTEMPTS

from . import worker as worker_module
from .job import Job
from .processes import WorkerProcess, end_all, handled
from .worker import END, ERROR, NEXT, RESULT

MAX_EARLY_DEATHS = 3
CHUNK_TIMEOUT_S = 1_200.0
"""A chunk that takes longer hangs, say in a server that accepts a request and never answers."""
logger = logging.getLogger(__name__)


class WorkerError(L2FeaturesError):
    """A worker could not go on."""


class _Worker(WorkerProcess):
    chunk: Chunk | None = None
    """The chunk it was given and has not reported on."""
    since: float = 0.0
    """When it was given the chunk, on the clock of ``time.monotonic``."""
    overdue: bool = False
    ended: bool = False


class LocalRun:
    """One run of a job on this machine, with ``workers`` processes."""

    def __init__(self, job: Job, workers: int, flags: Sequence[str] = ()) -> None:
        self.job, self.n_workers, self.flags = job, workers, list(flags)
        self.store = job.open_store()
        self.summary = job.progress()
        self.deaths: Counter[Chunk] = Counter()
        self.again: list[Chunk] = []
        self.early_deaths = 0
        self.workers: list[_Worker] = []
        self.on_progress: Callable[[int], object] = lambda n: None

    def run(self, on_progress: Callable[[int], object] | None = None) -> Any:
        """Do all pending chunks; ``on_progress`` is told how many more chunks are settled.

        Gives the job's `Progress`.

        The first SIGINT or SIGTERM lets the workers finish their chunk; the second ends them, by a
        KeyboardInterrupt. Raises WorkerError where a worker cannot go on: then the others are ended too.
        """
        self.on_progress = on_progress or self.on_progress
        self.pending = self._pending()
        try:
            with handled(self._stop, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._start_workers()
                while any(map(self._is_needed, self.workers)):
                    self._serve()
        finally:
            end_all(self.workers)
            self.store.close()
        return self.summary

    def _stop(self, *_: Any) -> None:
        if self.summary.stopped:
            raise KeyboardInterrupt
        self.summary.stopped = True

    def _is_needed(self, worker: _Worker) -> bool:
        """Whether to wait for a worker: when stopped, only if it has something unwritten."""
        unwritten = worker.chunk is not None or not self.job.durable
        return not worker.ended and (unwritten or not self.summary.stopped)

    def _pending(self) -> Iterator[Chunk]:
        for first, last in self.job.shards():
            if self.summary.stopped:
                return
            chunks = self.job.pending(self.store, first, last)
            self.summary.done_before += last - first - len(chunks)
            self.on_progress(last - first - len(chunks))
            yield from chunks

    def _start_workers(self) -> None:
        first = next(self.pending, None)
        if first is None:
            return
        self.again.append(first)
        self.job.warm_up()
        for _ in range(min(self.n_workers, self.summary.total)):
            self._start_worker()

    def _start_worker(self) -> None:
        worker = _Worker(worker_module.__name__)
        with suppress(ConnectionError):  # a worker that is dead already is found when it is waited for
            worker.pipe.send((self.job, self.flags))
        self.workers.append(worker)

    def _serve(self) -> None:
        """Wait for the workers, and answer those that have something to say."""
        pipes = {worker.pipe: worker for worker in self.workers if not worker.ended}
        for pipe in multiprocessing.connection.wait(list(pipes), timeout=1.0):
            worker = pipes[pipe]  # type: ignore[index]
            try:
                self._answer(worker, *worker.pipe.recv())
            except (EOFError, ConnectionError):
                self._bury(worker)
        for worker in pipes.values():
            if worker.chunk is not None and time.monotonic() - worker.since > CHUNK_TIMEOUT_S:
                worker.overdue = True
                worker.process.kill()

    def _answer(self, worker: _Worker, says: str, what: Any) -> None:
        if says == NEXT:
            worker.chunk = None if self.summary.stopped else self._next_chunk()
            worker.since = time.monotonic()
            self.summary.first = self.summary.first or time.perf_counter()
            worker.pipe.send(worker.chunk)
        elif says == RESULT:
            worker.chunk = None
            self._settle(self.job.result(what))
        elif says == END:
            worker.ended = True
        elif says == ERROR:
            raise WorkerError(what)

    def _next_chunk(self) -> Chunk | None:
        return self.again.pop() if self.again else next(self.pending, None)

    def _settle(self, result: Any) -> None:
        self.summary.settled()
        self.summary.add(result)
        self.on_progress(1)

    def _bury(self, worker: _Worker) -> None:
        """A worker died: its chunk goes to another one, or has failed if it killed too many."""
        how = f"a worker died ({worker.exit_reason()})"
        if worker.overdue:
            how = f"a worker was ended after {CHUNK_TIMEOUT_S:.0f} s"
        worker.ended = True
        if not self.job.durable:
            raise WorkerError(f"{how}: rows that it had sent may not be written; run the job again")
        logger.warning("%s%s", how, f" at chunk {worker.chunk}" if worker.chunk else "")
        if worker.chunk is None:
            self.early_deaths += 1
            if self.early_deaths > MAX_EARLY_DEATHS:
                raise WorkerError(f"{how} before it was given a chunk, {self.early_deaths} times")
        else:
            self.deaths[worker.chunk] += 1
            if self.deaths[worker.chunk] < ATTEMPTS:
                self.again.append(worker.chunk)
            else:
                reason = f"{how} at this chunk, {ATTEMPTS} times"
                self._settle(self.job.give_up(self.store, worker.chunk, reason))
        if not self.summary.stopped:
            self._start_worker()
