"""Ids that were published a short time ago: numpy arrays of bounded size, no object per id."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from cachetools import TTLCache  # type: ignore[import-untyped]

from l2features.core.ids import Ids

CAPACITY = 1_000_000
"""Maximum ids over all tables, of 16 bytes each."""
_SLICES = 12


class _Slice(NamedTuple):
    """Ids of one table and one part of the interval, sorted, and when each was added."""

    ids: Ids
    times: npt.NDArray[np.float64]

    def places(self, ids: Ids) -> npt.NDArray[np.intp]:
        """Return the place of each id that is present, shape (n,)."""
        return np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)


class RecentIds:
    """The ids of each table that were added less than ``interval_s`` ago. Use it from one thread at a time.

    Beyond the capacity, the least recently used slices are dropped.
    """

    def __init__(self, interval_s: float, capacity: int = CAPACITY) -> None:
        self.interval_s, self._now = interval_s, 0.0
        self._slices: TTLCache[tuple[Hashable, int], _Slice] = TTLCache(
            capacity, interval_s, timer=lambda: self._now, getsizeof=lambda part: len(part.ids)
        )

    @property
    def size(self) -> int:
        """Number of ids in memory."""
        return int(self._slices.currsize)

    def unknown(self, table: Hashable, ids: Ids, now: float) -> Ids:
        """Return the sorted unique ids that were not added recently."""
        self._now = now
        self._slices.expire()
        known = np.zeros(len(ids), dtype=bool)
        for number in range(self._number(now) - _SLICES, self._number(now) + 1):
            if part := self._slices.get((table, number)):
                places = part.places(ids)
                known |= (part.ids[places] == ids) & (now - part.times[places] < self.interval_s)
        return ids[~known]

    def add(self, table: Hashable, ids: Ids, now: float) -> None:
        """Remember sorted unique ids that are unknown."""
        ids = ids[-int(self._slices.maxsize) :]
        key, times = (table, self._number(now)), np.full(len(ids), now)
        part = self._slices.get(key)
        if part and len(part.ids) + len(ids) <= self._slices.maxsize:
            recent = now - part.times < self.interval_s
            ids, times = np.append(part.ids[recent], ids), np.append(part.times[recent], times)
            order = np.argsort(ids, kind="stable")
            ids, times = ids[order], times[order]
        if len(ids):
            self._slices[key] = _Slice(ids, times)

    def forget(self, table: Hashable, ids: Ids, added: float) -> None:
        """Make ids unknown that were added at a time, unless they were added again since."""
        if part := self._slices.get((table, self._number(added))):
            places = part.places(ids)
            places = places[(part.ids[places] == ids) & (part.times[places] == added)]
            part.times[places] = -np.inf

    def _number(self, time: float) -> int:
        return int(time * _SLICES // self.interval_s)
