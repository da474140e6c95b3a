"""Read the rows of one data set's table, and determine the status of each id."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from ..core.geometry import Geometry
from ..core.ids import L2, Ids, as_ids, distinct, sorted_unique
from ..core.rows import Rows
from ..core.schema import NAMES, SIZE
from ..store.base import Store
from .cache import RowCache

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0


class Status(IntEnum):
    """Status of an id."""

    READY = 0
    """The id has a row with features."""
    MISSING = 1
    """The id's features have not been computed."""
    EMPTY = 2
    """The id has no voxels, or its features could not be computed."""
    NOT_L2 = 3
    """The id is not a layer-2 node of this data set: it has another layer or lies outside the grid."""
    FAILED = 4
    """The id's features have not been computed, because its chunk failed."""


@dataclass(frozen=True)
class Answer:
    """Rows and status of ids, in the requested order; an id that was requested twice occurs twice.

    ``status`` (n,) holds values of `Status`. ``reasons`` maps ids of the status FAILED or NOT_L2 to an
    explanation.
    """

    rows: Rows
    status: npt.NDArray[np.int8]
    reasons: Mapping[int, str] = field(default_factory=dict)

    @property
    def missing(self) -> Ids:
        """Sorted, unique ids of the status MISSING or FAILED."""
        if not self.status.any():  # all are ready
            return self.rows.ids[:0]
        waiting = (self.status == Status.MISSING) | (self.status == Status.FAILED)
        return sorted_unique(self.rows.ids[waiting])

    def updated(self, fresh: Answer) -> Answer:
        """Return this answer with the rows, status and reasons of ``fresh`` for the ids in ``fresh``.

        The ids of ``fresh`` must be sorted and unique.
        """
        if not len(fresh.rows):
            return self
        at = np.searchsorted(fresh.rows.ids, self.rows.ids).clip(max=len(fresh.rows) - 1)
        same = fresh.rows.ids[at] == self.rows.ids
        rows = self.rows.take(np.arange(len(self.rows)))
        rows.put(same, fresh.rows.take(at[same]))
        answered = set(fresh.rows.ids.tolist())
        others = {node: reason for node, reason in self.reasons.items() if node not in answered}
        return Answer(rows, np.where(same, fresh.status[at], self.status), {**others, **fresh.reasons})


def _ignore(*_: float) -> None:
    return


@dataclass
class Reader:
    """Reads the table of one data set, through ``cache`` if it is given.

    ``on_lookup(hits, misses)`` is called after each lookup; an id that occurs twice counts twice.
    ``on_read(ids, seconds)`` is called after each read of the store with the number of ids and the duration.
    """

    store: Store
    geometry: Geometry
    cache: RowCache | None = None
    on_lookup: Callable[[int, int], None] = _ignore
    on_read: Callable[[int, float], None] = _ignore

    def read(self, ids: Ids, names: Sequence[str] = NAMES, with_reasons: bool = False) -> Answer:
        """Return the rows and status of ids. Without ``with_reasons``, ids of failed chunks are MISSING.

        A node that could not be computed is stored with size 0. It has the status EMPTY, and its row has no
        attributes. Raises StoreError if the store fails.
        """
        ids = as_ids(ids)
        nodes = self.geometry.is_node(ids)
        only_nodes = bool(nodes.all())
        rows = self._rows(ids if only_nodes else ids[nodes], (*names, SIZE))
        if not only_nodes:
            found, rows = rows, Rows.empty(ids)
            rows.put(nodes, found)
        status = np.where(rows.found, np.int8(Status.READY), np.int8(Status.MISSING))
        if (empty := rows.not_computed).any():
            status[empty] = Status.EMPTY
            rows.present[empty] = False
        if not only_nodes:
            status[~nodes] = Status.NOT_L2
        reasons = self._reasons(ids, status) if with_reasons else {}
        return Answer(rows, status, reasons)

    def wait(
        self, answer: Answer, names: Sequence[str], seconds: float, with_reasons: bool = False
    ) -> Answer:
        """Read missing ids again, with exponential backoff, until all are found or ``seconds`` are over.

        Returns the answer, updated by these reads.
        """
        until, pause = time.monotonic() + seconds, FIRST_PAUSE_S
        while len(missing := answer.missing) and (left := until - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, LONGEST_PAUSE_S)
            answer = answer.updated(self.read(missing, names, with_reasons))
        return answer

    def _rows(self, ids: Ids, names: Sequence[str]) -> Rows:
        """Return the rows of ids. Rows that are not in the cache are read from the store, each once."""
        if self.cache is None:
            hit, cached = np.zeros(len(ids), dtype=bool), Rows.empty(ids[:0])
        else:
            hit, cached = self.cache.lookup(ids, names)
        self.on_lookup(len(cached), len(ids) - len(cached))
        if len(cached) == len(ids):
            return cached
        unique, inverse = distinct(ids[~hit])
        epoch = None if self.cache is None else self.cache.epoch
        start = time.perf_counter()
        read = self.store.read(unique, tuple(n for n in NAMES if n in names))
        self.on_read(len(read), time.perf_counter() - start)
        if self.cache is not None:
            ready = read.found & ~read.not_computed
            known = read if ready.all() else read.take(np.flatnonzero(ready))
            self.cache.insert(known, names, epoch)
        if not len(cached):
            return read.take(inverse)
        rows = Rows.empty(ids)
        rows.put(hit, cached)
        rows.put(~hit, read.take(inverse))
        return rows

    def _reasons(self, ids: Ids, status: npt.NDArray[np.int8]) -> dict[int, str]:
        """Set MISSING ids of failed chunks to FAILED in ``status``; return why ids are FAILED or NOT_L2."""
        layout = self.geometry.layout
        other = ids[status == Status.NOT_L2]
        reasons = {}
        for node, layer in zip(other.tolist(), layout.layers(other).tolist(), strict=True):
            where = "chunk lies outside the grid" if layer == L2 else f"layer {layer}"
            reasons[node] = f"not a layer-2 node of this data set: {where}"
        missing = np.flatnonzero(status == Status.MISSING)
        chunks = layout.chunk_ids(ids[missing])
        failures = self.store.failures(sorted_unique(chunks)) if len(missing) else {}
        for place, chunk in zip(missing.tolist(), chunks.tolist(), strict=True):
            if chunk in failures:
                status[place] = Status.FAILED
                reasons[int(ids[place])] = failures[chunk]
        return reasons
