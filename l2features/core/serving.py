"""Convert stored values of an attribute to the values that clients receive.

A conversion takes the stored values (n, *shape), the ids (n,) and the geometry. It returns the values
that clients receive, (n, *shape), and a mask (n,) of the valid values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .geometry import Geometry
from .ids import L2, Ids

Known = npt.NDArray[np.bool_]
Convert = Callable[[np.ndarray, Ids, Geometry], tuple[np.ndarray, Known]]


class Serving(NamedTuple):
    """Type and unit of the value that clients receive, and the conversion from the stored value."""

    dtype: np.dtype
    unit: str
    convert: Convert


def finite(stored: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, Known]:
    """Return the stored values (n, *shape) as ``dtype``, and a mask (n,) of the values without NaN.

    Infinities are clipped to the stored type's limits.
    PCGL2Cache stored infinity where a float16 overflowed.
    """
    values = stored.astype(dtype)
    if np.isfinite(values).all():
        return values, np.ones(len(values), dtype=bool)
    limit = np.finfo(stored.dtype).max
    with np.errstate(invalid="ignore"):
        values = values.clip(-limit, limit)
    return values, ~np.isnan(values).any(axis=tuple(range(1, values.ndim)))


def _volumes(voxels: np.ndarray, _: Ids, geometry: Geometry) -> tuple[np.ndarray, Known]:
    """Return volumes in nm^3 (exact for a resolution in whole nm, else rounded) and an all-true mask.

    Raises ValueError for a volume of 2^64 nm^3 or more.
    """
    whole = all(float(step).is_integer() for step in geometry.resolution)
    volume = math.prod(int(step) if whole else step for step in geometry.resolution)
    most = int(voxels.max(initial=0))
    if round(most * volume) >= 1 << 64:
        raise ValueError(f"{most} voxels of {volume} nm^3 each: expected a volume below 2^64 nm^3")
    sizes = voxels.astype(np.uint64) * np.uint64(volume) if whole else np.rint(voxels * volume)
    return sizes.astype(np.uint64, copy=False), np.ones(len(voxels), dtype=bool)


def _positions(index: np.ndarray, ids: Ids, geometry: Geometry) -> tuple[np.ndarray, Known]:
    """Convert voxel indices in each node's chunk to positions in nm. Also return a mask of the L2 ids."""
    positions = (geometry.node_origins(ids) + index) * np.array(geometry.resolution, dtype=np.float64)
    return np.ascontiguousarray(positions), geometry.layout.layers(ids) == L2


VOLUME = Serving(np.dtype("<u8"), "nm^3", _volumes)
POSITION = Serving(np.dtype("<f8"), "nm", _positions)
