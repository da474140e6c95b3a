"""Ids that were published a short time ago: numpy arrays of bounded size, no object per id.

Every id gets a number when it is added, rising over all tables. The ids that still count are those whose
number is not below a horizon, which moves on as time passes and as the capacity is used up: so forgetting
the oldest is one comparison. The ids of a table lie in sorted runs whose sizes fall by half or more; a run
that would break this is merged into the one before, which also drops what no longer counts. A look-up thus
searches some twenty runs at most, and an id is moved a logarithmic number of times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from l2features.core.ids import Ids

CAPACITY = 1_000_000
"""Ids remembered over all tables; they take 16 to 32 bytes each."""
CALLS = 200_000
"""Calls remembered, about 120 bytes each."""
_FORGOTTEN = 0


class _Run(NamedTuple):
    ids: Ids
    numbers: npt.NDArray[np.int64]
    last: int

    def places(self, ids: Ids) -> npt.NDArray[np.intp]:
        """Where an id lies if it is here, shape (n,)."""
        return np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)


class RecentIds:
    """Which ids of which table were added less than ``interval_s`` ago. For one thread at a time."""

    def __init__(self, interval_s: float, capacity: int = CAPACITY) -> None:
        self.interval_s, self.capacity = interval_s, capacity
        self._runs: dict[Hashable, list[_Run]] = {}
        self._calls: deque[tuple[float, int]] = deque()
        self._next = self._horizon = _FORGOTTEN + 1

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(run.ids.nbytes + run.numbers.nbytes for runs in self._runs.values() for run in runs)

    def unknown(self, table: Hashable, ids: Ids, now: float) -> Ids:
        """Those of the sorted unique ids that do not count as added at the time ``now``."""
        self._move_on(now)
        known = np.zeros(len(ids), dtype=bool)
        for run in self._runs.get(table, ()):
            places = run.places(ids)
            known |= (run.ids[places] == ids) & (run.numbers[places] >= self._horizon)
        return ids[~known]

    def add(self, table: Hashable, ids: Ids, now: float) -> npt.NDArray[np.int64]:
        """Remember sorted unique ids that are unknown; gives the numbers by which `forget` finds them."""
        numbers = np.arange(self._next, self._next + len(ids))
        if not len(ids):
            return numbers
        self._next += len(ids)
        self._calls.append((now, self._next))
        self._move_on(now)
        runs = self._runs.setdefault(table, [])
        runs.append(_Run(ids.copy(), numbers.copy(), self._next - 1))
        first, size = len(runs) - 1, len(ids)
        while first and len(runs[first - 1].ids) < 2 * size:
            first -= 1
            size += len(runs[first].ids)
        if first < len(runs) - 1:
            runs[first:] = [self._merge(runs[first:])]
        return numbers

    def forget(self, table: Hashable, ids: Ids, numbers: npt.NDArray[np.int64]) -> None:
        """Let ids be unknown again, unless they were added once more since."""
        for run in self._runs.get(table, ()):
            places = run.places(ids)
            run.numbers[places[run.numbers[places] == numbers]] = _FORGOTTEN

    def _move_on(self, now: float) -> None:
        """Set the horizon, and drop the runs that lie below it."""
        calls, horizon = self._calls, max(self._horizon, self._next - self.capacity)
        while calls and (
            now - calls[0][0] >= self.interval_s or calls[0][1] <= horizon or len(calls) > CALLS
        ):
            horizon = max(horizon, calls.popleft()[1])
        if horizon == self._horizon:
            return
        self._horizon = horizon
        for table, runs in list(self._runs.items()):
            runs[:] = [run for run in runs if run.last >= horizon]
            if not runs:
                del self._runs[table]

    def _merge(self, runs: list[_Run]) -> _Run:
        """One run of what counts in several."""
        numbers = np.concatenate([run.numbers for run in runs])
        counts = numbers >= self._horizon
        ids, numbers = np.concatenate([run.ids for run in runs])[counts], numbers[counts]
        order = np.argsort(ids, kind="stable")
        return _Run(ids[order], numbers[order], max(run.last for run in runs))
