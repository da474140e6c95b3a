"""Levels of a spatial index: from one cell for the whole grid to cells of a single chunk.

Each level has a range of hashes, and the nodes whose hash lies in the range. So a node is in one level only,
and each level is a random sample of the nodes.
Source: Neuroglancer's specification of its multi-level annotation index.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from ..core.geometry import Geometry, Triple, as_triple
from ..core.ids import Ids
from ..volume.sharded import morton_codes
from .annotations import hashes

SPAN = 1 << 32
"""2^32: the high 32 bits of a node's hash choose the node's level, the low 32 bits its place in a cell."""
Counts = npt.NDArray[np.int64]
_LOW, _HIGH = np.uint64(SPAN - 1), np.uint64(32)


class Level(BaseModel):
    """One level of a spatial index: its cells, and the nodes it has.

    A cell has ``edge`` chunks (a power of two) along each axis, or the whole axis of the `padded` grid if it
    is shorter. The level has all nodes for which the high 32 bits of the hash are from ``start`` to
    ``stop`` - 1.
    """

    model_config = ConfigDict(frozen=True)

    edge: int = Field(ge=1)
    start: int = Field(ge=0, le=SPAN)
    stop: int = Field(ge=0, le=SPAN)

    @property
    def share(self) -> float:
        """Expected share of all nodes that the level has, from 0 to 1."""
        return (self.stop - self.start) / SPAN

    def cell_chunks(self, grid: Triple) -> Triple:
        """Return the number of chunks of a cell along each axis."""
        return as_triple(min(self.edge, n) for n in padded(grid))

    def cell_grid(self, grid: Triple) -> Triple:
        """Return the number of cells along each axis."""
        return as_triple(np.array(padded(grid)) // self.cell_chunks(grid))

    def cells(self, chunks: npt.NDArray[np.int64], grid: Triple) -> Ids:
        """Return the compressed Morton codes, (n,), of the cells that contain the chunks (n, 3)."""
        return morton_codes(chunks // np.array(self.cell_chunks(grid)), self.cell_grid(grid))


def padded(grid: Triple) -> Triple:
    """Round each axis up to a power of two, so that cells of all levels fit without remainder.

    >>> padded((1, 5, 8))
    (1, 8, 8)
    """
    return as_triple(1 << (n - 1).bit_length() for n in grid)


def make_levels(counts: Counts, most: int) -> list[Level]:
    """Return the levels for chunks with ``counts`` (x, y, z) nodes each, the coarsest level first.

    In every level but the last, the fullest cell is expected to have ``most`` nodes. The last level has all
    nodes that are left. It is the first level at which no cell is expected to have more than ``most`` of
    these nodes, or else the level whose cells are chunks.
    """
    whole = padded(as_triple(counts.shape))
    pyramid = [np.pad(counts, [(0, size - n) for size, n in zip(whole, counts.shape, strict=True)])]
    while max(pyramid[-1].shape) > 1:
        pyramid.append(_halved(pyramid[-1]))
    levels, start = list[Level](), 0
    for depth in range(len(pyramid) - 1, -1, -1):
        fullest = int(pyramid[depth].max()) * (SPAN - start) / SPAN
        last = depth == 0 or fullest <= most
        stop = SPAN if last else start + int((SPAN - start) * most / fullest)
        levels.append(Level(edge=1 << depth, start=start, stop=stop))
        start = stop
        if last:
            break
    return levels


def _halved(counts: Counts) -> Counts:
    """Return the counts summed in pairs along each axis that is longer than 1."""
    for axis, size in enumerate(counts.shape):
        if size > 1:
            counts = np.add.reduceat(counts, np.arange(0, size, 2), axis=axis)
    return counts


def levels_of(ids: Ids, levels: Sequence[Level]) -> npt.NDArray[np.intp]:
    """Return the index of each node's level, (n,)."""
    stops = np.array([level.stop for level in levels], dtype=np.uint64)
    return np.searchsorted(stops, hashes(ids) >> _HIGH, side="right")


def cell_order(ids: Ids) -> Ids:
    """Return sort keys for the nodes of a cell: random, but the same in every process."""
    return hashes(ids) & _LOW


def chunk_counts(geometry: Geometry) -> Counts:
    """Return an array of zeros, to count the nodes of each chunk."""
    return np.zeros(geometry.grid, dtype=np.int64)


def count_chunks(counts: Counts, ids: Ids, geometry: Geometry) -> None:
    """Add nodes to the counts of their chunks."""
    chunks, nodes = np.unique(geometry.layout.chunk_ids(ids), return_counts=True)
    x, y, z = geometry.layout.chunk_coordinates(chunks).T
    counts[x, y, z] += nodes
