"""The geometry of a data set: resolution, bounds, chunks, id layout."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import ConfigError
from .ids import L2, IdLayout, Ids


class Chunk(NamedTuple):
    """Coordinates of a chunk in the chunk grid."""

    x: int
    y: int
    z: int

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.z}"


Triple = tuple[int, int, int]
MAX_CHUNK_VOXELS = 2**31 - 1
GRAPH_BITS = 10
"""Bits of a chunk's coordinate on each axis, as in PyChunkedGraph; a larger grid takes more."""
ROOM_BITS = 16
"""Minimum bits of an id for the segments of a chunk; chunks of fewer than 2^16 voxels need fewer."""


_TRIPLES = ("resolution", "voxel_offset", "voxel_size", "chunk_size")
"""Fields of a geometry that are three numbers in JSON."""


def as_triple(values: Any) -> Triple:
    """Return three values as integers. Raises ValueError unless there are exactly three."""
    x, y, z = (int(v) for v in values)
    return x, y, z


class Bounds(NamedTuple):
    """Resolution in nm, and offset and size in voxels, of one scale of a segmentation."""

    resolution: tuple[float, float, float]
    voxel_offset: Triple
    voxel_size: Triple

    def __str__(self) -> str:
        resolution, offset, size = ("x".join(f"{n:g}" for n in part) for part in self)
        return f"{size} voxels of {resolution} nm from {offset}"


@dataclass(frozen=True)
class Geometry:
    """Voxels, chunks and ids of one data set.

    ``resolution`` is in nm per voxel. ``voxel_offset`` and ``voxel_size`` are the bounds of the segmentation
    in voxels, ``chunk_size`` is the size of a chunk in voxels.
    """

    resolution: tuple[float, float, float]
    voxel_offset: Triple
    voxel_size: Triple
    chunk_size: Triple
    layout: IdLayout

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.resolution, self.voxel_offset, self.voxel_size)

    @cached_property
    def grid(self) -> Triple:
        """Number of chunks along x, y and z; the last chunk along an axis may be partial."""
        x, y, z = (-(-size // step) for size, step in zip(self.voxel_size, self.chunk_size, strict=True))
        return x, y, z

    @property
    def n_chunks(self) -> int:
        x, y, z = self.grid
        return x * y * z

    def chunk_id(self, chunk: Chunk) -> int:
        """Return the layer-2 id of a chunk."""
        return self.layout.chunk_id(*chunk)

    def in_grid(self, coordinates: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return whether each of the chunk coordinates (n, 3) lies in the grid, shape (n,)."""
        xyz = np.asarray(coordinates)
        outside = (xyz < 0) | (xyz >= np.array(self.grid))
        return ~np.asarray(outside @ np.ones(3, dtype=bool))  # faster than any(axis=-1)

    def check_in_grid(self, chunk: Chunk) -> None:
        """Raise ConfigError for a chunk outside the grid."""
        if not self.in_grid([chunk])[0]:
            raise ConfigError(f"chunk {chunk}: expected coordinates below {Chunk(*self.grid)}")

    def is_node(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Return whether each id is of layer 2 and its chunk lies in the grid, shape (n,)."""
        shifts, masks, flipped, limits = self._node_fields
        return np.asarray(((ids >> shifts & masks ^ flipped) < limits).all(axis=0))

    def node_origins(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Return the lowest voxel of each L2 node's chunk, shape (n,) -> (n, 3)."""
        shifts, masks, _, _ = self._node_fields
        return self.origins((ids >> shifts[:3] & masks[:3]).T)

    @cached_property
    def _node_fields(self) -> npt.NDArray[np.uint64]:
        """Constants to extract and check the fields of L2 ids, shape (4 constants, 4 fields, 1).

        The fields are x, y, z and the layer. The constants of a field are its right shift, its mask, a value
        to XOR it with, and an exclusive limit. An id is an L2 node in the grid if each field, after the XOR,
        is below its limit. The XOR changes only the layer: layer 2 becomes 0, and the layer's limit is 1.
        """
        layer_bits = self.layout.layer_bits
        x, y, z = self.layout.axis_bits(L2)
        segment = self.layout.segment_bits(L2)
        lowest = [segment + z + y, segment + z, segment, 64 - layer_bits]
        masks = [(1 << bits) - 1 for bits in (x, y, z, layer_bits)]
        return np.array([lowest, masks, [0, 0, 0, L2], [*self.grid, 1]], dtype=np.uint64)[..., None]

    def origins(self, coordinates: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the lowest voxel of each chunk, from chunk coordinates, shape (n, 3) -> (n, 3)."""
        return (
            np.array(self.voxel_offset, dtype=np.int64)
            + np.asarray(coordinates, dtype=np.int64) * self.chunk_size
        )

    def to_json(self) -> str:
        """Return the geometry as JSON."""
        content: dict[str, Any] = {name: getattr(self, name) for name in _TRIPLES}
        content["layer_bits"] = self.layout.layer_bits
        content["spatial_bits"] = {str(k): v for k, v in sorted(self.layout.spatial_bits.items())}
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Geometry:
        """Return the geometry that `to_json` wrote.

        Raises ValueError, KeyError, TypeError or AttributeError for any other text.
        """
        d: dict[str, Any] = json.loads(text)
        layout = IdLayout({int(k): v for k, v in d["spatial_bits"].items()}, int(d["layer_bits"]))
        return cls(**{name: tuple(d[name]) for name in _TRIPLES}, layout=layout)


def layout_for_grid(grid: Triple, chunk_size: Triple) -> IdLayout:
    """Return the id layout of a data set without a graph.

    The layout has 10 bits per axis, as in PyChunkedGraph. If an axis of the grid has more than 1,024 chunks,
    each axis has just the bits that it needs. Raises ConfigError if too few bits are left for the segments of
    a chunk.
    """
    needed = tuple(int(n - 1).bit_length() for n in grid)
    x, y, z = needed if max(needed) > GRAPH_BITS else (GRAPH_BITS,) * 3
    left = 64 - IdLayout().layer_bits - x - y - z
    room = min(ROOM_BITS, math.prod(chunk_size).bit_length())
    if left < room:
        raise ConfigError(
            f"the coordinates in a grid of {'x'.join(map(str, grid))} chunks take {x} + {y} + {z} of the "
            f"56 bits after an id's layer: expected {room} bits or more left for a chunk's segments: "
            "choose a larger chunk_size"
        )
    return IdLayout({L2: (x, y, z)})
