"""The updater on one machine: worker processes apply the messages of subscriptions, until a signal.

The supervisor leases messages, and passes small batches to the workers. It acknowledges a message when the
message's rows or its dead letter are durable. It nacks a message that failed with a transient error. The
delay before its redelivery grows exponentially.
"""

from __future__ import annotations

import functools
import logging
import math
import queue
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from .. import kernel
from ..core.errors import L2FeaturesError
from ..messages.decoding import BadMessage, Reason, decode
from ..messages.outcomes import Fate, Outcome, Verdict
from ..messages.parts import Delivery
from ..pubsub.dead_letters import DeadLetters, open_dead_letters
from ..pubsub.intake import Intake, Leased, Limits, Region
from ..pubsub.letter import dead_letter
from ..pubsub.subscription import Received, Subscription
from ..store.bigtable import decoded
from ..updates.apply import MessageResult, apply_batch
from ..updates.backoff import Backoff
from ..updates.recorder import Flusher, open_recorder
from ..updates.updater import Update, Updater
from .processes import STOP_SIGNALS, handled
from .worker import Worker, WorkerDied, close_all, report_progress

BATCH_WAIT_S = 0.2
"""Seconds that the first message of a batch waits for further messages."""
BATCH_MESSAGES, BATCH_IDS = 100, 500
BATCH_TIMEOUT_S = 3_600.0
"""Seconds without progress in a batch after which its worker is killed."""
MAX_DEATHS = 5
"""A message becomes a dead letter after this number of workers died while processing only this message."""
LONGEST_PAUSE_S = 60.0
"""Maximum pause in seconds before a worker that died before it was ready is replaced."""
FLUSH_S, LOG_S, FINISH_S = 1.0, 60.0, 30.0
REGION_BITS = 32
"""A `Region` omits this number of low bits of a message's first id. Nearby chunks mostly share a region."""
logger = logging.getLogger(__name__)


