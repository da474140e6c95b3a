"""A bounded LRU cache of nodes' roots, all at the same timestamp."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.ids import Ids, as_ids
from .id_cells import places_of

MOST = 1_000_000
"""Maximum ids in a cache; an id takes 24 bytes."""


class KnownRoots:
    """An LRU cache that maps ids to their roots, stored as sorted arrays.

    >>> known = KnownRoots(most=2)
    >>> known.roots(as_ids([3, 5]), lambda ids: ids * np.uint64(10)).tolist()
    [30, 50]
    >>> known.roots(as_ids([5]), lambda ids: as_ids([])).tolist()
    [50]
    """

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._turn = 0
        self._kept = _Kept(as_ids([]), as_ids([]), np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._kept.ids)

    def roots(self, ids: Ids, read: Callable[[Ids], Ids]) -> Ids:
        """Return the roots of sorted, unique ids; ``read`` returns the roots of ids that are not cached."""
        self._turn += 1
        kept, roots = self._kept, np.zeros(len(ids), dtype=np.uint64)
        at, known = places_of(kept.ids, ids)
        roots[known] = kept.roots[at[known]]
        kept.used[at[known]] = self._turn
        if not known.all():
            roots[~known] = read(ids[~known])
            self._add(ids[~known], roots[~known])
        return roots

    def _add(self, ids: Ids, roots: Ids) -> None:
        """Add ids that are not cached; drop the least recently used ids beyond ``most``."""
        kept = self._kept
        places = np.searchsorted(kept.ids, ids)
        kept = _Kept(
            np.insert(kept.ids, places, ids),
            np.insert(kept.roots, places, roots),
            np.insert(kept.used, places, self._turn),
        )
        over = len(kept.ids) - self.most
        if over > 0:
            recent = np.sort(np.argpartition(kept.used, over)[over:])
            kept = _Kept(kept.ids[recent], kept.roots[recent], kept.used[recent])
        self._kept = kept


class _Kept(NamedTuple):
    """Sorted ids, their roots, and when each id was last used, counted in calls of `KnownRoots.roots`."""

    ids: Ids
    roots: Ids
    used: npt.NDArray[np.int64]
