"""When roots were made and retired, as arrays, and which roots changed between two times."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.errors import GraphError
from ..core.ids import Ids, as_ids, sorted_unique
from .base import ChangedRoots
from .id_cells import CHILDREN, MOST_IDS, PREDECESSORS, SUCCESSORS, decode_ids, places_of

if TYPE_CHECKING:
    from ..store.bigtable.row_arrays import AnyCells

NEVER = np.iinfo(np.int64).max
LATE = timedelta(minutes=10)
"""Maximum time by which a log entry is older than the roots that it names."""
_EPOCH, _MICRO = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
Flags = npt.NDArray[np.bool_]


class RootLives(NamedTuple):
    """Sorted roots, and when each was made and retired: microseconds since 1970; `NEVER` if not retired."""

    roots: Ids
    made: npt.NDArray[np.int64]
    retired: npt.NDArray[np.int64]

    def valid(self, time: datetime) -> Flags:
        """Return whether each root is valid at ``time``, shape (n,)."""
        micros = (time - _EPOCH) // _MICRO
        return np.asarray((self.made <= micros) & (self.retired > micros))


def log_since(time: datetime) -> datetime:
    """Return the time from which a log must be read to find all roots that changed after ``time``."""
    return max(time - LATE, _EPOCH)


def changes(roots: Ids, before: Flags, after: Flags) -> ChangedRoots:
    """Return the roots that changed; masks (n,) say whether each root was valid ``before`` and ``after``.

    ``roots`` are sorted.
    """
    return ChangedRoots(roots[before & ~after], roots[after & ~before])


def lives_of(parts: Sequence[AnyCells]) -> tuple[RootLives, Ids]:
    """Return a tuple: when each root was made and retired; the predecessors of all these roots, sorted.

    ``parts`` has the cells of the roots' rows. An id whose row has no children is not a root, and is left
    out. Raises GraphError for malformed predecessors.
    """
    made, retired = _times(parts, CHILDREN), _times(parts, SUCCESSORS)
    at, found = places_of(made[0], retired[0])
    ends = np.full(len(made[0]), NEVER)
    ends[at[found]] = retired[1][found]
    return RootLives(made[0], made[1], ends), _predecessors(parts)


def _times(parts: Sequence[AnyCells], column: str) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Return a tuple: the sorted roots whose rows have a cell in ``column``; the times of these cells.

    Each row has one cell at most in a column. Times are in microseconds since 1970.
    """
    ids, times = [as_ids([])], [np.empty(0, dtype=np.int64)]
    for part in parts:
        own = np.array([name == column.encode() for name in part.names], dtype=bool)
        ids.append(part.ids[own])
        times.append(part.times[own])
    joined = np.concatenate(ids)
    order = np.argsort(joined)
    return joined[order], np.concatenate(times)[order]


def _predecessors(parts: Sequence[AnyCells]) -> Ids:
    found = [as_ids([])]
    for part in parts:
        for root, name, value in zip(part.ids.tolist(), part.names, part.values, strict=True):
            if name == PREDECESSORS.encode():
                try:
                    found.append(decode_ids(value, MOST_IDS, "predecessors"))
                except ValueError as error:
                    raise GraphError(f"root {root}: {error}") from error
    return sorted_unique(np.concatenate(found))
