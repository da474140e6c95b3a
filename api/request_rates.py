"""Requests per second by data set, from the metrics of all processes."""

from __future__ import annotations

import time
from collections import deque
from datetime import UTC, datetime
from typing import NamedTuple

from . import metrics
from .background import BackgroundCache
from .board_schemas import RequestsInfo

EVERY_S, WINDOW_S = 5.0, 60.0
"""Interval of reading the metrics while rates are requested, and the time over which a rate is computed."""


class _Sample(NamedTuple):
    at: float
    """When the counts were read, as `time.monotonic`."""
    time: datetime
    counts: dict[str, metrics.Requests]


class RequestRates:
    """Request rates of one server. Routes in ``left_out``, such as those of dashboards, do not count."""

    def __init__(self, left_out: frozenset[str]) -> None:
        self._left_out = left_out
        self._samples: deque[_Sample] = deque()
        self._newest = BackgroundCache(self._read, age_s=EVERY_S, share=50.0, first_s=1.0, later_s=0.3)

    def of(self, dataset: str) -> RequestsInfo | None:
        """Return number and rate of the requests for a data set; None until the metrics have been read once.

        The rates are None until the metrics have been read twice.
        """
        samples = self._newest.get()
        if samples is None:
            return None
        first, last = samples
        counts = last.counts.get(dataset, metrics.Requests())
        info = RequestsInfo(as_of=last.time, total=round(counts.total), failed=round(counts.failed))
        if last.at > first.at:
            before, seconds = first.counts.get(dataset, metrics.Requests()), last.at - first.at
            info.window_s = round(seconds, 1)
            info.per_second = round(max(0.0, counts.total - before.total) / seconds, 3)
            info.failed_per_second = round(max(0.0, counts.failed - before.failed) / seconds, 3)
        return info

    def _read(self) -> tuple[_Sample, _Sample]:
        """Read the metrics; return an earlier sample and the new one.

        The earlier sample is the newest that is at least `WINDOW_S` old or, if none is, the oldest.
        """
        now = _Sample(time.monotonic(), datetime.now(UTC), metrics.request_counts(self._left_out))
        self._samples.append(now)
        while len(self._samples) > 2 and now.at - self._samples[1].at >= WINDOW_S:
            self._samples.popleft()
        return self._samples[0], now
