"""Neuroglancer's precomputed annotations, ``neuroglancer_annotations_v1``, as bytes of numpy records.

A record has float32 coordinates, then the properties, largest types first. Its size is padded to a multiple
of 4 bytes.
Source: Neuroglancer's specification of its precomputed annotation format.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.geometry import Geometry
from ..core.ids import Ids, to_bytes

Kind = Literal["POINT", "LINE"]
POINTS: dict[Kind, int] = {"POINT": 1, "LINE": 2}
"""Points of an annotation of each kind."""
VIEWED, DRAWN_AT_ONCE = 4_096, 1920 * 1080 // 8**2
"""With `VIEWED` or more chunks in view, the viewer reads no chunks, see `_overview`. `DRAWN_AT_ONCE` is the
number of annotations that it draws in a large window: by default one per 8 x 8 pixels."""
OVERVIEW = "overview"
COORDINATES = "coordinates"
PADDING = "padding"
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Property(NamedTuple):
    """A property of each annotation: float32, or an integer of 32 bits or less."""

    name: str
    dtype: np.dtype
    description: str


class AnnotationLayer(NamedTuple):
    """The kind of a layer's annotations and their properties, larger types first."""

    kind: Kind
    properties: tuple[Property, ...]

    @property
    def dtype(self) -> np.dtype:
        """The dtype of a record: the coordinates of its points in nm, a field per property, and padding."""
        fields: list[tuple[Any, ...]] = [(COORDINATES, np.dtype("<f4"), (3 * POINTS[self.kind],))]
        fields += [(p.name, p.dtype) for p in self.properties]
        padding = -np.dtype(fields).itemsize % 4
        return np.dtype([*fields, (PADDING, np.dtype("u1"), (padding,))] if padding else fields)

    def info(self, geometry: Geometry, relationships: Sequence[str], largest: int) -> dict[str, Any]:
        """Return the ``info`` file of a layer whose cells are chunks, with at most ``largest`` nodes each.

        The bounds cover whole chunks, since cloud-volume leaves out cells that extend beyond the bounds.
        """
        lower = np.multiply(geometry.voxel_offset, geometry.resolution)
        step = np.multiply(geometry.chunk_size, geometry.resolution)
        cells = {
            "key": "chunks",
            "grid_shape": list(geometry.grid),
            "chunk_size": step.tolist(),
            "limit": max(1, largest),
        }
        return {
            "@type": "neuroglancer_annotations_v1",
            "dimensions": {axis: [1e-9, "m"] for axis in "xyz"},
            "lower_bound": lower.tolist(),
            "upper_bound": (lower + step * geometry.grid).tolist(),
            "annotation_type": self.kind,
            "properties": [
                {"id": p.name, "type": p.dtype.name, "description": p.description} for p in self.properties
            ],
            "relationships": [{"id": name, "key": f"rel_{name}"} for name in relationships],
            "by_id": {"key": "by_id"},
            "spatial": [*_overview(geometry, step), cells],
        }


def _overview(geometry: Geometry, step: npt.NDArray[np.float64]) -> list[dict[str, Any]]:
    """Return a coarse level with one empty cell for a grid of more than `VIEWED` chunks, or else no level.

    The viewer reads levels, coarsest first, until it expects enough annotations. From each cell it expects
    the cell's ``limit`` times the share of the cell in view. When `VIEWED` or more chunks are in view, the
    viewer expects enough from the empty cell alone, as the cell's limit is that large. So the viewer reads
    chunks only for smaller views, and never requests the whole grid.
    """
    if geometry.n_chunks <= VIEWED:
        return []
    limit = math.ceil(DRAWN_AT_ONCE * geometry.n_chunks / VIEWED)
    whole = (step * geometry.grid).tolist()
    return [{"key": OVERVIEW, "grid_shape": [1, 1, 1], "chunk_size": whole, "limit": limit}]


def larger_first(properties: Sequence[Property]) -> tuple[Property, ...]:
    """Return properties in the order of a record: larger types first, otherwise unchanged."""
    return tuple(sorted(properties, key=lambda p: -p.dtype.itemsize))


def annotation_list(records: np.ndarray, ids: Ids) -> bytes:
    """Encode a list of annotations (of a cell or a segment): their number, the records, the ids."""
    return b"".join((len(ids).to_bytes(8, "little"), records.tobytes(), to_bytes(ids)))


def one_annotation(record: np.ndarray, related: Sequence[Ids]) -> bytes:
    """Encode a single annotation (1,): the record and, for each relationship, the related ids."""
    parts = [part for ids in related for part in (len(ids).to_bytes(4, "little"), to_bytes(ids))]
    return b"".join((record.tobytes(), *parts))


def hashes(ids: Ids) -> Ids:
    """Return a hash of each id, (n,), the same in every process: the finalizer of SplitMix64."""
    mixed = ids ^ (ids >> np.uint64(30))
    mixed = mixed * _MIX[0]
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[1]
    return mixed ^ (mixed >> np.uint64(31))


def scattered(ids: Ids) -> np.ndarray:
    """Return the indices that sort ids by their hashes, (n,).

    The viewer may draw only the first annotations of a cell, so the first ones must be a random sample of the
    cell.
    """
    return np.argsort(hashes(ids), kind="stable")
