"""The updater on one machine: messages of Pub/Sub to rows, by worker processes, for as long as it runs.

This process holds the messages and gives small batches of them to the workers (`beam_jobs.stream_worker`).
A message is acknowledged when all that it asks for is durable, or it is a dead letter. One that may succeed
later is let go, for a time that doubles; Pub/Sub brings it again.
"""

from __future__ import annotations

import logging
import math
import multiprocessing.connection
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from l2features.core.errors import L2FeaturesError
from l2features.messages.decoding import BadMessage, Reason, decode
from l2features.messages.outcomes import Fate, Outcome, Verdict
from l2features.pubsub.dead_letters import dead_letter, open_dead_letters
from l2features.pubsub.intake import Held, Home, Intake, Limits
from l2features.pubsub.subscription import Received, Subscription
from l2features.updates.patience import Patience

from .crew import Crew, Worker
from .processes import handled
from .stream_worker import Setup
from .update_freshness import open_recorder
from .update_transforms import MessageResult
from .worker import END, ERROR, NEXT, PROGRESS, RESULT

BATCH_WAIT_S = 0.2
"""How long the first message of a batch waits for others."""
BATCH_MESSAGES, BATCH_IDS = 100, 500
MAX_DEATHS = 5
"""So many workers may die at one message by itself."""
FLUSH_S = 1.0
WORDS_S = 60.0
HOME_BITS = 32
"""Lower bits of an id: nodes that have the others in common are of one chunk, or not far from it."""
logger = logging.getLogger(__name__)


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
        self.setup, self.crew, self.patience = setup, Crew(setup, n_workers), Patience(attempts)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.intake = Intake(subscriptions, judge, lambda: os.eventfd_write(self._wake, 1))
        self.again: list[list[Held]] = []
        self.totals = Totals()
        self.recorder = open_recorder(setup.update)
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
                while not self.stopped or self.crew.busy():
                    self._serve()
                    if self.intake.failure:
                        raise self.intake.failure
            finally:
                self.intake.stop()
                self.crew.end()
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

    def _serve(self) -> None:
        """Wait for messages and for the workers; answer those that have something to say."""
        if not self.stopped:
            self.crew.fill()
        pipes = {worker.pipe: worker for worker in self.crew.workers if not worker.ended}
        for source in multiprocessing.connection.wait([*pipes, self._wake], self._timeout()):
            if source == self._wake:
                os.eventfd_read(self._wake)
                continue
            worker = pipes[source]  # type: ignore[index]
            try:
                said = worker.pipe.recv()
            except (EOFError, OSError):  # an OSError where it died in the middle of a word
                batch, worker.batch = worker.batch, ()
                self._failed(batch, self.crew.bury(worker), died=True)
            else:
                self._answer(worker, *said)
        if self.stopped:
            self.intake.stop()
            self._let_go_again()
        else:
            self._give()
        self.crew.end_overdue()

    def _timeout(self) -> float:
        count, since = self.intake.waiting(self._limits())
        return max(0.01, since + BATCH_WAIT_S - time.monotonic()) if count and self.crew.idle() else 1.0

    def _limits(self) -> Limits:
        """What may be taken: of several workers one is left to the first subscription, one to few ids."""
        batches, most = [worker.batch for worker in self.crew.busy()], max(1, self.crew.size - 1)
        lesser = sum(any(held.rank for held in batch) for batch in batches)
        heavy = sum(any(held.weight > BATCH_IDS for held in batch) for batch in batches)
        return Limits(
            len(self.intake.subscriptions) if lesser < most else 1, math.inf if heavy < most else BATCH_IDS
        )

    def _give(self) -> None:
        """Give batches to the workers that have none: equal shares, so that others find something too."""
        count, _ = self.intake.waiting(Limits(len(self.intake.subscriptions)))
        share = min(BATCH_MESSAGES, -(-count // self.crew.size))
        for worker in self.crew.idle():
            batch = self._next_batch(share)
            if not batch:
                return
            self.crew.give(worker, batch, map(self.patience.delivery, batch))

    def _next_batch(self, share: int) -> list[Held]:
        """Up to ``share`` messages of those that wait; of one subscription, halves of what failed first."""
        limits = self._limits()
        allowed = [batch for batch in self.again if all(map(limits.allow, batch))]
        again = min(allowed, key=lambda batch: batch[0].rank, default=None)
        if again:
            limits = limits._replace(ranks=again[0].rank)  # what is more urgent goes before it
            if not self.intake.waiting(limits)[0]:
                self.again.remove(again)
                return again
        count, since = self.intake.waiting(limits)
        enough = count >= BATCH_MESSAGES * self.crew.size
        if not count or (not enough and time.monotonic() < since + BATCH_WAIT_S):
            return []
        return self.intake.take(share, BATCH_IDS, limits)

    def _answer(self, worker: Worker, says: str, what: Any) -> None:
        if says == NEXT:
            self.crew.is_ready(worker)
        elif says == PROGRESS:
            worker.since = time.monotonic()
        elif says == RESULT:
            result = MessageResult(*what)
            worker.results[result.key] = result
        elif says == END:
            self._settle(worker)
        elif says == ERROR:
            batch, worker.batch = worker.batch, ()
            self._failed(batch, what, died=False)

    def _settle(self, worker: Worker) -> None:
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
                self.recorder.applied(result.datasets, result.published, result.operation_id)
        worker.batch = ()
        self.intake.acknowledge(done)

    def _failed(self, batch: Sequence[Held], why: str, died: bool) -> None:
        """A batch failed as a whole: each half is tried by itself; a single message is tried again later."""
        logger.warning("%s%s", f"{len(batch)} messages: " if batch else "", why)
        if len(batch) > 1:
            self.again += [list(batch[: len(batch) // 2]), list(batch[len(batch) // 2 :])]
        for held in batch if len(batch) == 1 else ():
            deaths = self.patience.died(held) if died else 0
            if deaths >= MAX_DEATHS:
                why = f"{why}, {deaths} times"
            elif not self.patience.delivery(held).overdue:
                self._later(held, why)
                continue
            if not self._bury_message(held, why):
                self._later(held, why)

    def _bury_message(self, held: Held, why: str) -> bool:
        """Make a dead letter of a message that no worker gets through; whether it could be kept."""
        letter = dead_letter(self.patience.delivery(held), [Outcome.refused(Reason.STILL_FAILED, why)])
        try:
            with closing(open_dead_letters(self.setup.dead_letters)) as letters:
                letters.put(letter)
        except L2FeaturesError as error:
            logger.error("%s", error)
            return False
        logger.error("message %s: refused: %s", held.key, why)
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


def judge(message: Received) -> tuple[Home, int]:
    """Where most of a message's nodes may be, and how many it names; 0 and 1 where it cannot be said."""
    try:
        request = decode(message.data, message.attributes)
    except BadMessage:
        return ("", 0), 1
    ids = request.ids
    return (request.table_id, int(ids[0]) >> HOME_BITS if len(ids) else 0), max(1, len(ids))
