"""The grid of blocks that a scale is stored in, and blocks that are files of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..core.geometry import Triple, as_triple
from .encodings import Encoding, Labels
from .storage import Found, Request, Storage

Cells = npt.NDArray[np.int64]


class Grid(NamedTuple):
    """Blocks of ``step`` voxels from ``offset`` on; those at the end are cut to the bounds."""

    offset: Triple
    size: Triple
    step: Triple

    @property
    def shape(self) -> Triple:
        """Blocks along each axis."""
        x, y, z = (-(-size // step) for size, step in zip(self.size, self.step, strict=True))
        return x, y, z

    def cells(self, start: Cells, stop: Cells) -> Cells:
        """Coordinates (n, 3) of the blocks that hold the voxels from ``start`` up to ``stop``."""
        low = np.maximum((start - self.offset) // self.step, 0)
        high = np.minimum(-(-(stop - self.offset) // np.array(self.step)), self.shape)
        axes = [np.arange(a, b) for a, b in zip(low, high, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)

    def bounds(self, cell: Cells) -> tuple[Cells, Cells]:
        """First voxel of a block (or of blocks), and the one after its last."""
        start = np.array(self.offset) + cell * self.step
        return start, np.minimum(start + self.step, np.add(self.offset, self.size))


class Block(NamedTuple):
    """One block as it was found; ``name`` is what messages call it."""

    cell: Cells
    name: str
    found: Found


class BlockReader(Protocol):
    """Finds, and decodes, the blocks of one scale."""

    grid: Grid

    def fetch(self, cells: Cells) -> Iterator[Block]:
        """Blocks in any order."""

    def decode(self, content: bytes, shape: Triple) -> Labels:
        """Labels of a block. Raises ValueError where it is broken."""

    def forget(self) -> None:
        """Drop what is cached of the files, since it may be wrong."""


class PlainBlocks:
    """Blocks that are files, named by their voxels."""

    def __init__(self, storage: Storage, key: str, grid: Grid, encoding: Encoding) -> None:
        self.storage, self.key, self.grid, self.encoding = storage, key, grid, encoding

    def fetch(self, cells: Cells) -> Iterator[Block]:
        starts, stops = self.grid.bounds(cells)
        bounds = np.stack([starts, stops], axis=-1).tolist()
        most = self.encoding.most_bytes(self.grid.step)
        names = [f"{self.key}/" + "_".join(f"{a}-{b}" for a, b in axes) for axes in bounds]
        found = self.storage.fetch([Request(name, most=most) for name in names])
        return map(Block, cells, names, found)

    def decode(self, content: bytes, shape: Triple) -> Labels:
        return self.encoding.decode(content, shape)

    def forget(self) -> None:
        """Nothing is cached."""


def open_blocks(storage: Storage, scale: Mapping[str, Any], data_type: str) -> BlockReader:
    """Reader of one scale of a precomputed layer that `check_scale` found right."""
    from .sharded import ShardedBlocks, Sharding

    grid = Grid(
        as_triple(scale.get("voxel_offset", [0, 0, 0])),
        as_triple(scale["size"]),
        as_triple(scale["chunk_sizes"][0]),
    )
    block_size = as_triple(scale.get("compressed_segmentation_block_size", [8, 8, 8]))
    encoding = Encoding(scale["encoding"], np.dtype(data_type).newbyteorder("<"), block_size)
    if scale.get("sharding"):
        return ShardedBlocks(storage, scale["key"], grid, encoding, Sharding.of(scale["sharding"]))
    return PlainBlocks(storage, scale["key"], grid, encoding)
