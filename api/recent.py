"""A bounded memory of recently published ids, in numpy arrays, without an object per id."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import numpy.typing as npt
from cachetools import TTLCache  # type: ignore[import-untyped]

from l2features.core.ids import Ids

CAPACITY = 1_000_000
"""Maximum number of remembered ids over all tables; each takes 16 bytes."""
_SLICES = 12
Slice = tuple[Ids, npt.NDArray[np.float64]]
"""Sorted ids of one table, added in the same twelfth of ``interval_s``, and the time of each; both (n,)."""


class RecentIds:
    """Remembers the ids of each table that were added within the last ``interval_s``. Not thread-safe.

    Ids are grouped by table and slice of time. Beyond ``capacity`` ids, the least recently used groups are
    dropped.
    """

    def __init__(self, interval_s: float, capacity: int = CAPACITY) -> None:
        self.interval_s, self._now = interval_s, 0.0
        self._slices: TTLCache[tuple[Hashable, int], Slice] = TTLCache(
            capacity, interval_s, timer=lambda: self._now, getsizeof=lambda part: len(part[0])
        )

    @property
    def size(self) -> int:
        """Number of ids in memory."""
        return int(self._slices.currsize)

    def unknown(self, table: Hashable, ids: Ids, now: float) -> Ids:
        """Return which of the sorted unique ``ids`` were not added within ``interval_s`` before ``now``."""
        self._now = now
        self._slices.expire()
        known = np.zeros(len(ids), dtype=bool)
        for number in range(self._number(now) - _SLICES, self._number(now) + 1):
            if part := self._slices.get((table, number)):
                added, times = part
                places = np.searchsorted(added, ids).clip(max=len(added) - 1)
                known |= (added[places] == ids) & (now - times[places] < self.interval_s)
        return ids[~known]

    def add(self, table: Hashable, ids: Ids, now: float) -> None:
        """Record that ``ids`` were added at ``now`` (seconds); `unknown` must have returned these ids."""
        ids = ids[-int(self._slices.maxsize) :]
        key, times = (table, self._number(now)), np.full(len(ids), now)
        part = self._slices.get(key)
        if part and len(part[0]) + len(ids) <= self._slices.maxsize:
            recent = now - part[1] < self.interval_s
            ids, times = np.append(part[0][recent], ids), np.append(part[1][recent], times)
            order = np.argsort(ids, kind="stable")
            ids, times = ids[order], times[order]
        if len(ids):
            self._slices[key] = ids, times

    def forget(self, table: Hashable, ids: Ids, added: float) -> None:
        """Forget ids that were added at the time ``added``; ids added again since are not forgotten."""
        if part := self._slices.get((table, self._number(added))):
            known, times = part
            times[np.isin(known, ids, assume_unique=True) & (times == added)] = -np.inf

    def _number(self, time: float) -> int:
        return int(time * _SLICES // self.interval_s)
