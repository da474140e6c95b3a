"""Reads that may take long: separate permits and a deadline, so that they do not delay other requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from l2features.core.errors import ReadTimeout
from l2features.core.futures import in_background

from .config import Settings
from .error_responses import ApiError
from .limiter import read_limiter

T = TypeVar("T")


class LongRead:
    """Runs one request's read in a thread, and waits for it up to the time ``until`` (`time.monotonic`)."""

    def __init__(self, timeout_s: float, retry_after_s: int) -> None:
        self.timeout_s, self.retry_after_s = timeout_s, retry_after_s
        self.until = time.monotonic() + timeout_s
        self.running: Future[Any] | None = None

    def run(self, read: Callable[[], T]) -> T:
        """Run ``read`` in a thread; return its result.

        Raises ApiError 503 at the deadline, or if ``read`` raises ReadTimeout. Passes on other errors.
        """
        future = in_background(read)
        self.running = future
        try:
            return future.result(max(0.0, self.until - time.monotonic()))
        except (FutureTimeout, ReadTimeout) as error:
            message = (
                f"this request took longer than {self.timeout_s:g} seconds: try again later, or request less"
            )
            raise ApiError(503, "too_slow", message, retry_after=self.retry_after_s) from error


class LongReads:
    """Limits concurrent reads that may take long. A request waits up to ``queue_timeout_s`` for a permit.

    The deadline of a read is ``root_timeout_s`` after its request's start; see `LongRead.run`.

    For each read that may run, ``queued`` further reads may wait.
    """

    def __init__(self, settings: Settings, data_sets: int, queued: int = 0) -> None:
        self.limiter = read_limiter(settings.max_root_requests, settings, data_sets, queued)
        self.timeout_s = settings.root_timeout_s

    @contextmanager
    def request(self, dataset: str) -> Iterator[LongRead]:
        """Hold a permit during the block. If the read misses its deadline, hold it until the read ends.

        Raises ApiError 429 as `Limiter.request` does.
        """
        with ExitStack() as permit:
            read = LongRead(self.timeout_s, self.limiter.retry_after_s)
            permit.enter_context(self.limiter.request(dataset))
            try:
                yield read
            finally:
                if read.running is not None:
                    held = permit.pop_all()
                    read.running.add_done_callback(lambda _: held.close())
