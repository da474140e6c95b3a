"""The worker processes of the updater: started, given batches, and replaced where they end."""

from __future__ import annotations

import logging
import socket
import struct
import time
from collections.abc import Iterable, Sequence

from l2features.messages.parts import Delivery
from l2features.pubsub.intake import Held

from . import stream_worker
from .processes import WorkerProcess, end_all
from .stream_worker import Setup
from .update_transforms import MessageResult

BATCH_TIMEOUT_S = 3_600.0
"""A batch without progress for so long hangs, say in a server that takes a request and never answers."""
SEND_TIMEOUT_S = 10
"""A worker that does not read what it is given for so long has stopped."""
LONGEST_PAUSE_S = 60.0
logger = logging.getLogger(__name__)


class Worker(WorkerProcess):
    """A process that works on one batch of messages at a time, and what it has told of it so far."""

    ready = False
    batch: Sequence[Held] = ()
    since = 0.0
    """When it was given the batch, or last told of progress, on the clock of ``time.monotonic``."""
    overdue = False
    ended = False

    def __init__(self) -> None:
        super().__init__(stream_worker.__name__)
        self.results: dict[str, MessageResult] = {}
        with socket.fromfd(self.pipe.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))

    def send(self, what: Setup | Sequence[Delivery]) -> None:
        """One that is dead already is found when it is waited for; so is one that does not listen."""
        try:
            self.pipe.send(what)
        except ConnectionError:
            pass
        except OSError:
            self.process.kill()


class Crew:
    """As many workers as there shall be."""

    def __init__(self, setup: Setup, size: int) -> None:
        self.setup, self.size = setup, size
        self.workers: list[Worker] = []
        self._early_deaths = 0
        self._start_at = 0.0

    def fill(self) -> None:
        """Replace workers that ended; for a while not, where one died before it was ready."""
        self.workers = [worker for worker in self.workers if not worker.ended]
        while time.monotonic() >= self._start_at and len(self.workers) < self.size:
            worker = Worker()
            self.workers.append(worker)
            worker.send(self.setup)

    def idle(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.ready and not worker.batch and not worker.ended]

    def busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.batch]

    def is_ready(self, worker: Worker) -> None:
        """A worker says that it can begin."""
        if not worker.ready and not self._early_deaths:
            logger.info("worker %d is ready", worker.process.pid)
        worker.ready, self._early_deaths = True, 0

    def give(self, worker: Worker, batch: Sequence[Held], deliveries: Iterable[Delivery]) -> None:
        worker.batch, worker.since, worker.results = batch, time.monotonic(), {}
        worker.send(list(deliveries))

    def end_overdue(self) -> None:
        """End workers whose batch makes no progress."""
        for worker in self.busy():
            if time.monotonic() - worker.since > BATCH_TIMEOUT_S:
                worker.overdue = True
                worker.process.kill()

    def bury(self, worker: Worker) -> str:
        """A worker died; gives how, in words."""
        how = f"a worker died ({worker.exit_reason()})"
        if worker.overdue:
            how = f"a worker was ended after {BATCH_TIMEOUT_S:.0f} s without progress"
        worker.ended = True
        worker.pipe.close()
        if worker.ready:
            return how
        self._early_deaths += 1
        self._start_at = time.monotonic() + min(2.0**self._early_deaths, LONGEST_PAUSE_S)
        return f"{how} before it could begin"

    def end(self) -> None:
        end_all(self.workers)
