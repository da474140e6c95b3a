"""How much a process works on at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ApiError


class Turn:
    """A request that was let in; `leave` may be called more than once."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._ids, self._left = gate, 0, False

    def take(self, ids: int) -> None:
        """Wait until so many ids more may be worked on. Raises ApiError 429 when that takes too long."""
        self._gate._take(ids)
        self._ids += ids

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Let others work on their ids meanwhile; raises as `take` at the end."""
        ids = self._ids
        self._gate._give_back(ids)
        self._ids = 0
        yield
        self.take(ids)

    def leave(self) -> None:
        if not self._left:
            self._left = True
            self._gate._leave(self._ids)


class Gate:
    """Lets in ``max_requests`` requests, which together work on ``max_ids`` ids.

    A request of more ids than that has its turn when it is alone.
    """

    def __init__(self, max_requests: int, max_ids: int, timeout_s: float, retry_after_s: int) -> None:
        self.max_requests, self.max_ids = max_requests, max_ids
        self.timeout_s, self.retry_after_s = timeout_s, retry_after_s
        self._requests = self._ids = 0
        self._changed = threading.Condition()

    def enter(self) -> Turn:
        """Raises ApiError 429, at once, where too many requests are in."""
        with self._changed:
            if self._requests >= self.max_requests:
                raise self._too_many("requests", self.max_requests)
            self._requests += 1
        return Turn(self)

    @contextmanager
    def entered(self) -> Iterator[Turn]:
        """`enter`, and leave at the end."""
        turn = self.enter()
        try:
            yield turn
        finally:
            turn.leave()

    def _take(self, ids: int) -> None:
        until = time.monotonic() + self.timeout_s
        with self._changed:
            while self._ids and self._ids + ids > self.max_ids:
                if not self._changed.wait(until - time.monotonic()):
                    raise self._too_many("ids", self.max_ids)
            self._ids += ids

    def _give_back(self, ids: int) -> None:
        with self._changed:
            self._ids -= ids
            self._changed.notify_all()

    def _leave(self, ids: int) -> None:
        with self._changed:
            self._requests -= 1
            self._ids -= ids
            self._changed.notify_all()

    def _too_many(self, what: str, limit: int) -> ApiError:
        message = f"this server works on {limit} {what} at the same time: try again later"
        return ApiError(429, f"too_many_{what}", message, limit=limit, retry_after=self.retry_after_s)
