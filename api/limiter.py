"""Concurrency limits of a process: for all requests, for one data set's requests, and for ids in requests."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from .config import Settings
from .error_responses import ApiError

SHARE = 75
"""Percentage of the concurrent requests that may be for one data set, if the server has several."""


class Limiter:
    """Limits requests and ids that are in flight.

    At most ``max_requests`` requests run at a time, and at most ``share`` requests for one data set. If a
    data set's store hangs, other data sets can thus still be read. Further requests may wait: running and
    waiting requests together are at most ``1 + queued`` times each limit. All requests together have at most
    ``max_ids`` ids. A request with more ids waits until no other request has permits for ids.
    """

    def __init__(
        self,
        max_requests: int,
        share: int,
        max_ids: int,
        timeout_s: float,
        retry_after_s: int,
        queued: int = 0,
    ) -> None:
        self.max_requests, self.share, self.max_ids = max_requests, share, max_ids
        self.timeout_s, self.retry_after_s, self.queued = timeout_s, retry_after_s, queued
        self._ids = 0
        self._running, self._waiting = Counter[str](), Counter[str]()
        self._changed = threading.Condition()

    @contextmanager
    def request(self, dataset: str) -> Iterator[None]:
        """Hold a permit for a request during the block; wait for it first.

        Raises ApiError 429: at once if too many requests run and wait, else if no permit is free within
        ``timeout_s``.
        """
        with self._changed:
            if not self._has_permit(self._running, dataset):
                self._wait(dataset)
            self._running[dataset] += 1
        try:
            yield
        finally:
            with self._changed:
                self._running[dataset] -= 1
                self._changed.notify_all()

    def _wait(self, dataset: str) -> None:
        if not self._has_permit(self._running + self._waiting, dataset, 1 + self.queued):
            raise self._too_many_requests()
        self._waiting[dataset] += 1
        try:
            if not self._changed.wait_for(lambda: self._has_permit(self._running, dataset), self.timeout_s):
                raise self._too_many_requests()
        finally:
            self._waiting[dataset] -= 1

    def _has_permit(self, requests: Counter[str], dataset: str, times: int = 1) -> bool:
        """Return whether one more request for ``dataset`` may join ``requests`` (numbers by data set).

        The limits are ``max_requests`` in total and ``share`` for ``dataset``, both multiplied by ``times``.
        """
        return requests.total() < times * self.max_requests and requests[dataset] < times * self.share

    @contextmanager
    def ids(self, count: int) -> Iterator[None]:
        """Hold permits for ``count`` ids during the block; wait for them first.

        Raises ApiError 429 if too few permits are free within ``timeout_s``.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_room(count), self.timeout_s):
                raise self._too_many("ids", self.max_ids)
            self._ids += count
        try:
            yield
        finally:
            with self._changed:
                self._ids -= count
                self._changed.notify_all()

    def _has_room(self, count: int) -> bool:
        return not self._ids or self._ids + count <= self.max_ids

    def _too_many_requests(self) -> ApiError:
        return self._too_many("requests", min(self.share, self.max_requests))

    def _too_many(self, what: str, limit: int) -> ApiError:
        message = f"this server works on at most {limit} {what} at a time: try again later"
        return ApiError(429, f"too_many_{what}", message, limit=limit, retry_after=self.retry_after_s)


def read_limiter(most: int, settings: Settings, data_sets: int, queued: int = 0) -> Limiter:
    """Return a limiter of ``most`` concurrent reads, for a server with ``data_sets`` data sets.

    For each read that may run, ``queued`` further reads may wait.
    """
    share = -(-most * SHARE // 100) if data_sets > 1 else most
    ids, timeout_s = settings.max_ids_in_flight, settings.queue_timeout_s
    return Limiter(most, share, ids, timeout_s, settings.retry_after_s, queued)


def wait_limiter(settings: Settings) -> Limiter:
    """Return a limiter of requests that wait until missing ids are computed."""
    most = settings.max_waiting
    return Limiter(most, most, 1 << 62, settings.queue_timeout_s, settings.retry_after_s)
