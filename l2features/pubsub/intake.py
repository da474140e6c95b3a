"""What a process takes from Pub/Sub: messages of several subscriptions, held until they are settled.

A thread for each subscription pulls as long as there is room; another prolongs the leases of all messages
that are held. Nothing is acknowledged but what the caller says is done: whatever a process holds when it is
killed comes again when the leases end.
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
"""Most that are asked for at a time; of large ones fewer come, from the emulator 10 MB at most."""
PULL_WAIT_S = 10.0
HEARTBEAT_S = 5.0
MOST_MESSAGES, MOST_BYTES = 1_000, 64 << 20
"""How much of a subscription is held before no more is pulled of it."""
LONGEST_PAUSE_S, EMPTY_PAUSE_S = 30.0, 0.5
AWAY_S = 20.0
"""For how long nothing is let go of a subscription that did not answer, as leases end by themselves."""
JOIN_S = 2.0
logger = logging.getLogger(__name__)


Home = tuple[str, int]


class Limits(NamedTuple):
    """Of the first ``ranks`` subscriptions only, and no message that is heavier."""

    ranks: int
    heaviest: float = math.inf

    def allow(self, held: Held) -> bool:
        return held.rank < self.ranks and held.weight <= self.heaviest


@dataclass(eq=False)
class Held:
    """A message that is held.

    ``rank`` is the place of its subscription, 0 for the first; messages of the same ``home``, a table and a
    place, or of places that are near to each other, are best worked on together; those of different tables
    never are, as the store or the graph of one may hang. ``weight`` is how much work it is.
    """

    key: str
    rank: int
    message: Received
    home: Home = ("", 0)
    weight: int = 1
    since: float = field(default_factory=time.monotonic)


class Intake:
    """Messages of subscriptions, the most urgent first.

    ``judge`` gives the home and the weight of a message; it must not raise. ``wake`` is called, by any
    thread, when there is something new to `take`, or ``failure`` was set: a subscription that cannot be read,
    or an error of a thread, as nothing would come any more.
    """

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        judge: Callable[[Received], tuple[Home, int]],
        wake: Callable[[], object],
    ) -> None:
        self.subscriptions, self.judge, self.wake = list(subscriptions), judge, wake
        self.failure: Exception | None = None
        self._held: dict[str, Held] = {}
        self._waiting: dict[str, Held] = {}
        self._bytes = [0] * len(self.subscriptions)
        self._count = [0] * len(self.subscriptions)
        self._away_until: dict[str, float] = {}
        self._changed = threading.Condition()
        self._stopping, self._closed = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to pull."""
        for rank, subscription in enumerate(self.subscriptions):
            self._run(self._pull, rank, subscription)
        self._run(self._beat)

    def take(self, most: int, weight: int, limits: Limits) -> list[Held]:
        """About ``most`` waiting messages within limits, of one subscription and one table.

        They are of the most urgent subscription that has any; the one that waits longest is among them, and
        others of its home come first, then those of the homes after it, in order and around; a home is not
        divided. Together they do not weigh more than ``weight``, unless it is one.
        """
        with self._changed:
            allowed = [held for held in self._waiting.values() if limits.allow(held)]
            if not allowed:
                return []
            urgent = min(held.rank for held in allowed)
            waiting = [held for held in allowed if held.rank == urgent]
            first, taken = waiting[0].home, list[Held]()
            waiting = [held for held in waiting if held.home[0] == first[0]]
            for held in sorted(waiting, key=lambda held: (held.home < first, held.home)):
                weight -= held.weight
                if taken and (weight < 0 or (len(taken) >= most and held.home != taken[-1].home)):
                    break
                taken.append(self._waiting.pop(held.key))
            return taken

    def waiting(self, limits: Limits) -> tuple[int, float]:
        """How many messages within limits wait, and since when the first does."""
        with self._changed:
            since = [held.since for held in self._waiting.values() if limits.allow(held)]
        return len(since), min(since, default=0.0)

    def backlog(self) -> tuple[int, float | None]:
        """How many messages are held, and when the oldest of them was published (seconds since 1970)."""
        with self._changed:
            published = [held.message.published for held in self._held.values()]
        return len(published), min(published, default=None)

    def acknowledge(self, messages: Iterable[Held]) -> None:
        """Messages are done. One that cannot be acknowledged now comes again, which is logged."""
        for subscription, ack_ids in self._released(messages):
            try:
                subscription.acknowledge(ack_ids)
            except SubscriptionError as error:
                logger.warning("%s; the messages will come again", error)

    def let_go(self, messages: Iterable[Held], seconds: int = 0) -> None:
        """Messages are to come again after so long, at most 600 seconds."""
        for subscription, ack_ids in self._released(messages):
            if time.monotonic() < self._away_until.get(subscription.path, 0.0):
                continue
            try:
                subscription.hold(ack_ids, seconds)
            except SubscriptionError as error:
                self._away_until[subscription.path] = time.monotonic() + AWAY_S
                logger.warning("%s; the messages will come again when their leases end", error)

    def stop(self) -> None:
        """Pull no more, and let go of what waits."""
        self._stopping.set()
        with self._changed:
            waiting = list(self._waiting.values())
            self._waiting.clear()
            self._changed.notify_all()
        self.let_go(waiting)

    def close(self) -> None:
        """Let go of everything, and of the connections."""
        self.stop()
        with self._changed:
            left = list(self._held.values())
        self.let_go(left)
        self._closed.set()
        for subscription in self.subscriptions:
            subscription.close()
        for thread in self._threads:
            thread.join(JOIN_S)

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        def guarded() -> None:
            try:
                work(*arguments)
            except Exception as error:  # without this thread messages would be held, or wait, for ever
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
                if self._stopping.is_set() or self._is_fatal(error, reached):
                    return
                logger.warning("%s", error)
                self._stopping.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            pause, reached = 1.0, True
            for message in received:
                self._add(rank, subscription, message)
            if not received and time.monotonic() - start < EMPTY_PAUSE_S:
                self._stopping.wait(EMPTY_PAUSE_S)

    def _is_fatal(self, error: SubscriptionError, reached: bool) -> bool:
        """Whether a subscription is not there, and never was; then it is a mistake of the user's."""
        if isinstance(error, SubscriptionRefused) and not reached:
            self.failure = error
            self.wake()
        return self.failure is not None

    def _has_room(self, rank: int) -> bool:
        """Wait until more may be held; False when it is over."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._stopping.is_set()
                    or (self._count[rank] < MOST_MESSAGES and self._bytes[rank] < MOST_BYTES)
                )
            )
        return not self._stopping.is_set()

    def _add(self, rank: int, subscription: Subscription, message: Received) -> None:
        _, project, _, name = subscription.path.split("/")
        key = f"{project}/{name}/{message.message_id}"  # a number of Pub/Sub's is unique within a topic only
        home, weight = self.judge(message)
        with self._changed:
            if not self._stopping.is_set():
                if key in self._held:  # it came again while it is held: only the newer lease counts
                    self._held[key].message = self._held[key].message._replace(ack_id=message.ack_id)
                else:
                    self._held[key] = self._waiting[key] = Held(key, rank, message, home, weight)
                    self._account(rank, 1, len(message.data))
                    self.wake()
                return
        with suppress(SubscriptionError):
            subscription.hold([message.ack_id], 0)

    def _account(self, rank: int, messages: int, size: int) -> None:
        self._count[rank] += messages
        self._bytes[rank] += size

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT_S):
            with self._changed:
                held = list(self._held.values())
            for rank, subscription in enumerate(self.subscriptions):
                try:
                    subscription.hold([one.message.ack_id for one in held if one.rank == rank])
                except SubscriptionError as error:
                    logger.warning("%s", error)

    def _released(self, messages: Iterable[Held]) -> list[tuple[Subscription, list[str]]]:
        """Hold messages no longer; gives their present leases by subscription."""
        ack_ids: dict[int, list[str]] = {}
        with self._changed:
            for held in messages:
                if self._held.pop(held.key, None):
                    self._waiting.pop(held.key, None)
                    self._account(held.rank, -1, -len(held.message.data))
                    ack_ids.setdefault(held.rank, []).append(held.message.ack_id)
            self._changed.notify_all()
        return [(self.subscriptions[rank], ids) for rank, ids in ack_ids.items()]
