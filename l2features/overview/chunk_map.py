"""A map of a grid's chunks by state: three projections, each along one axis, with few cells.

A cell of a projection is a square of chunks in the projection's plane, with all chunks in front of it and
behind it. The squares are as small as possible with at most `MOST_CELLS` cells along a side of the plane.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from ..core.chunks import ChunkBox
from ..core.geometry import Geometry
from ..core.ids import Ids, as_ids
from ..store.base import DONE, FAILED, ChunkRecord

MOST_CELLS = 64
"""Maximum number of cells along a side of a projection."""
PLANES = {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}
"""For each projection, the axis of its columns and the axis of its rows."""
STATES = (DONE, FAILED, "empty")
"""Counted states: done with nodes, failed, done without nodes. Chunks without a record are not counted."""
SAMPLED = 64
"""Size of the random sample of chunks with nodes."""
_BLOCK = 50_000


@dataclass
class Projection:
    """Counts of a grid's chunks, projected along one axis into cells of ``span`` x ``span`` chunks.

    Attributes:
        counts: chunks by state, column and row, shape (3, columns, rows).
        total: chunks of each cell, shape (columns, rows).
        failed: id of one failed chunk of each cell, or 0, shape (columns, rows).
    """

    span: int
    counts: npt.NDArray[np.int64]
    total: npt.NDArray[np.int64]
    failed: Ids

    @classmethod
    def of(cls, geometry: Geometry, plane: str) -> Projection:
        """Return a projection of the grid in which no chunk is counted yet."""
        across, down = PLANES[plane]
        sides = geometry.grid[across], geometry.grid[down]
        span = math.ceil(max(sides) / MOST_CELLS)
        widths = [np.diff(np.append(np.arange(0, side, span), side)) for side in sides]
        total = np.outer(*widths) * (geometry.n_chunks // math.prod(sides))
        shape = total.shape
        return cls(span, np.zeros((len(STATES), *shape), np.int64), total, np.zeros(shape, np.uint64))

    def add(self, cells: npt.NDArray[np.int64], states: npt.NDArray[np.int64], ids: Ids) -> None:
        """Count chunks by state; ``cells`` (n, 2) has the column and the row of each chunk."""
        np.add.at(self.counts, (states, cells[:, 0], cells[:, 1]), 1)
        bad = states == STATES.index(FAILED)
        self.failed[cells[bad, 0], cells[bad, 1]] = ids[bad]


@dataclass
class ChunkMap:
    """A grid's projections, a random sample of chunks with nodes, and the most nodes in a chunk."""

    geometry: Geometry
    planes: dict[str, Projection] = field(default_factory=dict)
    sample: list[int] = field(default_factory=list)
    most_nodes: int = 0

    def __post_init__(self) -> None:
        self.planes = {plane: Projection.of(self.geometry, plane) for plane in PLANES}
        self._seen, self._random = 0, np.random.default_rng(0)

    def counting(self, records: Iterable[ChunkRecord]) -> Iterator[ChunkRecord]:
        """Yield the records unchanged, and add them to the map, a block of records at a time."""
        left = iter(records)
        while block := list(islice(left, _BLOCK)):
            self._add(block)
            yield from block

    def box(self, plane: str, column: int, row: int) -> ChunkBox:
        """Return the chunks of a projection's cell. Raises IndexError for a cell outside the projection."""
        projection = self.planes[plane]
        if not (0 <= column < projection.total.shape[0] and 0 <= row < projection.total.shape[1]):
            columns, rows = projection.total.shape
            raise IndexError(
                f"cell {column}, {row} of {plane}: the map has {columns} x {rows} cells, numbered from 0"
            )
        start, stop = [0, 0, 0], list(self.geometry.grid)
        for axis, cell in zip(PLANES[plane], (column, row), strict=True):
            start[axis] = cell * projection.span
            stop[axis] = min(stop[axis], start[axis] + projection.span)
        return ChunkBox((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))

    def _add(self, block: list[ChunkRecord]) -> None:
        self.most_nodes = max([self.most_nodes, *(record.nodes for record in block)])
        ids = as_ids([record.chunk_id for record in block])
        states = np.array([_state(record) for record in block])
        chunks = self.geometry.layout.chunk_coordinates(ids)
        inside = self.geometry.in_grid(chunks)
        ids, states, chunks = ids[inside], states[inside], chunks[inside]
        for plane, projection in self.planes.items():
            projection.add(chunks[:, PLANES[plane]] // projection.span, states, ids)
        self._keep_some(ids[states == STATES.index(DONE)])

    def _keep_some(self, ids: Ids) -> None:
        """Keep a uniform sample of all ids seen (reservoir sampling)."""
        for chunk_id, place in zip(ids.tolist(), self._places(len(ids)), strict=True):
            if len(self.sample) < SAMPLED:
                self.sample.append(chunk_id)
            elif place < SAMPLED:
                self.sample[place] = chunk_id

    def _places(self, n: int) -> list[int]:
        seen = self._seen + np.arange(1, n + 1)
        self._seen += n
        places: list[int] = self._random.integers(0, seen).tolist()
        return places


def _state(record: ChunkRecord) -> int:
    if record.state == FAILED:
        return STATES.index(FAILED)
    return STATES.index(DONE if record.nodes else "empty")
