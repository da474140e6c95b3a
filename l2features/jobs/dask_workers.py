"""Runs the chunks of a job on the workers of a Dask cluster; see docs/dask.md."""

from __future__ import annotations

import logging
import pickle
import queue
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from uuid import uuid4

import dask
import distributed
from distributed.client import ClosedClientError
from distributed.scheduler import KilledWorker

from ..core.errors import L2FeaturesError, message_of, typed_message
from ..core.geometry import Chunk
from ..local.job_run import CHUNK_TIMEOUT_S, AttemptEnd, ChunkJob, WorkerError
from .dask_tasks import Attempt, RunKey, attempt

PER_THREAD = 2
"""Chunks in flight for each thread of the workers: one that is computed, and one that waits."""
CONNECT_S, LOOK_S, CLOSE_S = 10.0, 1.0, 5.0
FIRST_WORKER_S, WITHOUT_WORKERS_S = 600.0, 20.0
"""Seconds that the cluster may be without workers: at the start; later, when nannies replace workers."""
SILENT_S = 900.0
"""Seconds without a result or heartbeat that end a run; a scheduler gives up a silent worker after 300 s."""
logger = logging.getLogger(__name__)


class DaskFailed(L2FeaturesError):
    """A Dask scheduler cannot be reached, or has no workers that answer."""


