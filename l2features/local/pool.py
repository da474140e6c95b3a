"""Runs the chunks of a job in worker processes on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from typing import Any

from ..core.geometry import Chunk
from .job_run import CHUNK_TIMEOUT_S, AttemptEnd, ChunkJob, WorkerError
from .worker import Worker, WorkerDied, close_all


class LocalPool:
    """An `Executor` with at most ``most`` processes, each of which processes one chunk at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.workers: list[Worker] = []

    @property
    def free(self) -> int:
        """Number of idle workers."""
        return len(self._idle())

    def start(self, job: ChunkJob[Any]) -> None:
        """Run the job's ``warm_up``, reuse idle workers of the previous job, and start the missing ones."""
        job.warm_up()
        self.open_worker = job.open_worker
        self.n_workers = min(self.most, len(job.box))
        idle = self._idle()[: self.n_workers]
        close_all([worker for worker in self.workers if worker not in idle])
        self.workers = idle
        for worker in idle:
            worker.schedule(_open, self.open_worker)
        self._start_workers()

    def submit(self, chunk: Chunk) -> None:
        """Assign a chunk to an idle worker."""
        self._idle()[0].schedule(_run, chunk, work=chunk)

    def wait(self) -> list[AttemptEnd]:
        """Return ended attempts, and replace dead workers."""
        wait([worker.future for worker in self.workers if worker.future], 1.0, FIRST_COMPLETED)
        outcomes = [outcome for worker in list(self.workers) for outcome in self._outcomes(worker)]
        self._start_workers()
        return outcomes

    def close(self) -> None:
        """Kill the workers."""
        close_all(self.workers)

    def _idle(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.future is None]

    def _start_workers(self) -> None:
        while len(self.workers) < self.n_workers:
            self.workers.append(Worker())
            self.workers[-1].schedule(_open, self.open_worker)

    def _outcomes(self, worker: Worker) -> Iterator[AttemptEnd]:
        """Yield the end of a worker's attempt, if any. Raises WorkerError if the worker reports an error."""
        worker.end_overdue(CHUNK_TIMEOUT_S)
        if worker.future is None or not worker.is_over:
            return
        try:
            result, error = worker.result()
        except WorkerDied as death:
            worker.close()
            self.workers.remove(worker)
            yield AttemptEnd(worker.work, died=1, how=str(death))
            return
        if error:
            raise WorkerError(error)
        if worker.work is not None:
            yield AttemptEnd(worker.work, result)


_opened: dict[str, Callable[[Chunk], Any]] = {}
"""The key ``run`` has the function that processes a chunk in this worker process."""


def _open(open_worker: Callable[[], Callable[[Chunk], Any]]) -> None:
    _opened.clear()  # what an ended job has open
    _opened["run"] = open_worker()


def _run(chunk: Chunk) -> Any:
    return _opened["run"](chunk)
