"""The updater on one machine: messages of Pub/Sub to rows, by worker processes, for as long as it runs.

This process holds the messages and gives small batches of them to the workers (`beam_jobs.stream_worker`).
A message is acknowledged when all that it asks for is durable, or it is a dead letter. One that may succeed
later is let go, for a time that doubles; Pub/Sub brings it again.
"""

from __future__ import annotations

import logging
import multiprocessing.connection
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from l2features.deadletters import dead_letter, open_dead_letters
from l2features.errors import L2FeaturesError
from l2features.freshness import Recorder
from l2features.intake import Held, Intake
from l2features.messages import BadMessage, Reason, decode
from l2features.outcomes import Fate, Outcome, Verdict
from l2features.patience import Patience
from l2features.store import Store, open_store
from l2features.subscription import Received, Subscription
from l2features.update import Update

from . import stream_worker
from .processes import WorkerProcess, end_all, handled
from .stream_worker import Setup
from .update_transforms import MessageResult
from .worker import END, ERROR, NEXT, RESULT

BATCH_WAIT_S = 0.2
"""How long the first message of a batch waits for others."""
BATCH_MESSAGES, BATCH_IDS = 100, 500
BATCH_TIMEOUT_S = 3_600.0
"""A batch that takes longer hangs, say in a server that accepts a request and never answers."""
MAX_DEATHS = 5
"""So many workers may die at one message by itself."""
STORE_DEADLINE_S = 5.0
"""Of the figures that are kept with a table."""
FLUSH_S = 1.0
WORDS_S = 60.0
HOME_BITS = 32
"""Lower bits of an id: nodes that have the others in common are of one chunk, or not far from it."""
logger = logging.getLogger(__name__)


class _Worker(WorkerProcess):
    ready = False
    batch: Sequence[Held] = ()
    since = 0.0
    """When it was given the batch, on the clock of ``time.monotonic``."""
    overdue = False
    ended = False

    def __init__(self) -> None:
        super().__init__(stream_worker.__name__)
        self.results: dict[str, MessageResult] = {}


@dataclass
class Totals:
    """What was done since the start: messages by verdict, ids by fate."""

    messages: Counter[str] = field(default_factory=Counter)
    ids: Counter[str] = field(default_factory=Counter)

    def add(self, result: MessageResult) -> None:
        self.messages[result.verdict] += 1
        self.ids.update(result.counts)

    def words(self) -> str:
        ids = ", ".join(f"{self.ids[fate]} {fate}" for fate in (Fate.WRITTEN, Fate.EMPTY, Fate.PRESENT))
        done, dead = self.messages[Verdict.DONE], self.messages[Verdict.DEAD]
        return f"{done} messages done, {dead} refused; ids: {ids}"


