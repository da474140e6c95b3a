"""Leased messages of several subscriptions, from pull to acknowledgement.

One thread per subscription pulls while fewer messages than the limit are leased. Another thread extends the
leases of all messages. Only messages that the caller reports as done are acknowledged. After a ``kill -9``,
all other messages are redelivered when their leases expire.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from .subscription import Received, Subscription, SubscriptionError, SubscriptionRefused

PULL_MESSAGES = 100
"""Maximum messages of one pull. If they are large, a pull returns fewer: 10 MB at most from the emulator."""
PULL_WAIT_S = 10.0
HEARTBEAT_S = 5.0
MOST_MESSAGES, MOST_BYTES = 1_000, 64 << 20
"""Number and total bytes of a subscription's leased messages at which pulling pauses."""
LONGEST_PAUSE_S, EMPTY_PAUSE_S = 30.0, 0.5
AWAY_S = 20.0
"""How long a subscription is sent no nacks after a failed nack. Its leases then expire instead."""
JOIN_S = 2.0
logger = logging.getLogger(__name__)


Region = tuple[str, int]


class Limits(NamedTuple):
    """Which messages may be taken: `Leased.rank` is below ``ranks``, `Leased.weight` at most ``heaviest``."""

    ranks: int
    heaviest: float = math.inf

    def allow(self, leased: Leased) -> bool:
        return leased.rank < self.ranks and leased.weight <= self.heaviest


@dataclass(eq=False)
class Leased:
    """A leased message.

    Attributes:
        rank: index of the message's subscription, 0 for the most urgent.
        region: the message's table, and a number for the place in the volume. Messages of the same region, or
            of regions with close numbers, are best processed together. Messages of different tables are never
            processed together, because one table's store or graph may hang.
        weight: number of ids, an estimate of the work.
        since: `time.monotonic` at which the message was received.
    """

    key: str
    rank: int
    message: Received
    region: Region = ("", 0)
    weight: int = 1
    since: float = field(default_factory=time.monotonic)


