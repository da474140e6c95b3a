"""Attempts and exponential backoff of leased messages.

Pub/Sub redelivers a nacked message, but reports the number of deliveries only if the subscription counts
them. So the process counts attempts itself, starting at the reported number of earlier deliveries, or at 0. A
restart loses its counts, and messages may get a few more attempts.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from cachetools import LRUCache

from ..messages.parts import Delivery
from ..pubsub.intake import Leased

FIRST_PAUSE_S, LONGEST_PAUSE_S = 2, 600
"""First and longest pause before a redelivery, in seconds; Pub/Sub accepts at most 600 s."""
GIVE_UP_S = 86_400.0
"""Age of a failing message, and of its first failure here, at which it becomes a dead letter, in seconds."""
REMEMBERED = 100_000


@dataclass
class _Tried:
    attempts: int = 0
    deaths: int = 0
    failed: float | None = None
    """Time of the first failure, on the clock of ``time.monotonic``."""


class Backoff:
    """Counts attempts by message. Ids that are missing from the graph are tried ``attempts`` times."""

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts
        self._tried: LRUCache[str, _Tried] = LRUCache(REMEMBERED)

    def delivery(self, leased: Leased) -> Delivery:
        """Return a message as a `Delivery` for its next attempt."""
        message, tried = leased.message, self._of(leased)
        attempts, last = tried.attempts, tried.attempts + 1 >= self.attempts
        long = tried.failed is not None and tried.failed < time.monotonic() - GIVE_UP_S
        overdue = last and long and 0 < message.published < time.time() - GIVE_UP_S
        return Delivery(
            leased.key, message.data, message.attributes, attempts, last, overdue, message.published
        )

    def pause(self, leased: Leased) -> int:
        """Count a failed attempt, and return the seconds before the next one."""
        tried = self._failed(leased)
        pause = min(FIRST_PAUSE_S * 2 ** min(tried.attempts, 20), LONGEST_PAUSE_S)
        tried.attempts += 1
        return max(1, round(pause * random.uniform(0.7, 1.0)))

    def died(self, leased: Leased) -> int:
        """Count a worker that died while it processed only this message; return the number of such deaths."""
        tried = self._failed(leased)
        tried.deaths += 1
        return tried.deaths

    def forget(self, leased: Leased) -> None:
        """Forget the attempts at a settled message."""
        self._tried.pop(leased.key, None)

    def _failed(self, leased: Leased) -> _Tried:
        tried = self._of(leased)
        tried.failed = time.monotonic() if tried.failed is None else tried.failed
        return tried

    def _of(self, leased: Leased) -> _Tried:
        return self._tried.setdefault(leased.key, _Tried(leased.message.attempts))