class Supervisor:
    """Runs the updater with ``n_workers`` processes.

    ``attempts`` is how often ids are asked for that the graph does not know, before they are refused.
    """

    def __init__(
        self, setup: Setup, subscriptions: Sequence[Subscription], n_workers: int, attempts: int
    ) -> None:
        self.setup, self.n_workers, self.patience = setup, n_workers, Patience(attempts)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.intake = Intake(subscriptions, judge, lambda: os.eventfd_write(self._wake, 1))
        self.workers: list[_Worker] = []
        self.again: list[list[Held]] = []
        self.totals = Totals()
        self.recorder = open_recorder(setup.update)
        self.early_deaths = 0
        self.start_at = 0.0
        self.stopped = False
        self._ended = threading.Event()

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; then the batches that are being worked on are finished.

        A second signal ends it at once, by a KeyboardInterrupt. Raises SubscriptionRefused where there is no
        such subscription.
        """
        with handled(self._stop, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            flush = threading.Thread(target=self._flush, name="freshness", daemon=True)
            try:
                self.intake.start()
                flush.start()
                while not self.stopped or any(worker.batch for worker in self.workers):
                    self._start_workers()
                    self._serve()
                    if self.intake.failure:
                        raise self.intake.failure
            finally:
                self.intake.stop()
                end_all(self.workers)
                self.intake.close()
                self._ended.set()
                flush.join()

    def _stop(self, *_: Any) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        os.eventfd_write(self._wake, 1)

    def _flush(self) -> None:
        """Keep how fresh the tables are, and say now and then what was done."""
        words = self.totals.words()
        said = time.monotonic()
        while True:
            ended = self._ended.wait(FLUSH_S)
            self.recorder.backlog(*self.intake.backlog())
            self.recorder.flush(final=ended)
            if words != self.totals.words() and (ended or time.monotonic() > said + WORDS_S):
                words, said = self.totals.words(), time.monotonic()
                logger.info("%s; %d held", words, self.intake.backlog()[0])
            if ended:
                self.recorder.close()
                return

    def _start_workers(self) -> None:
        """Replace workers that ended; for a while not, where one died before it was ready."""
        self.workers = [worker for worker in self.workers if not worker.ended]
        if self.stopped or time.monotonic() < self.start_at:
            return
        while len(self.workers) < self.n_workers:
            worker = _Worker()
            self.workers.append(worker)
            with suppress(ConnectionError):  # one that is dead already is found when it is waited for
                worker.pipe.send(self.setup)

    def _serve(self) -> None:
        """Wait for messages and for the workers; answer those that have something to say."""
        pipes = {worker.pipe: worker for worker in self.workers}
        for source in multiprocessing.connection.wait([*pipes, self._wake], self._timeout()):
            if source == self._wake:
                os.eventfd_read(self._wake)
                continue
            worker = pipes[source]  # type: ignore[index]
            try:
                self._answer(worker, *worker.pipe.recv())
            except (EOFError, ConnectionError):
                self._bury(worker)
        if self.stopped:
            self.intake.stop()
            self._let_go_again()
        else:
            self._give()
        for worker in self.workers:
            if worker.batch and time.monotonic() - worker.since > BATCH_TIMEOUT_S:
                worker.overdue = True
                worker.process.kill()

    def _timeout(self) -> float:
        count, since = self.intake.waiting(len(self.intake.subscriptions))
        return max(0.01, since + BATCH_WAIT_S - time.monotonic()) if count and self._idle() else 1.0

    def _idle(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.ready and not worker.batch and not worker.ended]

    def _give(self) -> None:
        """Give batches to the workers that have none: equal shares, so that others find something too."""
        count, _ = self.intake.waiting(len(self.intake.subscriptions))
        share = min(BATCH_MESSAGES, -(-count // self.n_workers))
        for worker in self._idle():
            batch = self._next_batch(share)
            if not batch:
                return
            worker.batch, worker.since, worker.results = batch, time.monotonic(), {}
            with suppress(ConnectionError):
                worker.pipe.send([self.patience.delivery(held) for held in batch])

    def _next_batch(self, share: int) -> list[Held]:
        """What fails is tried by halves first; then up to ``share`` messages of those that wait.

        One worker is left to the first subscription, where there are several.
        """
        if self.again:
            return self.again.pop()
        busy = sum(any(held.rank for held in worker.batch) for worker in self.workers)
        ranks = len(self.intake.subscriptions) if busy < max(1, self.n_workers - 1) else 1
        count, since = self.intake.waiting(ranks)
        enough = count >= BATCH_MESSAGES * self.n_workers
        if not count or (not enough and time.monotonic() < since + BATCH_WAIT_S):
            return []
        return self.intake.take(share, BATCH_IDS, ranks)

    def _answer(self, worker: _Worker, says: str, what: Any) -> None:
        if says == NEXT:
            if not worker.ready and not self.early_deaths:
                logger.info("worker %d is ready", worker.process.pid)
            worker.ready, self.early_deaths = True, 0
        elif says == RESULT:
            result = MessageResult(*what)
            worker.results[result.key] = result
        elif says == END:
            self._settle(worker)
        elif says == ERROR:
            batch, worker.batch = worker.batch, ()
            self._failed(batch, what, died=False)

    def _settle(self, worker: _Worker) -> None:
        """All of a batch that is done or dead is durable."""
        done = []
        for held in worker.batch:
            result = worker.results.get(held.key)
            if result is None or result.verdict == Verdict.RETRY:
                self._later(held, "" if result else "nothing became of it")
            else:
                done.append(held)
                self.patience.forget(held)
                self.totals.add(result)
                if result.verdict == Verdict.DONE:
                    self.recorder.applied(result.datasets, result.published, result.operation_id)
        worker.batch = ()
        self.intake.acknowledge(done)

    def _bury(self, worker: _Worker) -> None:
        """A worker died."""
        how = f"a worker died ({worker.exit_reason()})"
        if worker.overdue:
            how = f"a worker was ended after {BATCH_TIMEOUT_S:.0f} s"
        worker.ended = True
        worker.pipe.close()
        if not worker.ready:
            self.early_deaths += 1
            self.start_at = time.monotonic() + min(2.0**self.early_deaths, 60.0)
            how += " before it could begin"
        batch, worker.batch = worker.batch, ()
        self._failed(batch, how, died=True)

    def _failed(self, batch: Sequence[Held], why: str, died: bool) -> None:
        """A batch failed as a whole: each half is tried by itself; a single message is tried again later."""
        logger.warning("%s%s", f"{len(batch)} messages: " if batch else "", why)
        if len(batch) > 1:
            self.again += [list(batch[: len(batch) // 2]), list(batch[len(batch) // 2 :])]
        for held in batch if len(batch) == 1 else ():
            deaths = self.patience.died(held) if died else 0
            if deaths < MAX_DEATHS or not self._bury_message(held, f"{why}, {deaths} times"):
                self._later(held, why)

    def _bury_message(self, held: Held, why: str) -> bool:
        """Make a dead letter of a message that kills its workers; whether it could be kept."""
        letter = dead_letter(self.patience.delivery(held), [Outcome.refused(Reason.STILL_FAILED, why)])
        try:
            letters = open_dead_letters(self.setup.dead_letters)
            letters.put(letter)
            letters.close()
        except L2FeaturesError as error:
            logger.error("%s", error)
            return False
        self.totals.messages[Verdict.DEAD] += 1
        self.intake.acknowledge([held])
        return True

    def _later(self, held: Held, why: str) -> None:
        """A message comes again after a pause."""
        if why:
            logger.warning("message %s: %s; it comes again", held.key, why)
        self.intake.let_go([held], self.patience.pause(held))

    def _let_go_again(self) -> None:
        for batch in self.again:
            self.intake.let_go(batch)
        self.again = []


def open_recorder(update: Update) -> Recorder:
    """What keeps with the tables of an update's data sets how fresh they are."""
    datasets = {dataset.name: dataset for dataset in update.datasets}

    def store_of(name: str) -> Store:
        return open_store(datasets[name].store, datasets[name].l2cache_id, STORE_DEADLINE_S)

    return Recorder(store_of, datasets)


def judge(message: Received) -> tuple[int, int]:
    """Where most of a message's nodes may be, and how many it names; (0, 1) where it cannot be said."""
    try:
        ids = decode(message.data, message.attributes).ids
    except BadMessage:
        return 0, 1
    return (int(ids[0]) >> HOME_BITS, len(ids)) if len(ids) else (0, 1)
