"""Node ids (uint64): layer, chunk coordinates and row keys.

From its highest bit on, an id holds the layer, the chunk's x, y and z, and the segment. The layer has
``layer_bits`` bits, 8 in every known graph. Each coordinate has ``spatial_bits[layer]`` bits; if the axes
differ, the entry is a triple. The spatial bits differ between layers and between graphs, so an `IdLayout`
holds them. A chunk id is a node id with segment 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint64]

AxisBits = tuple[int, int, int]
"""Bits of the x, y and z coordinate of a chunk."""

KEY_DIGITS = 20
L2 = 2
AN_ID = f"expected an integer from 0 to {(1 << 64) - 1}"
_NO_FLOAT = f"{AN_ID}; floats cannot hold every id exactly, and a column with nulls may have become floats"
_LAST_KEY = b"%d" % ((1 << 64) - 1)
_POWERS = 10_000 ** np.arange(KEY_DIGITS // 4 - 1, -1, -1, dtype=np.uint64)


def as_ids(values: Any) -> Ids:
    """Return integers from 0 to 2^64 - 1 as a uint64 array, without converting them to floats.

    Raises ValueError for any other value.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind == "u":
        return np.ascontiguousarray(values, dtype=np.uint64)
    if not isinstance(values, Iterable):
        raise ValueError(f"{values!r} are not ids: expected a sequence of integers")
    items = values.ravel().tolist() if isinstance(values, np.ndarray) else list(values)
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (int, np.integer)) or not 0 <= int(item) < 1 << 64:
            raise ValueError(f"{item!r} is not an id: {_NO_FLOAT if isinstance(item, float) else AN_ID}")
    return np.array([int(item) for item in items], dtype=np.uint64)


def parse_id(text: str) -> int:
    """Parse an id from decimal digits. Raises ValueError, with the message `AN_ID`, for other text."""
    if text.isascii() and text.isdecimal() and len(text) <= KEY_DIGITS and int(text) < 1 << 64:
        return int(text)
    raise ValueError(AN_ID)


def numbered_ids(chunk_id: int, n: int) -> Ids:
    """Return ``chunk_id`` + 1 to ``chunk_id`` + ``n``, the ids of a chunk's nodes 1 to ``n``, shape (n,)."""
    return np.uint64(chunk_id) + np.arange(1, n + 1, dtype=np.uint64)


