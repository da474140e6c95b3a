"""A bounded cache of rows that were read: arrays of fixed size, no object per row."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .ids import Ids
from .rows import Rows
from .schema import FEATURES, NAMES

WAYS = 8
"""Places of a row: a set-associative table needs no search beyond them."""
_MIX = np.uint64(0x9E3779B97F4A7C15)


class RowCache:
    """Rows of one table by id, of at least ``capacity`` rows; the oldest of a full set makes room.

    A row is kept with the attributes that it was read with, and found by whoever asks for no others.
    It may be used by several threads.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity {capacity}: expected at least 1")
        self._bits = max(0, (-(-capacity // WAYS) - 1).bit_length())
        shape = (1 << self._bits, WAYS)
        self._ids = np.zeros(shape, dtype=np.uint64)
        self._features = np.zeros(shape, dtype=FEATURES)
        self._present = np.zeros((*shape, len(NAMES)), dtype=bool)
        self._known = np.zeros((*shape, len(NAMES)), dtype=bool)
        self._next = np.zeros(shape[0], dtype=np.int64)
        self._lock = threading.Lock()

    @property
    def capacity(self) -> int:
        return self._ids.size

    @property
    def nbytes(self) -> int:
        """Bytes that it takes when it is full."""
        return sum(a.nbytes for a in (self._ids, self._features, self._present, self._known, self._next))

    def lookup(self, rows: Rows, names: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Fill in the rows that are kept with these attributes; says which, shape (n,)."""
        columns = np.isin(NAMES, list(names))
        sets = self._sets(rows.ids)
        with self._lock:
            hit, ways = self._find(sets, rows.ids)
            places = (sets[hit], ways[hit])
            complete = self._known[places][:, columns].all(axis=1)
            hit[hit] = complete
            places = (places[0][complete], places[1][complete])
            rows.features[hit] = self._features[places]
            rows.present[hit] = self._present[places] & columns
        return hit

    def insert(self, rows: Rows, names: Sequence[str]) -> None:
        """Keep rows, of unique ids, that were read with these attributes."""
        if not len(rows):
            return
        columns = np.flatnonzero(np.isin(NAMES, list(names)))
        sets = self._sets(rows.ids)
        with self._lock:
            there, ways = self._find(sets, rows.ids)
            ways[~there] = self._evict(sets[~there])
            kept = ways >= 0
            places = (sets[kept], ways[kept])
            self._ids[places] = rows.ids[kept]
            for name in ("label", *(NAMES[c] for c in columns), *(["has_pca"] if "pca" in names else [])):
                self._features[name][places] = rows.features[name][kept]
            for column in columns:
                self._known[(*places, column)] = True
                self._present[(*places, column)] = rows.present[kept, column]

    def _sets(self, ids: Ids) -> npt.NDArray[np.int64]:
        if not self._bits:
            return np.zeros(len(ids), dtype=np.int64)
        return ((ids * _MIX) >> np.uint64(64 - self._bits)).astype(np.int64)

    def _find(
        self, sets: npt.NDArray[np.int64], ids: Ids
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        match = self._ids[sets] == ids[:, None]
        ways = match.argmax(axis=1)
        return match[np.arange(len(ids)), ways] & (ids != 0), ways

    def _evict(self, sets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """A place for each newcomer in turn; -1 beyond the ways of its set."""
        order = np.argsort(sets, kind="stable")
        unique, starts, counts = np.unique(sets[order], return_index=True, return_counts=True)
        turns = np.empty(len(sets), dtype=np.int64)
        turns[order] = np.arange(len(sets)) - np.repeat(starts, counts)
        ways = (self._next[sets] + turns) % WAYS
        self._next[unique] = (self._next[unique] + counts) % WAYS
        ways[turns >= WAYS] = -1
        kept = turns < WAYS
        self._known[sets[kept], ways[kept]] = False
        return ways