class DaskWorkers:
    """An `Executor` on the workers of a Dask scheduler."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._client: distributed.Client | None = None
        self._threads = self._sent = 0
        self._submitted: list[Chunk] = []
        self._in_flight: dict[str, tuple[Chunk, distributed.Future]] = {}
        self._ended: queue.SimpleQueue[distributed.Future] = queue.SimpleQueue()

    @property
    def free(self) -> int:
        """Number of further chunks needed to keep all threads busy."""
        return max(0, PER_THREAD * self._threads - len(self._in_flight) - len(self._submitted))

    def start(self, job: ChunkJob[Any]) -> None:
        """Connect to the scheduler if there is no connection yet, and prepare the job. Raises DaskFailed."""
        if self._client is None or self._client.status == "closed":
            self._client = _connect(self.address)
        job.warm_up()  # into the cache of the workers, where they share it
        self._work = pickle.dumps((job.warm_up, job.open_worker))
        self._run = RunKey(f"l2features-{uuid4().hex}", CHUNK_TIMEOUT_S)
        self._workers_seen = self._sign = time.monotonic()
        self._had_workers, self._looked = False, 0.0
        with self._connected() as client:
            client.subscribe_topic(self._run.name, self._beat)

    def submit(self, chunk: Chunk) -> None:
        """Queue a chunk; the next `wait` submits it together with others."""
        self._submitted.append(chunk)

    def wait(self) -> Sequence[AttemptEnd]:
        """Return ended attempts, within about a second.

        Raises DaskFailed if scheduler or workers do not answer, and WorkerError for an error of a worker.
        """
        with self._connected() as client:
            self._look(client)
            self._send(client)
            finished = []
            outcomes = []
            for future in self._take_ended():
                if future.status == "finished":
                    finished.append(future)
                elif future.status in ("pending", "lost"):  # its result was lost, and is computed again
                    future.add_done_callback(self._ended.put)
                else:
                    outcomes.append(self._failed(future))
            outcomes += self._gathered(client, finished)
            self._check_silence()
            return outcomes

    def close(self) -> None:
        """Cancel chunks in flight; a running chunk finishes, and its result is dropped."""
        if self._client is not None:
            self._in_flight.clear()
            with suppress(OSError):
                self._client.close(CLOSE_S)

    def _beat(self, _: object) -> None:
        self._sign = time.monotonic()

    def _look(self, client: distributed.Client) -> None:
        """Count the workers' threads, at most once a second. Raises DaskFailed if none exist for too long."""
        now = time.monotonic()
        if now < self._looked + LOOK_S:
            return
        self._looked = now
        try:
            threads: dict[str, int] = client.sync(client.nthreads, callback_timeout=CONNECT_S)
        except TimeoutError:  # a busy scheduler; a lost connection, or silence, ends the run
            return
        self._threads = sum(threads.values())
        if threads:
            self._had_workers, self._workers_seen = True, now
        limit = WITHOUT_WORKERS_S if self._had_workers else FIRST_WORKER_S
        if now - self._workers_seen > limit:
            raise DaskFailed(f"scheduler {self.address}: no worker for {limit:.0f} s")

    def _check_silence(self) -> None:
        """Raise DaskFailed if chunks are in flight, but no result or heartbeat came for `SILENT_S`."""
        if self._in_flight and time.monotonic() - self._sign > SILENT_S:
            raise DaskFailed(
                f"scheduler {self.address}: {len(self._in_flight)} chunks in flight, and no result or "
                f"heartbeat for {SILENT_S:.0f} s"
            )

    def _send(self, client: distributed.Client) -> None:
        if not self._submitted:
            return
        chunks, self._submitted = self._submitted, []
        keys = [f"{self._run.name}-{self._sent + n}" for n in range(len(chunks))]
        self._sent += len(chunks)
        futures = client.map(partial(attempt, self._run, self._work), chunks, key=keys, pure=False)
        for key, chunk, future in zip(keys, chunks, futures, strict=True):
            self._in_flight[key] = chunk, future
            future.add_done_callback(self._ended.put)
        self._sign = time.monotonic()

    def _take_ended(self) -> Iterator[distributed.Future]:
        with suppress(queue.Empty):
            yield self._ended.get(timeout=LOOK_S)
            while True:
                yield self._ended.get_nowait()

    def _failed(self, future: distributed.Future) -> AttemptEnd:
        """Return the end of an attempt that Dask gave up, because each worker that tried it died.

        Raises DaskFailed if the connection was lost, and WorkerError for an error of the Dask worker itself.
        """
        if future.status != "error":
            raise DaskFailed(f"scheduler {self.address}: the connection was lost")
        error = future.exception()
        if not isinstance(error, KilledWorker):
            raise WorkerError(f"a Dask worker failed: {typed_message(error)}")
        chunk, _ = self._in_flight.pop(future.key)
        return AttemptEnd(chunk, died=error.allowed_failures + 1, how="a Dask worker died")

    def _gathered(self, client: distributed.Client, futures: list[distributed.Future]) -> list[AttemptEnd]:
        """Fetch the results of finished attempts. Raises WorkerError for an error of a child process."""
        if not futures:
            return []
        try:
            attempts: list[Attempt] = client.sync(client.gather, futures, callback_timeout=CONNECT_S)
        except TimeoutError:
            for future in futures:
                self._ended.put(future)
            return []
        self._sign = time.monotonic()
        return [self._outcome(future.key, attempt) for future, attempt in zip(futures, attempts, strict=True)]

    def _outcome(self, key: str, ended: Attempt) -> AttemptEnd:
        if ended.error:
            raise WorkerError(ended.error)
        chunk, _ = self._in_flight.pop(key)
        if not ended.died:
            return AttemptEnd(chunk, pickle.loads(ended.result))
        if ended.opened:
            return AttemptEnd(chunk, died=1, how=ended.died)
        self._submitted.append(chunk)
        return AttemptEnd(None, died=1, how=ended.died)

    @contextmanager
    def _connected(self) -> Iterator[distributed.Client]:
        """Yield the client; turn connection errors in the ``with`` block into DaskFailed."""
        assert self._client
        try:
            yield self._client
        except (OSError, CancelledError, ClosedClientError) as error:
            raise DaskFailed(
                f"scheduler {self.address}: {message_of(error) or 'the connection was lost'}"
            ) from error


def _connect(address: str) -> distributed.Client:
    """Return a client of a scheduler. Silences Dask's logs, because the command reports the errors."""
    for name in ("distributed", "distributed.client", "tornado.application", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with dask.config.set({"distributed.comm.timeouts.connect": CONNECT_S}):
            return distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise DaskFailed(
            f"scheduler {address}: {message_of(error)}; expected --dask_client_address with the "
            "tcp://HOST:PORT of a running scheduler"
        ) from error
