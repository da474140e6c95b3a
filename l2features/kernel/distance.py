"""Distance of each voxel to the nearest voxel of another label, exactly, in whole nm.

Squared distances are integers, in squares of the resolution's greatest common divisor. Distances along the
first axis come from the runs. Along each other axis, with g the squared distances so far and a the extent of
a voxel,

    d2(v) = min over k >= 0 and both directions of  k^2 a^2 + (g(v + k) if label(v + k) == label(v) else 0).

Voxels beyond another label need no special case: they are farther than that label's first voxel. The search
for d2(v) ends when k^2 a^2 reaches the minimum so far. Voxels are measured in strips of neighbouring
lines (`strips`): a strip fits into the cache, and a row of a strip into registers. Most chunks are measured
in 16 bits (`narrow`). Between the passes, only the part of each line from its first labelled voxel to its
last is stored (`spans`).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import edt
import numpy as np

from ..core.jit import compiled
from . import narrow
from .envelope import LineBuffers
from .runs import Runs
from .simd import LANES
from .spans import Spans, make_spans, reuse
from .strips import (
    FAR_32,
    Tables,
    keep_lines,
    load_lines,
    make_block,
    make_tables,
    measure_strip,
    spread_lines,
)

_FAR_64 = 2**62
"""More than any squared distance. The sum with a squared distance does not overflow int64."""
_WHOLE = 2**53
"""float64 represents every smaller whole number exactly."""


class Scale(NamedTuple):
    """A resolution: ``steps`` is the extent of a voxel along each axis, in whole multiples of a unit.

    If a squared distance is d squared units, the distance is ``sqrt(d * factor) / divisor`` nm. If float64
    holds ``d * factor`` exactly, the floored result is exact: the root of a whole number never comes so near
    to a multiple of the divisor that float64 cannot tell them apart.
    """

    steps: list[int]
    factor: float
    divisor: float


def whole_distances(runs: Runs, resolution: np.ndarray, axes: tuple[int, ...]) -> Spans:
    """Return each voxel's distance to another label in whole nm (floored), uint16 or int32; 0 in background.

    ``resolution`` is in nm per voxel, in the order of the runs' axes; ``axes`` maps the runs' axes to x, y
    and z. Distances are exact for resolutions with few decimals, such as 8.25; for other resolutions, the
    ``edt`` package measures in float32. The volume must hold two different labels.
    """
    scale = _scale(resolution)
    bound = sum((n * a) ** 2 for n, a in zip(runs.shape, scale.steps, strict=True))
    if bound < _FAR_64 and (scale.divisor == 1 or bound * scale.factor < _WHOLE):
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
    steps = scale.steps
    longest = math.sqrt(bound * scale.factor) / scale.divisor
    if bound < FAR_32 and longest < narrow.FAR and int(runs.labels.max()) < 2**16:
        short = _short_distances(runs, scale)
        if short is not None:
            return short
    dtype = np.int32 if bound < FAR_32 else np.int64
    far = dtype(FAR_32 if dtype is np.int32 else _FAR_64)
    tables = make_tables(runs.shape[0], steps[0] ** 2, far)
    distances = make_spans(runs, dtype)
    units = [step**2 for step in steps]
    _first_pass(runs, units[1], int(far), tables, make_block(runs.shape, 1, dtype), distances)
    block = make_block(runs.shape, 2, dtype)
    _second_pass(runs, units[2], int(far), block, distances, scale.factor, scale.divisor)
    distances.values[-LANES:] = 0  # where vectors of squares ended, which int32 does not hold
    return distances._replace(values=distances.values.astype(np.int32, copy=False))


def _short_distances(runs: Runs, scale: Scale) -> Spans | None:
    """Return distances as uint16, or None if too many squared distances exceed 16 bits."""
    distances, squares = make_spans(runs, np.uint16), [step**2 for step in scale.steps]
    kinds = ((np.uint16, np.uint16(narrow.FAR)), (np.int32, np.int32(FAR_32)))
    tables = [make_tables(runs.shape[0], squares[0], far) for _, far in kinds]
    passes = [
        narrow.Depths(
            *(
                narrow.Depth(squares[axis], table, make_block(runs.shape, axis, dtype))
                for table, (dtype, _) in zip(tables, kinds, strict=True)
            )
        )
        for axis in (1, 2)
    ]
    thick = narrow.make_thick(runs.shape, passes[0].narrow.block)
    if not narrow.first_pass(runs, passes[0].narrow, distances, thick):
        reuse(distances)
        return None
    squares_nm = np.arange(narrow.FAR + 1) * scale.factor
    whole = (np.sqrt(squares_nm) / scale.divisor).astype(np.uint16)
    narrow.second_pass(runs, passes[0].wide, passes[1], distances, thick, whole, scale.factor, scale.divisor)
    return distances


@compiled
def _first_pass(
    runs: Runs, unit: Any, far: Any, tables: Tables, block: LineBuffers, distances: Spans
) -> None:
    """Compute squared distances along the first two axes of the runs."""
    n0, n1, n2 = runs.shape
    most = block.width // n0
    for begin in range(0, n2, most):
        lines = min(most, n2 - begin)
        spread_lines(runs, begin, lines, tables, block)
        for strip in range(0, lines * n0, LANES):
            measure_strip(block, strip, n1, unit, far)
        keep_lines(runs, begin, lines, block, distances)


@compiled
def _second_pass(
    runs: Runs, unit: Any, far: Any, block: LineBuffers, distances: Spans, factor: float, divisor: float
) -> None:
    """Replace squared distances along two axes by distances along all three, in whole nm."""
    n0, n1, n2 = runs.shape
    most = block.width // n0
    for begin in range(0, n1, most):
        lines = min(most, n1 - begin)
        load_lines(runs, begin, lines, distances, block)
        for strip in range(0, lines * n0, LANES):
            measure_strip(block, strip, n2, unit, far)
        for row in range(n2):
            for i in range(lines):
                line, place = begin + i + row * n1, row * block.pitch + i * n0
                _take_roots(block, place, distances, line, factor, divisor)


@compiled
def _take_roots(
    block: LineBuffers, place: int, distances: Spans, line: int, factor: float, divisor: float
) -> None:
    """Write a line's distances in whole nm, from its squared distances in ``block.out``."""
    target = distances.values[distances.places[line] : distances.places[line + 1]]
    place += distances.begins[line]
    source = block.out[place : place + len(target)]
    for i in range(len(target)):
        target[i] = target.dtype.type(math.sqrt(source[i] * factor) / divisor)


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