class Supervisor:
    """Runs the updater with ``n_workers`` processes.

    An id that stays missing from the graph becomes a dead letter after ``attempts`` attempts. ``ready_file``
    is created when the first worker is ready.
    """

    def __init__(
        self,
        update: Update,
        dead_letters: str,
        subscriptions: Sequence[Subscription],
        n_workers: int,
        attempts: int,
        ready_file: Path | None = None,
    ) -> None:
        self.update, self.dead_letters = update, dead_letters
        self.n_workers, self.backoff = n_workers, Backoff(attempts)
        self._events: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put is safe in signal handlers
        self.intake = Intake(subscriptions, judge, self._wake)
        self.workers: list[Worker] = []
        self.retries: list[list[Leased]] = []
        self.totals: Counter[str] = Counter()
        self.recorder = open_recorder(update.datasets)
        self.stopped, self.ready_file = False, ready_file
        self._early_deaths, self._start_at = 0, 0.0
        self._flushed = self._logged = time.monotonic()
        self._unlogged = False

    def run(self) -> None:
        """Work until one of `STOP_SIGNALS`; then finish the batches in progress.

        Raises KeyboardInterrupt after a second signal, and SubscriptionRefused for a subscription that is
        missing or denies access.
        """
        flusher = Flusher(self.recorder)
        if self.ready_file:
            self.ready_file.unlink(missing_ok=True)
        with handled(self._stop, *STOP_SIGNALS):
            try:
                self.intake.start()
                while not self.stopped or self._busy():
                    self._serve()
                    self._report(flusher)
                    if self.intake.failure:
                        raise self.intake.failure
            finally:
                self.intake.stop()
                close_all(self.workers)
                self.intake.close()
                self._report(flusher, final=True)

    def _stop(self, *_: Any) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        self._wake()

    def _wake(self) -> None:
        self._events.put(None)

    def _busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.work]

    def _idle(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.ready and worker.future is None]

    def _report(self, flusher: Flusher, final: bool = False) -> None:
        """Each second, record tables' freshness; each minute, log changed totals; if ``final``, both now."""
        now = time.monotonic()
        if now < self._flushed + FLUSH_S and not final:
            return
        self._flushed, backlog = now, self.intake.backlog()
        self.recorder.backlog(*backlog)
        if final:
            flusher.finish(FINISH_S)
            self.recorder.close()
        else:
            flusher.wake()
        if self._unlogged and (final or now > self._logged + LOG_S):
            self._unlogged, self._logged = False, now
            done, dead = (self.totals[f"messages_{verdict}"] for verdict in (Verdict.DONE, Verdict.DEAD))
            fates = (Fate.WRITTEN, Fate.EMPTY, Fate.PRESENT)
            ids = ", ".join(f"{self.totals[f'ids_{fate}']} {fate}" for fate in fates)
            logger.info(
                "since start: %d messages done, %d refused; ids: %s; leased=%d", done, dead, ids, backlog[0]
            )

    def _serve(self) -> None:
        """Wait for messages and workers, and handle their events."""
        while not self.stopped and time.monotonic() >= self._start_at and len(self.workers) < self.n_workers:
            self.workers.append(Worker(self._wake))
            self.workers[-1].schedule(_open, self.update, self.dead_letters)
        with suppress(queue.Empty):
            self._events.get(timeout=self._timeout())
            while True:
                self._events.get_nowait()
        for worker in [worker for worker in self.workers if worker.is_over]:
            self._finish(worker)
        for worker in self.workers:
            worker.end_overdue(BATCH_TIMEOUT_S)
        if self.stopped:
            self.intake.stop()
            for batch in self.retries:
                self.intake.nack(batch)
            self.retries = []
        else:
            self._give()

    def _timeout(self) -> float:
        count, since = self.intake.waiting(self._limits())
        return max(0.01, since + BATCH_WAIT_S - time.monotonic()) if count and self._idle() else 1.0

    def _limits(self) -> Limits:
        """Return which messages the next batch may have.

        If there are several workers, one is always reserved for the first subscription. One is also reserved
        for messages of at most `BATCH_IDS` ids; it may be the same worker.
        """
        batches, most = [worker.work for worker in self._busy()], max(1, self.n_workers - 1)
        lesser = sum(any(leased.rank for leased in batch) for batch in batches)
        heavy = sum(any(leased.weight > BATCH_IDS for leased in batch) for batch in batches)
        return Limits(
            len(self.intake.subscriptions) if lesser < most else 1, math.inf if heavy < most else BATCH_IDS
        )

    def _give(self) -> None:
        """Assign idle workers equal shares of the waiting messages."""
        count, _ = self.intake.waiting(Limits(len(self.intake.subscriptions)))
        share = min(BATCH_MESSAGES, -(-count // self.n_workers))
        for worker in self._idle():
            batch = self._next_batch(share)
            if not batch:
                return
            deliveries = list(map(self.backoff.delivery, batch))
            worker.schedule(_apply, self.update, self.dead_letters, deliveries, work=batch)

    def _next_batch(self, share: int) -> list[Leased]:
        """Return up to ``share`` waiting messages, or half of a failed batch.

        Messages of earlier subscriptions come first. In a subscription, halves of failed batches come first.
        """
        limits = self._limits()
        allowed = [batch for batch in self.retries if all(map(limits.allow, batch))]
        retry = min(allowed, key=lambda batch: batch[0].rank, default=None)
        if retry:
            limits = limits._replace(ranks=retry[0].rank)  # more urgent messages go first
            if not self.intake.waiting(limits)[0]:
                self.retries.remove(retry)
                return retry
        count, since = self.intake.waiting(limits)
        enough = count >= BATCH_MESSAGES * self.n_workers
        if not count or (not enough and time.monotonic() < since + BATCH_WAIT_S):
            return []
        return self.intake.take(share, BATCH_IDS, limits)

    def _finish(self, worker: Worker) -> None:
        """Handle a worker whose task has ended, or whose process has died."""
        batch, worker.work, was_ready = worker.work or [], None, worker.ready
        try:
            results, error = worker.result()
        except WorkerDied as death:
            self.workers.remove(worker)
            worker.close()
            if not was_ready:
                self._early_deaths += 1
                self._start_at = time.monotonic() + min(2.0**self._early_deaths, LONGEST_PAUSE_S)
            self._failed(batch, str(death) if was_ready else f"{death} before it was ready", died=True)
            return
        if error:
            self._failed(batch, error, died=False)
        elif not was_ready:
            if not self._early_deaths:
                logger.info("worker is ready: pid=%s", worker.pid)
            if self.ready_file:
                self.ready_file.touch()
            self._early_deaths = 0
        else:
            self._settle(batch, results)

    def _settle(self, batch: Sequence[Leased], results: Sequence[MessageResult]) -> None:
        """Acknowledge each message whose rows or dead letter are durable; nack the batch's other messages."""
        by_key, done = {result.key: result for result in results}, []
        for leased in batch:
            result = by_key[leased.key]
            if result.verdict == Verdict.RETRY:
                self._retry_later(leased)
                continue
            done.append(leased)
            self.backoff.forget(leased)
            self.totals += result.counters()
            self._unlogged = True
            self.recorder.applied(result.datasets, result.published, result.operation_id)
            if result.verdict == Verdict.DEAD:
                self.recorder.refused(result.datasets, result.reasons)
        self.intake.acknowledge(done)

    def _failed(self, batch: Sequence[Leased], why: str, died: bool) -> None:
        """Retry each half of a failed batch.

        If the batch is a single message, it is nacked for a later retry. However, if the message has killed
        `MAX_DEATHS` workers, or has failed for too long (`backoff.GIVE_UP_S`), it becomes a dead letter.
        """
        logger.warning("%s%s", f"{len(batch)} messages: " if batch else "", why)
        if len(batch) > 1:
            self.retries += [list(batch[: len(batch) // 2]), list(batch[len(batch) // 2 :])]
        for leased in batch if len(batch) == 1 else ():
            deaths = self.backoff.died(leased) if died else 0
            if deaths >= MAX_DEATHS:
                why = f"{why}, {deaths} times"
            elif not self.backoff.delivery(leased).overdue:
                self._retry_later(leased, why)
                continue
            if not self._refuse(leased, why):
                self._retry_later(leased, why)

    def _refuse(self, leased: Leased, why: str) -> bool:
        """Write a dead letter for a message that no worker can process; return whether this succeeded."""
        letter = dead_letter(self.backoff.delivery(leased), [Outcome.refused(Reason.STILL_FAILED, why)])
        try:
            with closing(open_dead_letters(self.dead_letters)) as letters:
                letters.put(letter)
        except L2FeaturesError as error:
            logger.error("%s", error)
            return False
        logger.error("message %s: refused: %s", leased.key, why)
        self.totals[f"messages_{Verdict.DEAD}"] += 1
        self.recorder.refused((), [Reason.STILL_FAILED])
        self._unlogged = True
        self.intake.acknowledge([leased])
        return True

    def _retry_later(self, leased: Leased, why: str = "") -> None:
        if why:
            logger.warning("message %s: %s; it will be redelivered", leased.key, why)
        self.intake.nack([leased], self.backoff.pause(leased))


def judge(message: Received) -> tuple[Region, int]:
    """Return a message's region (table id, high bits of the first id), and its number of ids, at least 1."""
    try:
        request = decode(message.data, message.attributes)
    except BadMessage:
        return ("", 0), 1
    ids = request.ids
    return (request.table_id, int(ids[0]) >> REGION_BITS if len(ids) else 0), max(1, len(ids))


# ------------------------------------------------------------------ in the worker process
@functools.cache
def _opened(update: Update, dead_letters: str) -> tuple[Updater, DeadLetters]:
    return update.open(), open_dead_letters(dead_letters)


def _open(update: Update, dead_letters: str) -> None:
    """Load compiled code; open the updater and the store of dead letters once, for all later batches."""
    kernel.warm_up()
    decoded.warm_up()
    _opened(update, dead_letters)


def _apply(update: Update, dead_letters: str, deliveries: Sequence[Delivery]) -> list[MessageResult]:
    updater, letters = _opened(update, dead_letters)
    return apply_batch(updater, deliveries, letters, report_progress)
