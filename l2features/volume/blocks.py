"""The grid of blocks in which a scale is stored, and a reader of blocks in separate files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.geometry import Triple
from .encodings import Labels
from .storage import MAX_BYTES, FileBytes, Request, Storage

Cells = npt.NDArray[np.int64]


class Grid(NamedTuple):
    """A grid of blocks of ``step`` voxels.

    The grid begins at voxel ``offset`` and has ``size`` voxels. Blocks that reach beyond its end are cut.
    """

    offset: Triple
    size: Triple
    step: Triple

    @property
    def shape(self) -> Triple:
        """Number of blocks along each axis."""
        x, y, z = (-(-size // step) for size, step in zip(self.size, self.step, strict=True))
        return x, y, z

    def cells(self, start: Cells, stop: Cells) -> Cells:
        """Return the indices (n, 3) of the blocks that a box of voxels touches, sorted by z, y, x.

        The box extends from ``start`` to ``stop``, which is excluded.
        """
        stop = np.minimum(stop, np.add(self.offset, self.size))
        low = np.maximum((start - self.offset) // self.step, 0)
        high = np.where(start < stop, -(-(stop - self.offset) // np.array(self.step)), low)
        x, y, z = (np.arange(a, b) for a, b in zip(low, high, strict=True))
        return np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], axis=-1).reshape(-1, 3)

    def bounds(self, cell: Cells) -> tuple[Cells, Cells]:
        """Return a tuple for blocks of index ``cell``: their first voxels; their ends, which are excluded."""
        start = np.array(self.offset) + cell * self.step
        return start, np.minimum(start + self.step, np.add(self.offset, self.size))


class Block(NamedTuple):
    """A block's index in the grid, its name for messages, and its stored bytes."""

    cell: Cells
    name: str
    found: FileBytes


@dataclass
class FileBlocks:
    """Blocks in separate files of at most ``most`` bytes.

    ``names`` returns the file names of blocks. ``decode`` returns a block's labels (32-bit words for
    compressed_segmentation), or raises ValueError.
    """

    storage: Storage
    grid: Grid
    names: Callable[[Cells], list[str]]
    decode: Callable[[bytes, Triple], Labels]
    most: int = MAX_BYTES

    def fetch(self, cells: Cells) -> Iterator[Block]:
        """Fetch blocks, in the order of ``cells``."""
        names = self.names(cells)
        found = self.storage.fetch([Request(name, most=self.most) for name in names])
        return map(Block, cells, names, found)

    def forget(self) -> None:
        """Do nothing: no index is cached."""
