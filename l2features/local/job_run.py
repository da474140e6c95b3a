"""A run of a job over its chunks, on local processes or on a Dask cluster.

A chunk whose worker died is retried. A chunk that keeps killing its workers is given up.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from ..core.chunks import ChunkBox
from ..core.errors import L2FeaturesError
from ..core.geometry import Chunk
from ..ingest.steps import ATTEMPTS, shards
from ..store.base import Store
from .processes import STOP_SIGNALS, handled

MAX_EARLY_DEATHS = 3
CHUNK_TIMEOUT_S = 1_200.0
"""Seconds after which a chunk counts as hung, for example in a request that a server never answers."""
R = TypeVar("R")
logger = logging.getLogger(__name__)


class WorkerError(L2FeaturesError):
    """A worker cannot continue, so the run ends."""


@dataclass(frozen=True)
class ChunkJob(Generic[R]):
    """A job: the chunks of ``box``, and the functions that process them.

    ``warm_up`` and ``open_worker`` must be picklable.

    Attributes:
        box: the chunks.
        open_store: opens the store that ``pending`` and ``give_up`` receive.
        pending: returns the chunks of a shard that are not done; a shard is a range of positions in ``box``.
        warm_up: compiles the job's code, or loads it from numba's cache.
        open_worker: called once per worker; returns the function that processes a chunk.
        give_up: returns the result of a chunk that killed its workers; receives the reason as text.
    """

    box: ChunkBox
    open_store: Callable[[], Store]
    pending: Callable[[Store, int, int], list[Chunk]]
    warm_up: Callable[[], None]
    open_worker: Callable[[], Callable[[Chunk], R]]
    give_up: Callable[[Store, Chunk, str], R]


class AttemptEnd(NamedTuple):
    """The end of an attempt to process a chunk.

    It has a ``result``, or the number of workers that ``died`` and the reason, ``how``. ``chunk`` is None for
    a worker that died before it received a chunk.
    """

    chunk: Chunk | None
    result: Any = None
    died: int = 0
    how: str = ""


class Executor(Protocol):
    """The workers of a run, which process several chunks at a time."""

    @property
    def free(self) -> int:
        """Number of further chunks that can be submitted."""

    def start(self, job: ChunkJob[Any]) -> None:
        """Start workers for a job, or reuse the workers of an ended job. Raises L2FeaturesError."""

    def submit(self, chunk: Chunk) -> None:
        """Submit a chunk."""

    def wait(self) -> Sequence[AttemptEnd]:
        """Return ended attempts after at most about 1 s. Raises WorkerError if a worker cannot continue."""

    def close(self) -> None:
        """Stop the workers of this run. Their unfinished chunks stay pending."""


@dataclass
class Progress:
    """The progress of a run.

    ``done_before`` is the number of chunks that the run skipped because they were done. The first chunk was
    submitted at ``first``, and the last chunk was done at ``last``, in seconds of ``time.perf_counter``.
    """

    total: int
    done_before: int = 0
    first: float = 0.0
    last: float = 0.0
    stopped: bool = False


class JobRun(Generic[R]):
    """One run of a job by an executor; ``on_result`` receives the result of each chunk.

    ``last`` tells whether this is the executor's last job.
    """

    def __init__(
        self, job: ChunkJob[R], executor: Executor, on_result: Callable[[R], object], last: bool = True
    ) -> None:
        self.job, self.executor, self.on_result, self.last = job, executor, on_result, last
        self.store = job.open_store()
        self.progress = Progress(total=len(job.box))
        self.deaths: Counter[Chunk | None] = Counter()
        self.retries: list[Chunk] = []

    def run(self, on_progress: Callable[[int], object] = lambda chunks: None) -> Progress:
        """Process all pending chunks; ``on_progress`` receives each increase of the number of done chunks.

        After one of `STOP_SIGNALS`, workers finish their chunks and the run ends. A second signal raises
        KeyboardInterrupt. Raises WorkerError if a worker cannot continue. After the last job the executor is
        closed.
        """
        self.on_progress = on_progress
        try:
            with handled(self._stop, *STOP_SIGNALS):
                self.pending = self._pending()
                if chunk := self._next():
                    self.executor.start(self.job)
                    self._work(chunk)
        finally:
            if self.last:
                self.executor.close()
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

    def _next(self) -> Chunk | None:
        return self.retries.pop() if self.retries else next(self.pending, None)

    def _work(self, chunk: Chunk | None) -> None:
        """Process ``chunk`` and all other pending chunks, unless a signal stops the run."""
        running = 0
        while running or (chunk and not self.progress.stopped):
            for _ in range(self.executor.free):
                if chunk is None or self.progress.stopped:
                    break
                self.progress.first = self.progress.first or time.perf_counter()
                self.executor.submit(chunk)
                running += 1
                chunk = self._next()
            for outcome in self.executor.wait():
                running -= outcome.chunk is not None
                if outcome.died:
                    self._count_deaths(outcome)
                elif outcome.chunk:
                    self._settle(outcome.result)
            chunk = chunk or self._next()

    def _settle(self, result: R) -> None:
        self.progress.last = time.perf_counter()
        self.deaths.pop(None, None)
        self.on_result(result)
        self.on_progress(1)

    def _count_deaths(self, outcome: AttemptEnd) -> None:
        """Retry the chunk whose worker died, or give it up if it killed `ATTEMPTS` workers."""
        chunk, how = outcome.chunk, outcome.how
        logger.warning("%s%s", how, f" at chunk {chunk}" if chunk else "")
        self.deaths[chunk] += outcome.died
        deaths = self.deaths[chunk]
        if chunk is None:
            if deaths > MAX_EARLY_DEATHS:
                raise WorkerError(f"{how} before it received a chunk, {deaths} times")
        elif deaths < ATTEMPTS:
            self.retries.append(chunk)
        else:
            self._settle(self.job.give_up(self.store, chunk, f"{how} at this chunk, {deaths} times"))
