"""How much a process works on at the same time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ApiError


class Turn:
    """A request that was let in; `leave` may be called more than once."""

    def __init__(self, gate: Gate, dataset: str) -> None:
        self._gate, self._dataset, self._ids, self._left = gate, dataset, 0, False

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
            self._gate._leave(self._dataset, self._ids)


class Gate:
    """Lets in ``max_requests`` requests, ``share`` of one data set, which together work on ``max_ids`` ids.

    So a data set whose store hangs leaves room for the others. A request of more ids than ``max_ids`` has its
    turn when it is alone.
    """

    def __init__(
        self, max_requests: int, share: int, max_ids: int, timeout_s: float, retry_after_s: int
    ) -> None:
        self.max_requests, self.share, self.max_ids = max_requests, share, max_ids
        self.timeout_s, self.retry_after_s = timeout_s, retry_after_s
        self._ids = 0
        self._requests = Counter[str]()
        self._changed = threading.Condition()

    def enter(self, dataset: str) -> Turn:
        """Raises ApiError 429, at once, where too many requests are in."""
        with self._changed:
            if self._requests.total() >= self.max_requests or self._requests[dataset] >= self.share:
                raise self._too_many("requests", min(self.share, self.max_requests))
            self._requests[dataset] += 1
        return Turn(self, dataset)

    @contextmanager
    def entered(self, dataset: str) -> Iterator[Turn]:
        """`enter`, and leave at the end."""
        turn = self.enter(dataset)
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

    def _leave(self, dataset: str, ids: int) -> None:
        with self._changed:
            self._requests[dataset] -= 1
            self._ids -= ids
            self._changed.notify_all()

    def _too_many(self, what: str, limit: int) -> ApiError:
        message = f"this server works on {limit} {what} at the same time: try again later"
        return ApiError(429, f"too_many_{what}", message, limit=limit, retry_after=self.retry_after_s)