class Intake:
    """Pulls and leases messages of subscriptions.

    Args:
        subscriptions: from the most to the least urgent.
        judge: returns a message's region and weight, see `Leased`; must not raise.
        wake: called, in any thread, when there are new messages to `take`, and when ``failure`` was set
            because a subscription cannot be read or a thread failed.
    """

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        judge: Callable[[Received], tuple[Region, int]],
        wake: Callable[[], object],
    ) -> None:
        self.subscriptions, self.judge, self.wake = list(subscriptions), judge, wake
        self.failure: Exception | None = None
        self._leased: dict[str, Leased] = {}
        self._waiting: dict[str, Leased] = {}
        self._away_until: dict[str, float] = {}
        self._changed = threading.Condition()
        self._stopping, self._closed = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start pulling."""
        for rank, subscription in enumerate(self.subscriptions):
            self._run(self._pull, rank, subscription)
        self._run(self._extend_leases)

    def take(self, most: int, weight: int, limits: Limits) -> list[Leased]:
        """Take about ``most`` waiting messages within ``limits``, of one subscription and one table.

        The messages are of the most urgent subscription that has any within the limits. They begin with the
        region of the oldest message and continue with the following regions. There may be more than ``most``
        messages, to complete the last region. The total weight is at most ``weight``, except that a heavier
        message may be taken alone.
        """
        with self._changed:
            allowed = [leased for leased in self._waiting.values() if limits.allow(leased)]
            if not allowed:
                return []
            urgent = min(leased.rank for leased in allowed)
            waiting = [leased for leased in allowed if leased.rank == urgent]
            first, taken = waiting[0].region, list[Leased]()
            waiting = [leased for leased in waiting if leased.region[0] == first[0]]
            for leased in sorted(waiting, key=lambda leased: (leased.region < first, leased.region)):
                weight -= leased.weight
                if taken and (weight < 0 or (len(taken) >= most and leased.region != taken[-1].region)):
                    break
                taken.append(self._waiting.pop(leased.key))
            return taken

    def waiting(self, limits: Limits) -> tuple[int, float]:
        """Return a tuple: the number of waiting messages within the limits; when the first was received.

        A message waits until it is taken. The time is by `time.monotonic`; 0 if no such message waits.
        """
        with self._changed:
            since = [leased.since for leased in self._waiting.values() if limits.allow(leased)]
        return len(since), min(since, default=0.0)

    def backlog(self) -> tuple[int, float | None]:
        """Return a tuple: the number of leased messages; when the oldest of these was published.

        The time is in seconds since 1970; None without messages.
        """
        with self._changed:
            published = [leased.message.published for leased in self._leased.values()]
        return len(published), min(published, default=None)

    def acknowledge(self, messages: Iterable[Leased]) -> None:
        """Acknowledge messages that are done. A failure is logged, and the messages are redelivered."""
        for subscription, ack_ids in self._released(messages):
            try:
                subscription.acknowledge(ack_ids)
            except SubscriptionError as error:
                logger.warning("%s; the messages will be redelivered", error)

    def nack(self, messages: Iterable[Leased], seconds: int = 0) -> None:
        """Release messages, to be redelivered after ``seconds``, at most 600.

        A failure is logged, and the messages are redelivered when their leases expire.
        """
        for subscription, ack_ids in self._released(messages):
            if time.monotonic() < self._away_until.get(subscription.path, 0.0):
                continue
            try:
                subscription.lease(ack_ids, seconds)
            except SubscriptionError as error:
                self._away_until[subscription.path] = time.monotonic() + AWAY_S
                logger.warning("%s; the messages will be redelivered when their leases expire", error)

    def stop(self) -> None:
        """Stop pulling, and nack the messages that are not yet taken."""
        self._stopping.set()
        with self._changed:
            waiting = list(self._waiting.values())
            self._waiting.clear()
            self._changed.notify_all()
        self.nack(waiting)

    def close(self) -> None:
        """Nack all messages, and close the connections."""
        self.stop()
        with self._changed:
            left = list(self._leased.values())
        self.nack(left)
        self._closed.set()
        for subscription in self.subscriptions:
            subscription.close()
        for thread in self._threads:
            thread.join(JOIN_S)

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        def guarded() -> None:
            try:
                work(*arguments)
            except Exception as error:  # without this thread, messages would wait for ever
                if not self._stopping.is_set():
                    self.failure = error
                    self.wake()

        thread = threading.Thread(target=guarded, name=work.__name__, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _pull(self, rank: int, subscription: Subscription) -> None:
        pause, reached = 1.0, False
        while self._has_room(rank):
            start = time.monotonic()
            try:
                received = subscription.pull(PULL_MESSAGES, PULL_WAIT_S)
            except SubscriptionError as error:
                if self._stopping.is_set():
                    return
                if isinstance(error, SubscriptionRefused) and not reached:
                    raise  # its name is wrong
                logger.warning("%s", error)
                self._stopping.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            pause, reached = 1.0, True
            for message in received:
                self._add(rank, subscription, message)
            if not received and time.monotonic() - start < EMPTY_PAUSE_S:
                self._stopping.wait(EMPTY_PAUSE_S)

    def _has_room(self, rank: int) -> bool:
        """Wait until a subscription may lease more messages; return False after `stop`."""

        def has_room() -> bool:
            sizes = [len(leased.message.data) for leased in self._leased.values() if leased.rank == rank]
            return len(sizes) < MOST_MESSAGES and sum(sizes) < MOST_BYTES

        with self._changed:
            self._changed.wait_for(lambda: self._stopping.is_set() or has_room())
        return not self._stopping.is_set()

    def _add(self, rank: int, subscription: Subscription, message: Received) -> None:
        _, project, _, name = subscription.path.split("/")
        key = f"{project}/{name}/{message.message_id}"  # Pub/Sub's message ids are unique within a topic only
        region, weight = self.judge(message)
        with self._changed:
            if not self._stopping.is_set():
                if key in self._leased:  # redelivered: only the newer lease is valid
                    self._leased[key].message = self._leased[key].message._replace(ack_id=message.ack_id)
                else:
                    self._leased[key] = self._waiting[key] = Leased(key, rank, message, region, weight)
                    self.wake()
                return
        with suppress(SubscriptionError):
            subscription.lease([message.ack_id], 0)

    def _extend_leases(self) -> None:
        while not self._closed.wait(HEARTBEAT_S):
            with self._changed:
                all_leased = list(self._leased.values())
            for rank, subscription in enumerate(self.subscriptions):
                try:
                    subscription.lease([one.message.ack_id for one in all_leased if one.rank == rank])
                except SubscriptionError as error:
                    logger.warning("%s", error)

    def _released(self, messages: Iterable[Leased]) -> list[tuple[Subscription, list[str]]]:
        """Forget messages, and return pairs (subscription, current ack ids of its messages)."""
        ack_ids: dict[int, list[str]] = {}
        with self._changed:
            for leased in messages:
                if self._leased.pop(leased.key, None):
                    self._waiting.pop(leased.key, None)
                    ack_ids.setdefault(leased.rank, []).append(leased.message.ack_id)
            self._changed.notify_all()
        return [(self.subscriptions[rank], ids) for rank, ids in ack_ids.items()]
