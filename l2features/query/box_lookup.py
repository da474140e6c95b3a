"""Find a table's nodes in a chunk or in a box of voxels."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..config.datasets import Dataset
from ..core.chunks import ChunkBox
from ..core.errors import ReadTimeout
from ..core.geometry import Chunk, Geometry, Triple
from ..core.rows import Rows
from ..core.schema import COLUMN, NAMES, SIZE
from ..store.base import Store
from .chunk_lookup import read_chunk
from .reader import Answer, Status

POSITION = "rep_coord_nm"
_RANGE = r"(-?\d{1,18})-(-?\d{1,18})"
BOUNDS = re.compile("_".join([_RANGE] * 3), re.ASCII)
EXPECTED = "three ranges of voxels such as 0-512_0-512_0-128, each with its end after its start"


class VoxelBox(NamedTuple):
    """Voxels from ``start`` up to but not including ``stop``."""

    start: Triple
    stop: Triple

    @classmethod
    def parse(cls, text: str) -> VoxelBox:
        """Parse "x0-x1_y0-y1_z0-z1", PyChunkedGraph's form of bounds, ends excluded.

        Raises ValueError for other text, and for an empty range.
        """
        match = BOUNDS.fullmatch(text)
        if match:
            x0, x1, y0, y1, z0, z1 = map(int, match.groups())
            if x0 < x1 and y0 < y1 and z0 < z1:
                return cls((x0, y0, z0), (x1, y1, z1))
        raise ValueError(f"{text!r:.200}: expected {EXPECTED}")

    def chunks(self, geometry: Geometry) -> ChunkBox:
        """Return the chunks of the grid that overlap this box."""
        steps = tuple(zip(geometry.voxel_offset, geometry.chunk_size, geometry.grid, strict=True))
        low = [max(0, (a - origin) // size) for a, (origin, size, _) in zip(self.start, steps, strict=True)]
        high = [
            min(n, -((origin - b) // size)) for b, (origin, size, n) in zip(self.stop, steps, strict=True)
        ]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            return ChunkBox((0, 0, 0), (0, 0, 0))
        (x0, y0, z0), (x1, y1, z1) = low, high
        return ChunkBox((x0, y0, z0), (x1, y1, z1))

    def holds(self, rows: Rows, geometry: Geometry) -> npt.NDArray[np.bool_]:
        """Return whether each row's representative coordinate lies in this box, shape (n,)."""
        voxels = geometry.node_origins(rows.ids) + rows.features[POSITION]
        inside = ((voxels >= self.start) & (voxels < self.stop)).all(axis=1)
        return np.asarray(inside & rows.present[:, COLUMN[POSITION]] & ~rows.not_computed)


@dataclass(frozen=True)
class FoundNodes:
    """Nodes found in a chunk or box, sorted by id.

    ``count`` is the number of nodes; if it exceeds the reader's limit, ``answer`` is empty. ``problems`` has
    a message for each chunk whose nodes may be incomplete.
    """

    answer: Answer
    count: int
    problems: tuple[str, ...] = ()

    @property
    def problem(self) -> str:
        """The first problem and the number of further problems, as text."""
        others = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return f"{self.problems[0]}{others}"


class RegionReader(NamedTuple):
    """Reads the nodes in a chunk or a box from a data set's table.

    If more than ``most`` nodes are found, their number is returned without the nodes. Methods raise
    StoreError if the store fails.
    """

    store: Store
    dataset: Dataset
    geometry: Geometry
    most: int

    def chunk(self, chunk: Chunk, names: Sequence[str] = NAMES) -> FoundNodes:
        """Return all nodes of a chunk that have a row."""
        found = read_chunk(self.store, self.dataset, self.geometry, chunk, _columns(names))
        return self._found([found.rows], len(found.rows), [found.error] if found.error else [])

    def box(self, box: VoxelBox, names: Sequence[str] = NAMES, until: float = float("inf")) -> FoundNodes:
        """Return the nodes whose representative coordinate lies in a box.

        Raises ReadTimeout if not all chunks were read before ``until`` (`time.monotonic`).
        """
        parts, count, problems = list[Rows](), 0, list[str]()
        for chunk in box.chunks(self.geometry).in_order():
            if time.monotonic() > until:
                raise ReadTimeout(
                    f"table {self.store.name}: not all chunks were read in time: ask for a smaller box"
                )
            found = read_chunk(self.store, self.dataset, self.geometry, chunk, _columns((*names, POSITION)))
            places = np.flatnonzero(box.holds(found.rows, self.geometry))
            count += len(places)
            if count <= self.most:
                parts.append(found.rows.take(places))
            else:
                parts.clear()
            problems += [found.error] if found.error else []
        return self._found(parts, count, problems)

    def _found(self, parts: Sequence[Rows], count: int, problems: Sequence[str]) -> FoundNodes:
        parts = [Rows.empty([]), *(parts if count <= self.most else ())]
        rows = Rows(np.concatenate([p.features for p in parts]), np.concatenate([p.present for p in parts]))
        status = np.where(rows.not_computed, Status.EMPTY, Status.READY).astype(np.int8)
        rows.present[status == Status.EMPTY] = False
        return FoundNodes(Answer(rows, status), count, tuple(problems))


def _columns(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in NAMES if name in names or name == SIZE)
