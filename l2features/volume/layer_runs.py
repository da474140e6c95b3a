"""Runs (stretches of one label along x) in a box of voxels, found in compressed_segmentation files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.geometry import Triple
from ..kernel.block_runs import PackedBlocks, find_block_runs
from ..kernel.runs import Runs
from .blocks import Cells, Grid
from .encodings import Encoding

Words = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]
_LOGS = np.full(33, -1)
"""log2 of a number of bits; -1 for 0."""
_LOGS[1 << np.arange(6)] = np.arange(6)


class LayerRuns:
    """Collects compressed_segmentation files with the same z index, then yields the runs in a box of voxels.

    The box begins at voxel ``start`` and has ``shape`` voxels. A voxel is background if it is at or beyond
    ``stop``, outside the grid, or in a file that is not added.
    """

    def __init__(self, grid: Grid, encoding: Encoding, start: Any, stop: Any, shape: Triple) -> None:
        self.grid, self.block_size = grid, encoding.block_size
        self.label_words = encoding.dtype.itemsize // 4
        self._words, self._n_words = [np.zeros(0, np.uint32)], 0
        along = [self._along(axis, int(start[axis]), int(stop[axis]), shape[axis]) for axis in range(3)]
        self._first = [first for first, _ in along]
        self._x, self._y, self._z = (places for _, places in along)
        self._blocks = np.zeros((*(int(p[:, 0].max()) + 1 for p in (self._z, self._y, self._x)), 3), np.int64)
        self._blocks[..., 0] = -1

    def _along(self, axis: int, start: int, stop: int, n: int) -> tuple[int, Places]:
        """Return a tuple for an axis: the index of the box's first block; an array (n, 2).

        Blocks are those of compressed_segmentation, with indices from 0 at the grid's start. The array has a
        row per voxel: its block's number (1 is the box's first block, 0 is background), and its position in
        the block.
        """
        offset, size, step = (values[axis] for values in self.grid)
        voxels = np.arange(start - offset, start - offset + n)
        inside = (voxels >= 0) & (voxels < min(size, stop - offset))
        cells, within = np.divmod(voxels, step)
        within, places = np.divmod(within, self.block_size[axis])
        blocks = cells * self._per_file(axis) + within
        first = int(blocks[inside].min(initial=blocks[-1]))
        return first, np.where(inside, [blocks - first + 1, places], 0).T.copy()

    def _per_file(self, axis: int) -> int:
        return -(-self.grid.step[axis] // self.block_size[axis])

    def add(self, cell: Cells, words: Words) -> None:
        """Add the file with index ``cell`` (3,) in the grid; ``words`` are from `checked_words`."""
        low, high = self.grid.bounds(cell)
        shape = [-(-int(n) // step) for n, step in zip(high - low, self.block_size, strict=True)]
        heads = words[: 2 * shape[0] * shape[1] * shape[2]].reshape(*shape[::-1], 2)
        source, target = [], []
        for axis in (2, 1, 0):
            at = int(cell[axis]) * self._per_file(axis) - self._first[axis] + 1
            begin, end = max(at, 1), min(at + shape[axis], self._blocks.shape[2 - axis])
            source.append(slice(begin - at, end - at))
            target.append(slice(begin, end))
        heads, blocks = heads[tuple(source)].astype(np.int64), self._blocks[tuple(target)]
        bits, tables, numbers = heads[..., 0] >> 24, heads[..., 0] & 0xFFFFFF, heads[..., 1]
        labels = sum(
            words[tables + i].astype(np.uint64) << np.uint64(32 * i) for i in range(self.label_words)
        )
        blocks[..., 0] = _LOGS[bits]
        blocks[..., 1] = np.where(bits == 0, np.asarray(labels).view(np.int64), tables + self._n_words)
        blocks[..., 2] = numbers + self._n_words
        self._words.append(words)
        self._n_words += len(words)

    def runs(self) -> Iterator[Runs]:
        """Yield the runs, a few z planes at a time. Use each item before the next, which overwrites it."""
        x = self._x
        begins = np.flatnonzero(np.diff(x[:, 0], prepend=-1))
        columns = np.column_stack([begins, np.append(begins[1:], len(x)), x[begins]])
        words, size = np.concatenate(self._words), self.block_size[:2]
        packed = PackedBlocks(words, self._blocks, columns, self._y, self._z, size, self.label_words)
        yield from find_block_runs(packed)
