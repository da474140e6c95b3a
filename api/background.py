"""A stale-while-revalidate cache of one slow value."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Generic, TypeVar

from l2features.core.errors import StoreError
from l2features.core.futures import in_background

T = TypeVar("T")


class BackgroundCache(Generic[T]):
    """Cache ``read()`` for ``age_s``, and refresh it in the background when it is next requested.

    One refresh runs at a time, for at most 1/``share`` of the time. Callers wait ``first_s`` for the first
    value, and ``later_s`` for a newer one.
    """

    def __init__(
        self, read: Callable[[], T], *, age_s: float, share: float, first_s: float, later_s: float
    ) -> None:
        self._read, self._age_s, self._share = read, age_s, share
        self._first_s, self._later_s = first_s, later_s
        self._lock = threading.Lock()
        self._running: Future[T] | None = None
        self._again_at = 0.0
        self._last: T | None = None

    def refresh(self) -> Future[T] | None:
        """Start a refresh if one is due; return the running one, if any."""
        with self._lock:
            if self._running is None and time.monotonic() >= self._again_at:
                self._running = in_background(self._begin)
            return self._running

    def get(self) -> T | None:
        """Return the newest value, None before the first. Raises StoreError where the first read did."""
        running = self.refresh()
        wait_s = self._first_s if self._last is None else self._later_s
        if running is not None and wait_s:
            try:
                running.result(wait_s)
            except FutureTimeout:
                return self._last
            except StoreError:
                if self._last is None:
                    raise
        return self._last

    def _begin(self) -> T:
        start = time.monotonic()
        try:
            self._last = self._read()
            return self._last
        finally:
            took = time.monotonic() - start
            with self._lock:
                self._again_at = start + max(self._age_s, self._share * took)
                self._running = None
