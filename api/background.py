"""Slow reads in background threads: `Opener` reads a value once, `BackgroundCache` again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Generic, TypeVar

from l2features.core.errors import StoreError
from l2features.core.futures import in_background

FAILURE_KEPT_S, PATIENCE_S = 2.0, 30.0
"""Time until a failed attempt is repeated, and until another attempt starts beside an attempt that hangs."""
T = TypeVar("T")


class Opener(Generic[T]):
    """Calls ``open_`` once, in a background thread, on first use, and keeps its result.

    After a failure, the next attempt starts on the first use after `FAILURE_KEPT_S`. If an attempt hangs,
    further attempts start beside it, with exponential backoff. ``on_failure`` receives the reason of each
    failure.
    """

    def __init__(self, open_: Callable[[], T], on_failure: Callable[[str], None]) -> None:
        self._open, self._on_failure = open_, on_failure
        self._lock = threading.Lock()
        self._opened: Future[T] | None = None
        self._found: tuple[T] | None = None
        self._begun_at = self._failed_at = 0.0
        self._patience_s = PATIENCE_S

    def opening(self) -> Future[T]:
        """Return the future of the latest attempt to open; starts an attempt if one is due."""
        with self._lock:
            now = time.monotonic()
            if self._opened is None or (self._failed() and now > self._failed_at + FAILURE_KEPT_S):
                self._opened = self._begin(now)
            elif not self._opened.done() and now > self._begun_at + self._patience_s:
                self._on_failure(f"no answer in {self._patience_s:g} s")
                self._patience_s *= 2
                self._opened = self._begin(now)
            return self._opened

    def result(self, timeout_s: float) -> T:
        """Return the result of ``open_``; wait for it if an attempt is running.

        Raises the error of ``open_``, or TimeoutError once the attempt has run for ``timeout_s``.
        """
        if self._found is not None:
            return self._found[0]
        opening = self.opening()
        return opening.result(max(0.0, self._begun_at + timeout_s - time.monotonic()))

    def _begin(self, now: float) -> Future[T]:
        self._begun_at = now
        return in_background(self._attempt)

    def _failed(self) -> bool:
        return self._opened is not None and self._opened.done() and self._opened.exception() is not None

    def _attempt(self) -> T:
        try:
            self._found = (self._open(),)
            return self._found[0]
        except Exception as error:
            self._failed_at = time.monotonic()
            self._on_failure(str(error))
            raise


class BackgroundCache(Generic[T]):
    """Caches the result of ``read`` for ``age_s``; the first use after that starts a refresh in a thread.

    One refresh runs at a time. If a refresh takes t seconds, the next one starts at least ``share`` * t
    seconds after the start of this one. `get` waits up to ``first_s`` for the first value, and up to
    ``later_s`` for a newer value.
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
        """Start a refresh if one is due; return the future of the running refresh, or None."""
        with self._lock:
            if self._running is None and time.monotonic() >= self._again_at:
                self._running = in_background(self._begin)
            return self._running

    def peek(self) -> T | None:
        """Return the cached value without waiting; None before the first value is read.

        Starts a refresh if one is due.
        """
        self.refresh()
        return self._last

    def get(self) -> T | None:
        """Return the newest value; None before the first value. Waits briefly for a running refresh.

        If the refresh fails during the wait, raises the refresh's error. But if that is a StoreError and a
        value is cached, returns the cached value.
        """
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