@dataclass(frozen=True)
class IdLayout:
    """The bit fields of an id: layer, chunk coordinates, segment.

    ``spatial_bits`` maps a layer to the bits per axis: one number, or three for x, y and z. Three equal
    numbers are stored as one, so that equal layouts compare equal.
    """

    spatial_bits: Mapping[int, int | AxisBits] = field(default_factory=dict)
    layer_bits: int = 8

    def __post_init__(self) -> None:
        uniform = {layer: _shortest(bits) for layer, bits in self.spatial_bits.items()}
        object.__setattr__(self, "spatial_bits", uniform)
        for layer in uniform:
            bits = self.axis_bits(layer)
            if not 0 < layer < 1 << self.layer_bits or min(bits) < 0 or self.layer_bits + sum(bits) >= 64:
                raise ValueError(
                    f"layer {layer} with {_described(bits)} does not fit into 64 bits: "
                    f"expected a layer from 1 to {(1 << self.layer_bits) - 1}, "
                    f"and less than {64 - self.layer_bits} bits in all"
                )

    def layers(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Return the layer of each id, shape (n,)."""
        return (as_ids(ids) >> np.uint64(64 - self.layer_bits)).astype(np.int64)

    def axis_bits(self, layer: int) -> AxisBits:
        """Return the number of bits for x, y and z in a layer. Raises ValueError for an unknown layer."""
        if layer not in self.spatial_bits:
            raise ValueError(f"layer {layer} is unknown: expected one of {sorted(self.spatial_bits)}")
        bits = self.spatial_bits[layer]
        return (bits, bits, bits) if isinstance(bits, int) else bits

    def segment_bits(self, layer: int) -> int:
        """Return the number of bits for the segment in a layer. Raises ValueError for an unknown layer."""
        return 64 - self.layer_bits - sum(self.axis_bits(layer))

    def known(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Return whether ``spatial_bits`` has the layer of each id, shape (n,)."""
        return self._known[self.layers(ids)]

    def chunk_coordinates(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Return the chunk coordinates of ids, shape (n, 3); the ids may be of different layers."""
        ids = as_ids(ids)
        bits = self._bits_of(ids)
        return (ids >> bits[:3] & bits[3:6]).astype(np.int64).T

    @cached_property
    def _known(self) -> npt.NDArray[np.bool_]:
        return np.isin(np.arange(1 << self.layer_bits), list(self.spatial_bits))

    @cached_property
    def _bits(self) -> dict[int, npt.NDArray[np.uint64]]:
        """By layer, shape (7, 1): the right shifts of x, y and z, then the masks of x, y, z and segment."""
        found = {}
        for layer in self.spatial_bits:
            segment, axes = self.segment_bits(layer), self.axis_bits(layer)
            lowest = [segment + axes[2] + axes[1], segment + axes[2], segment]
            masks = [(1 << bits) - 1 for bits in (*axes, segment)]
            found[layer] = np.array([lowest + masks], dtype=np.uint64).T
        return found

    def _bits_of(self, ids: Ids) -> npt.NDArray[np.uint64]:
        """Return `_bits` of each id's layer, shape (7, n); (7, 1) if all ids are of one layer."""
        layers = self.layers(ids)
        if len(layers) and (layers == layers[0]).all():
            return self._bits_of_layer(int(layers[0]))
        distinct, which = np.unique(layers, return_inverse=True)
        columns = [self._bits_of_layer(layer) for layer in distinct.tolist()]
        return np.concatenate([np.zeros((7, 0), dtype=np.uint64), *columns], axis=1)[:, which]

    def _bits_of_layer(self, layer: int) -> npt.NDArray[np.uint64]:
        self.axis_bits(layer)  # raises ValueError for an unknown layer
        return self._bits[layer]

    def segments(self, ids: Ids) -> Ids:
        """Return the segment number of each id, shape (n,)."""
        ids = as_ids(ids)
        return ids & self._bits_of(ids)[6]

    def chunk_ids(self, ids: Ids) -> Ids:
        """Return the id of each id's chunk, shape (n,)."""
        ids = as_ids(ids)
        return ids - self.segments(ids)

    def chunk_id_array(self, coordinates: npt.ArrayLike, layer: int = L2) -> Ids:
        """Return the chunk ids of chunk coordinates, shape (n, 3) -> (n,).

        Raises ValueError for a coordinate that does not fit into the layer's bits.
        """
        xyz = np.asarray(coordinates, dtype=np.int64).reshape(-1, 3)
        bits = self.axis_bits(layer)
        bad = ((xyz < 0) | (xyz >= [1 << n for n in bits])).any(axis=1)
        if bad.any():
            raise ValueError(
                f"chunk {tuple(xyz[bad][0].tolist())} does not fit into {_described(bits)} of layer {layer}"
            )
        out = np.full(len(xyz), layer << (64 - self.layer_bits), dtype=np.uint64)
        for axis, shift in enumerate(self._bits[layer][:3, 0]):
            out |= xyz[:, axis].astype(np.uint64) << shift
        return out

    def chunk_id(self, x: int, y: int, z: int, layer: int = L2) -> int:
        """Return the id of one chunk."""
        return int(self.chunk_id_array([(x, y, z)], layer)[0])

    def last_id(self, chunk_id: int) -> int:
        """Return the largest possible id of a chunk's nodes."""
        layer = chunk_id >> (64 - self.layer_bits)
        return chunk_id | ((1 << self.segment_bits(layer)) - 1)


def _shortest(bits: int | AxisBits) -> int | AxisBits:
    if isinstance(bits, int):
        return bits
    x, y, z = (int(n) for n in bits)
    return x if x == y == z else (x, y, z)


def _described(bits: AxisBits) -> str:
    return f"{bits[0]} bits per axis" if len(set(bits)) == 1 else "{} + {} + {} bits".format(*bits)


def sorted_unique(ids: Ids) -> Ids:
    """Return the distinct ids, sorted. Sorting is several times faster than the hashing of ``np.unique``."""
    if (ids[1:] > ids[:-1]).all():
        return ids
    ids = np.sort(ids)
    return ids[group_starts(ids)]


def group_starts(values: np.ndarray) -> npt.NDArray[np.intp]:
    """Return the index at which each run of equal values begins, shape (runs,).

    >>> group_starts(np.array([4, 4, 7, 4])).tolist()
    [0, 2, 3]
    """
    return np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])


def distinct(ids: Ids) -> tuple[Ids, npt.NDArray[np.intp]]:
    """Return the distinct ids, sorted, and for each of ``ids`` its index among them, shape (n,)."""
    if (ids[1:] > ids[:-1]).all():
        return ids, np.arange(len(ids))
    return np.unique(ids, return_inverse=True)


def to_bytes(ids: Ids) -> bytes:
    """Return ids as bytes: little-endian, 8 bytes for each id."""
    return ids.astype("<u8").tobytes()


def from_bytes(data: bytes) -> Ids:
    """Return the ids that `to_bytes` encoded. Raises ValueError for a length that is no multiple of 8."""
    return np.frombuffer(data, "<u8").astype(np.uint64)


def row_keys(ids: Ids) -> list[bytes]:
    """Return row keys: ids in decimal, zero-padded to 20 digits."""
    ids = as_ids(ids)
    fours = _four_digits()[ids[:, None] // _POWERS % np.uint64(10_000)]
    keys: list[bytes] = fours.view(f"S{KEY_DIGITS}").ravel().tolist()
    return keys


@cache
def _four_digits() -> npt.NDArray[np.bytes_]:
    return np.array([b"%04d" % i for i in range(10_000)])


def ids_of_row_keys(keys: list[bytes]) -> Ids:
    """Return the ids that `row_keys` encoded. Raises ValueError for a key that is not 20 digits of an id."""
    for key in keys:
        if len(key) != KEY_DIGITS or not key.isdigit() or key > _LAST_KEY:
            raise ValueError(f"{key!r} is not a row key: expected the {KEY_DIGITS} digits of an id")
    return np.array([int(key) for key in keys], dtype=np.uint64)
