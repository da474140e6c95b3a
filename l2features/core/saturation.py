"""Count values that reached the maximum of their stored type, and warn of attributes that may reach it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .geometry import Geometry
from .schema import SATURATING


def saturated_counts(features: np.ndarray) -> dict[str, int]:
    """Count, by attribute, the nodes whose value is the maximum of the stored type.

    A node counts once per attribute, even if several elements of a vector are the maximum. Attributes with no
    such node are left out.

    Args:
        features: (n,) rows of dtype `schema.FEATURES`.
    """
    counts = {}
    for attribute in SATURATING:
        largest = features[attribute.name] == attribute.dtype.type(attribute.largest)
        if nodes := int(np.count_nonzero(largest.any(axis=tuple(range(1, largest.ndim))))):
            counts[attribute.name] = nodes
    return counts


def likely_saturated(geometry: Geometry) -> list[str]:
    """Return a warning for each attribute that saturates for ordinary shapes at this resolution.

    For the area, the shape is a flat sheet across the chunk, with both sides counted. For the distances, the
    shape is a ball as wide as the chunk's shortest side: the largest distance is a half of that side, and the
    mean distance an eighth.
    """
    sides = sorted(n * nm for n, nm in zip(geometry.chunk_size, geometry.resolution, strict=True))
    sheet, ball = "a flat sheet across a chunk", "a ball as wide as a chunk"
    shapes = {
        "area_nm2": (sheet, 2 * sides[1] * sides[2]),
        "max_dt_nm": (ball, sides[0] / 2),
        "mean_dt_nm": (ball, sides[0] / 8),
    }
    voxel = " x ".join(f"{nm:g}" for nm in geometry.resolution)
    return [
        f"{a.name} is likely to saturate at voxels of {voxel} nm: {shape} has {math.floor(value)} {a.unit}, "
        f"the largest stored value is {math.floor(a.largest)} {a.unit}"
        for a in SATURATING
        for shape, value in [shapes.get(a.name, ("", 0))]
        if value > a.largest
    ]


def saturated_text(counts: Mapping[str, int]) -> str:
    """Return counts as "attribute in n nodes", sorted by attribute."""
    return ", ".join(f"{name} in {nodes} nodes" for name, nodes in sorted(counts.items()))
