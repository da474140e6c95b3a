"""Run functions in daemon threads, and merge equal calls of concurrent threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def in_background(function: Callable[[], T]) -> Future[T]:
    """Run a function in a daemon thread; return the future of its result."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:  # the future re-raises it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class Beside:
    """Runs calls concurrently with their callers, in up to ``most`` daemon threads. Thread-safe.

    A call for which no thread is free runs when its result is requested.
    """

    def __init__(self, most: int) -> None:
        self._free = threading.BoundedSemaphore(most)

    def start(self, call: Callable[[], T]) -> Callable[[], T]:
        """Start a call; return a function that waits for the call's result, or raises the call's error.

        The function may be called several times. If no thread was free and the call failed, the function runs
        the call again each time.
        """
        if not self._free.acquire(blocking=False):
            return cache(call)
        try:
            future = in_background(call)
        except RuntimeError:  # the system has no thread left
            self._free.release()
            return cache(call)
        future.add_done_callback(lambda _: self._free.release())
        return future.result


class SharedCalls:
    """Merges concurrent calls with the same key into one. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Hashable, Future[Any]] = {}

    def run(self, key: Hashable, call: Callable[[], T], usable: Callable[[T], bool] = lambda _: True) -> T:
        """Wait for the call in progress with this key, and return its result.

        Run ``call`` instead if no call is in progress, or if the call in progress fails or its result is
        not ``usable``.
        """
        with self._lock:
            running = self._running.get(key)
            mine: Future[T] = Future()
            if running is None:
                self._running[key] = mine
        if running is not None:
            wait([running])
            if running.exception() is None and usable(running.result()):
                result: T = running.result()
                return result
            return call()
        try:
            mine.set_result(call())
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._running[key]
        return mine.result()
