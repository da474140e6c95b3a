"""Boxes of chunks, and the order in which the chunks of a box are visited.

The order is fixed. It scatters neighbouring chunks, to keep concurrent writers off neighbouring row keys.
The box's ``n`` chunks are numbered from 0, sorted by chunk id. Chunk number ``i * stride mod n`` is visited
at position ``i``. The stride is coprime to ``n`` and near 0.618 ``n`` (the golden section). The order takes
no memory, and any range of positions can be listed without the others.

    >>> ChunkBox((0, 0, 0), (2, 2, 1)).positions(0, 4).tolist()
    [[0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]]
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import ConfigError
from .geometry import Chunk, Triple

_BOX = re.compile(r"(\d+):(\d+),(\d+):(\d+),(\d+):(\d+)")
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class ChunkBox:
    """Chunks from ``start`` up to but not including ``stop``."""

    start: Triple
    stop: Triple

    @property
    def shape(self) -> Triple:
        x, y, z = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __str__(self) -> str:
        return ",".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True))

    def in_order(self) -> Iterator[Chunk]:
        """Yield the chunks, sorted by chunk id."""
        for offset in np.ndindex(*self.shape):
            x, y, z = (a + b for a, b in zip(self.start, offset, strict=True))
            yield Chunk(x, y, z)

    def positions(self, first: int, last: int) -> npt.NDArray[np.int64]:
        """Return the coordinates of the chunks at positions ``first`` to ``last`` - 1, shape (n, 3).

        Positions count in the scattered order of this module, not in the order of ids.
        """
        n = len(self)
        order = np.arange(first, min(last, n), dtype=np.uint64) * np.uint64(_stride(n)) % np.uint64(max(n, 1))
        axes = np.unravel_index(order.astype(np.int64), self.shape) if n else [np.empty(0, np.int64)] * 3
        return np.stack(axes, axis=-1) + np.array(self.start)


class FileCounts(NamedTuple):
    """Counts of the segmentation files that a chunk overlaps.

    For a sharded segmentation, the blocks in the shards are counted instead of files. ``expected`` = ``read``
    + ``missing`` + ``empty``. ``empty`` files have 0 bytes. ``forbidden`` is the number of missing files with
    the HTTP status 403. Missing and empty files are read as background.
    """

    expected: int = 0
    read: int = 0
    missing: int = 0
    forbidden: int = 0
    empty: int = 0

    @property
    def complete(self) -> bool:
        """Whether all expected files were read, and there was at least one."""
        return 0 < self.expected == self.read

    @property
    def background(self) -> int:
        """Number of missing and empty files, which are read as background."""
        return self.missing + self.empty

    def plus(self, other: FileCounts) -> FileCounts:
        """Return the sum of the two, field by field."""
        return FileCounts(*(a + b for a, b in zip(self, other, strict=True)))

    def __str__(self) -> str:
        return (
            f"{self.expected} expected, {self.read} read, {self.missing} missing "
            f"({self.forbidden} forbidden), {self.empty} empty"
        )


NO_FILES = FileCounts()


def whole_box(grid: Triple) -> ChunkBox:
    """Return the box of all chunks of a grid."""
    return ChunkBox((0, 0, 0), grid)


def centre_box(grid: Triple) -> ChunkBox:
    """Return the box of 2 x 2 x 2 chunks at a grid's centre; 1 chunk along an axis that has only 1."""
    x, y, z = ((n - 1) // 2 for n in grid)
    return ChunkBox((x, y, z), (min(x + 2, grid[0]), min(y + 2, grid[1]), min(z + 2, grid[2])))


def parse_box(text: str, grid: Triple) -> ChunkBox:
    """Parse "x0:x1,y0:y1,z0:z1", ends excluded.

    Raises ConfigError for other text, and for a box that is empty or not inside the grid.
    """
    match = _BOX.fullmatch(text.replace(" ", ""))
    if not match:
        raise ConfigError(f"chunks {text!r}: expected x0:x1,y0:y1,z0:z1")
    x0, x1, y0, y1, z0, z1 = map(int, match.groups())
    box = ChunkBox((x0, y0, z0), (x1, y1, z1))
    if any(a >= b or b > n for a, b, n in zip(box.start, box.stop, grid, strict=True)):
        raise ConfigError(f"chunks {text!r}: expected a part of the grid, which is {whole_box(grid)}")
    return box


def _stride(n: int) -> int:
    stride = max(1, round(n * GOLDEN))
    while math.gcd(stride, n) != 1:
        stride += 1
    return stride
