"""How often messages are tried that may succeed later, and when they are given up.

Pub/Sub brings a message again that is let go, but does not say how often it came; so that is remembered here,
for as long as the process lives. After a restart messages are tried a few times more.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from cachetools import LRUCache

from ..messages.parts import Delivery
from ..pubsub.intake import Held

FIRST_PAUSE_S, LONGEST_PAUSE_S = 2, 600
"""When a message comes again that may succeed later; the longest that Pub/Sub takes."""
GIVE_UP_S = 86_400.0
"""A message as old as this that has failed here for as long is a dead letter; Pub/Sub keeps it for a week."""
REMEMBERED = 100_000


@dataclass
class _Tried:
    attempts: int = 0
    deaths: int = 0
    failed: float | None = None
    """When it first failed, on the clock of ``time.monotonic``."""


class Patience:
    """``attempts`` is how often ids are asked for that the graph does not know, before they are refused."""

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts
        self._tried: LRUCache[str, _Tried] = LRUCache(REMEMBERED)

    def delivery(self, held: Held) -> Delivery:
        """The message, to be tried once more."""
        message, tried = held.message, self._of(held)
        attempts, last = tried.attempts, tried.attempts + 1 >= self.attempts
        long = tried.failed is not None and tried.failed < time.monotonic() - GIVE_UP_S
        overdue = last and long and 0 < message.published < time.time() - GIVE_UP_S
        return Delivery(
            held.key, message.data, message.attributes, attempts, last, overdue, message.published
        )

    def pause(self, held: Held) -> int:
        """It was tried and may succeed later; after how many seconds: twice as many each time, about."""
        tried = self._failed(held)
        pause = min(FIRST_PAUSE_S * 2 ** min(tried.attempts, 20), LONGEST_PAUSE_S)
        tried.attempts += 1
        return max(1, round(pause * random.uniform(0.7, 1.0)))

    def died(self, held: Held) -> int:
        """A worker died at it, by itself; how often that was."""
        tried = self._failed(held)
        tried.deaths += 1
        return tried.deaths

    def forget(self, held: Held) -> None:
        """It is settled."""
        self._tried.pop(held.key, None)

    def _failed(self, held: Held) -> _Tried:
        tried = self._of(held)
        tried.failed = time.monotonic() if tried.failed is None else tried.failed
        return tried

    def _of(self, held: Held) -> _Tried:
        return self._tried.setdefault(held.key, _Tried(held.message.attempts))
