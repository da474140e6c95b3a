"""Arrays of zarr and N5: a grid of files, each with one block, encoded by a chain of codecs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..core.geometry import Triple
from .blocks import Cells, Grid
from .codecs import decoded
from .encodings import Labels, as_labels


class Array(NamedTuple):
    """An array as it is stored. ``axes`` are the indices of its x, y and z axes; other axes have size 1."""

    prefix: str
    """Part of a block's file name before the block's indices."""
    separator: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    axes: tuple[int, int, int]
    dtype: np.dtype[Any]
    codecs: tuple[str, ...] = ()
    stored_order: tuple[int, ...] = ()
    """The array's axes from the slowest in memory to the fastest."""
    has_header: bool = False
    """Whether blocks begin with an N5 header, and blocks at the array's end are smaller."""

    @property
    def grid(self) -> Grid:
        return Grid((0, 0, 0), self.in_xyz(self.shape), self.in_xyz(self.chunks))

    def in_xyz(self, values: tuple[int, ...]) -> Triple:
        x, y, z = (values[axis] for axis in self.axes)
        return x, y, z

    def names(self, cells: Cells) -> list[str]:
        """Return the file names of blocks, given their indices (n, 3) along x, y and z."""
        index = np.zeros((len(cells), len(self.shape)), int)
        index[:, self.axes] = cells
        return [self.prefix + self.separator.join(map(str, place)) for place in index.tolist()]

    def decode(self, content: bytes, shape: Triple) -> Labels:
        """Return the labels (x, y, z) of a block. Raises ValueError if ``content`` is broken."""
        stored = self.chunks
        if self.has_header:
            stored, content = _without_header(content, stored)
        size = math.prod(stored) * self.dtype.itemsize
        values = np.frombuffer(decoded(content, self.codecs, size), self.dtype)
        order = self.stored_order or tuple(range(len(stored)))
        block = values.reshape([stored[axis] for axis in order]).transpose(np.argsort(order))
        others = [axis for axis in range(len(stored)) if axis not in self.axes]
        part = block.transpose(*self.axes, *others).reshape(*self.in_xyz(stored), -1)[..., 0]
        if any(a < b for a, b in zip(part.shape, shape, strict=True)):
            raise ValueError(f"block has shape {part.shape}, expected at least {shape}")
        x, y, z = shape
        return as_labels(part[:x, :y, :z].astype(self.dtype.newbyteorder("="), copy=False))


def spatial_axes(names: Sequence[Any], shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the indices of x, y and z among an array's axes.

    Raises ValueError if one of the three is missing, or if another axis has a size above 1.
    """
    lower = [str(name).lower() for name in names]
    if len(lower) != len(shape) or any(lower.count(axis) != 1 for axis in "xyz"):
        raise ValueError(f"axes are {list(names)} of sizes {list(shape)}, expected x, y and z among them")
    for name, n in zip(lower, shape, strict=True):
        if name not in ("x", "y", "z") and n != 1:
            raise ValueError(f"axis {name!r} has size {n}, expected 1")
    return lower.index("x"), lower.index("y"), lower.index("z")


def _without_header(content: bytes, most: tuple[int, ...]) -> tuple[tuple[int, ...], bytes]:
    """Return the shape in an N5 block's header, and the bytes after the header."""
    mode, dimensions = (int.from_bytes(content[at : at + 2], "big") for at in (0, 2))
    end = 4 + 4 * len(most)
    if mode != 0 or dimensions != len(most) or len(content) < end:
        expected = f"expected 0, {len(most)} and at least {end}"
        raise ValueError(f"N5 block has mode {mode}, {dimensions} axes and {len(content)} bytes: {expected}")
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, end, 4))
    if any(not 0 < a <= b for a, b in zip(shape, most, strict=True)):
        raise ValueError(
            f"N5 header has shape {shape}: expected at least 1 along each axis, and at most {most}"
        )
    return shape, content[end:]
