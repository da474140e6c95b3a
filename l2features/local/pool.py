"""Chunks of a job on one machine, shared among worker processes.

A chunk whose worker died is retried; one that kills its workers is given up.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..core.chunks import ChunkBox
from ..core.errors import L2FeaturesError
from ..core.geometry import Chunk
from ..ingest.steps import ATTEMPTS, shards
from ..store.base import Store
from .processes import STOP_SIGNALS, handled
from .worker import Worker, WorkerDied, close_all

MAX_EARLY_DEATHS = 3
CHUNK_TIMEOUT_S = 1_200.0
"""A chunk that takes longer hangs, for example in a server that accepts a request and never answers."""
R = TypeVar("R")
logger = logging.getLogger(__name__)


class WorkerError(L2FeaturesError):
    """A worker cannot continue."""


@dataclass(frozen=True)
class ChunkJob(Generic[R]):
    """What is done with the chunks of ``box``.

    ``pending`` returns the chunks of a shard that are to be done, ``warm_up`` compiles what the workers load.
    Each worker calls ``open_worker``, which it receives pickled, once, and what that returns with each chunk.
    ``give_up`` returns the result of a chunk that killed its workers.
    """

    box: ChunkBox
    open_store: Callable[[], Store]
    pending: Callable[[Store, int, int], list[Chunk]]
    warm_up: Callable[[], None]
    open_worker: Callable[[], Callable[[Chunk], R]]
    give_up: Callable[[Store, Chunk, str], R]


@dataclass
class Progress:
    """How far a run is.

    ``done_before`` chunks were skipped. The first chunk was scheduled at ``first`` and the last one done at
    ``last``, on the clock of ``time.perf_counter``.
    """

    total: int
    done_before: int = 0
    first: float = 0.0
    last: float = 0.0
    stopped: bool = False


class LocalRun(Generic[R]):
    """One run of a job with ``n_workers`` processes; ``on_result`` receives the result of each chunk."""

    def __init__(self, job: ChunkJob[R], n_workers: int, on_result: Callable[[R], object]) -> None:
        self.job, self.n_workers, self.on_result = job, n_workers, on_result
        self.store = job.open_store()
        self.progress = Progress(total=len(job.box))
        self.deaths: Counter[Chunk | None] = Counter()
        self.retries: list[Chunk] = []
        self.workers: list[Worker] = []

    def run(self, on_progress: Callable[[int], object] = lambda chunks: None) -> Progress:
        """Do all pending chunks; ``on_progress`` receives how many more are done.

        The first SIGINT or SIGTERM lets the workers finish their chunks; the second raises KeyboardInterrupt.
        Raises WorkerError if a worker cannot continue. In any case no worker is left.
        """
        self.on_progress = on_progress
        try:
            with handled(self._stop, *STOP_SIGNALS):
                self._start()
                while busy := [w for w in self.workers if w.future and (w.work or not self.progress.stopped)]:
                    wait([worker.future for worker in busy if worker.future], 1.0, FIRST_COMPLETED)
                    for worker in busy:
                        worker.end_overdue(CHUNK_TIMEOUT_S)
                        if worker.is_over:
                            self._advance(worker)
        finally:
            close_all(self.workers)
            self.store.close()
        return self.progress

    def _stop(self, *_: Any) -> None:
        if self.progress.stopped:
            raise KeyboardInterrupt
        self.progress.stopped = True

    def _pending(self) -> Iterator[Chunk]:
        for first, last in shards(self.job.box):
            if self.progress.stopped:
                return
            chunks = self.job.pending(self.store, first, last)
            self.progress.done_before += last - first - len(chunks)
            self.on_progress(last - first - len(chunks))
            yield from chunks

    def _start(self) -> None:
        self.pending = self._pending()
        first = next(self.pending, None)
        if first is None:
            return
        self.retries.append(first)
        self.job.warm_up()
        for _ in range(min(self.n_workers, self.progress.total)):
            self._start_worker()

    def _start_worker(self) -> None:
        self.workers.append(Worker())
        self.workers[-1].schedule(_open, self.job.open_worker)

    def _advance(self, worker: Worker) -> None:
        """Take the outcome of a worker's task, and assign it the next chunk."""
        try:
            result, error = worker.result()
        except WorkerDied as death:
            worker.close()
            self.workers.remove(worker)
            self._count_death(worker.work, str(death))
            if not self.progress.stopped:
                self._start_worker()
            return
        if error:
            raise WorkerError(error)
        if worker.work is not None:
            self._settle(result)
        chunk = self.retries.pop() if self.retries else next(self.pending, None)
        if chunk and not self.progress.stopped:
            self.progress.first = self.progress.first or time.perf_counter()
            worker.schedule(_run, chunk, work=chunk)

    def _settle(self, result: R) -> None:
        self.progress.last = time.perf_counter()
        self.on_result(result)
        self.on_progress(1)

    def _count_death(self, chunk: Chunk | None, how: str) -> None:
        """Retry the chunk whose worker died, or give it up if it killed too many."""
        logger.warning("%s%s", how, f" at chunk {chunk}" if chunk else "")
        self.deaths[chunk] += 1
        if chunk is None:
            if self.deaths[None] > MAX_EARLY_DEATHS:
                raise WorkerError(f"{how} before it received a chunk, {self.deaths[None]} times")
        elif self.deaths[chunk] < ATTEMPTS:
            self.retries.append(chunk)
        else:
            self._settle(self.job.give_up(self.store, chunk, f"{how} at this chunk, {ATTEMPTS} times"))


_opened: dict[str, Callable[[Chunk], Any]] = {}
"""What this worker process does with a chunk."""


def _open(open_worker: Callable[[], Callable[[Chunk], Any]]) -> None:
    _opened["run"] = open_worker()


def _run(chunk: Chunk) -> Any:
    return _opened["run"](chunk)
