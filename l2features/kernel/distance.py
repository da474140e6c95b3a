"""Distance of each voxel to the nearest voxel of another label, in whole nm (floored).

Squared distances are integers. Their unit of length is the greatest common divisor of a voxel's three sizes.
Distances along the first axis come from the runs. Along each other axis, with g the squared distances so far
and a the extent of a voxel,

    d2(v) = min over k >= 0 and both directions of  k^2 a^2 + (g(v + k) if label(v + k) == label(v) else 0).

If another label lies between v and v + k, the voxel where it begins gives a smaller value than v + k, so
v + k needs no special case. The search for d2(v) ends when k^2 a^2 reaches the minimum so far. Voxels are
measured in strips of neighbouring lines (`strips`). A strip fits into the cache. A row of a strip, one voxel
of each line, fits into registers. Most strips are measured in 16 or 32 bits (`narrow`). From one axis to the
next, only the part of each line from its first labelled voxel to its last is stored (`spans`).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import edt
import numpy as np

from .narrow import FAR, measure
from .runs import Runs
from .simd import LANES
from .spans import Spans, make_spans

_WHOLE = 2**53
"""float64 represents every smaller whole number exactly."""


class Scale(NamedTuple):
    """A resolution: ``steps`` is the extent of a voxel along each axis, in whole multiples of a unit.

    If a squared distance is d squared units, the distance is ``sqrt(d * factor) / divisor`` nm. If
    ``d * factor`` is at most 2^52, the floored result is exact: in float64, a root just below a whole number
    never rounds up to that number. Beyond 2^52, a distance may be 1 nm too large.
    """

    steps: list[int]
    factor: float
    divisor: float


def whole_distances(runs: Runs, resolution: np.ndarray, axes: tuple[int, ...]) -> Spans:
    """Return each voxel's distance to another label in whole nm (floored), uint16 or int32; 0 in background.

    ``resolution`` is in nm per voxel, in the order of the runs' axes; ``axes[i]`` is 0, 1 or 2 if axis i of
    the runs is x, y or z. Distances are exact for resolutions with few decimals, such as 8.25; for other
    resolutions, the ``edt`` package measures in float32. The volume must hold two different labels.
    """
    scale = _scale(resolution)
    bound = sum((n * a) ** 2 for n, a in zip(runs.shape, scale.steps, strict=True))
    if bound < FAR[np.int64] and (scale.divisor == 1 or bound * scale.factor < _WHOLE):
        return _exact_distances(runs, scale, bound)
    return _float_distances(runs, resolution, axes)


def _scale(resolution: np.ndarray) -> Scale:
    """Return a resolution as whole multiples of a common unit."""
    exact = [Fraction(str(r)) for r in resolution.tolist()]
    below = math.lcm(*(r.denominator for r in exact))
    whole = [int(r * below) for r in exact]
    unit = math.gcd(*whole)
    return Scale([r // unit for r in whole], float(unit) ** 2, float(below))


def _exact_distances(runs: Runs, scale: Scale, bound: int) -> Spans:
    """Return exact distances; ``bound`` is more than any squared distance.

    Tries the narrowest integers first.
    """
    longest = math.sqrt(bound * scale.factor) / scale.divisor
    kinds: list[tuple[type[np.integer[Any]], type[np.integer[Any]]]] = [(np.int64, np.int64)]
    if max(scale.steps) ** 2 < FAR[np.int32]:
        kinds.insert(0, (np.int32, np.int64))
    if bound < FAR[np.int32] and longest < FAR[np.uint16] and int(runs.labels.max()) < 2**16:
        kinds.insert(0, (np.uint16, np.int32))
    tried = (measure(runs, *scale, pair, bound < FAR[pair[0]]) for pair in kinds)
    distances = next(found for found in tried if found is not None)
    if distances.values.dtype == np.int64:
        distances.values[-LANES:] = 0  # where vectors of squares ended, which int32 does not hold
        distances = distances._replace(values=distances.values.astype(np.int32))
    return distances


def _float_distances(runs: Runs, resolution: np.ndarray, axes: tuple[int, ...]) -> Spans:
    """Return distances from the ``edt`` package.

    The package gets the axes as x, y, z, because its rounding depends on their order.
    """
    labels = runs.labels.astype(np.uint16) if int(runs.labels.max()) < 2**16 else runs.labels
    in_xyz = np.argsort(axes)
    volume = np.asfortranarray(runs._replace(labels=labels).voxels().transpose(in_xyz))
    nm = edt.edt(volume, anisotropy=tuple(resolution[in_xyz].tolist()), black_border=False, parallel=1)
    distances = make_spans(runs, np.int32)
    behind = (distances.begins + np.diff(distances.places))[:, None]
    along = np.arange(runs.shape[0])
    inside = (along >= distances.begins[:, None]) & (along < behind)
    distances.values[: distances.places[-1]] = nm.transpose(axes).T.reshape(inside.shape)[inside]
    return distances
