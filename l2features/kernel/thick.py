"""Squared distances in strips through thick labels, where the first steps of `strips` are not enough."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.jit import compiled
from .envelope import LineBuffers, measure_lines
from .simd import LANES, add, any_greater, larger, load, smaller, splat, store, where_less

STEPS = 16
"""Number of steps that are taken for all voxels of a strip at once, before `measure_thick`."""
GROUP = 12
"""Number of rows in a group; only the first row of a group is searched in full."""
_PATIENCE = 48
"""Average number of steps per row above which lower envelopes (`measure_lines`) are faster."""


@compiled
def measure_thick(block: LineBuffers, strip: int, rows: int, unit: Any, far: Any, reach: int) -> None:
    """Finish the distances that are not final after the first STEPS steps of `strips`.

    Each row has a parabola: its value after these steps, plus a cost that grows with the distance from it.
    The result at a row is the value of the parabola that is lowest there. The index of the lowest parabola
    never decreases from row to row. Where needed, every GROUP-th row is searched first. A row between two
    searched rows then needs only the parabolas from the one that is lowest at the first of them to the one
    that is lowest at the second.

    ``strip`` is the index of the strip's first line; each line has ``rows`` voxels. ``unit`` is the square of
    a voxel's extent along the lines, and ``far`` the largest result. A voxel more than ``reach`` rows away
    does not matter, because its squared distance exceeds ``far``.
    """
    for row in range(rows):
        store(block.stepped, row * LANES, load(block.out, strip + row * block.pitch))
    limit = splat(block.out, min((STEPS + 1) ** 2 * unit, far))
    groups = -(-(rows - 1) // GROUP)
    steps, searched = 0, -1
    for group in range(groups):
        first, last = group * GROUP, min((group + 1) * GROUP, rows - 1)
        inner = splat(block.out, 0)
        for row in range(first + 1, last):
            inner = larger(load(block.stepped, row * LANES), inner)
        ends = larger(load(block.stepped, first * LANES), load(block.stepped, last * LANES))
        if not any_greater(larger(inner, ends), limit):
            continue
        if searched < first:
            steps += _search_row(block, strip, first, group, rows, unit, reach)
        steps += _search_row(block, strip, last, group + 1, rows, unit, reach)
        searched = last
        if any_greater(inner, limit):
            steps += _measure_group(block, strip, first, last, group, inner, limit, unit, reach)
        if steps > _PATIENCE * rows:
            measure_lines(block, strip, rows, np.int64(unit), np.int64(far))
            break


@compiled
def _search_row(
    block: LineBuffers, strip: int, row: int, group: int, rows: int, unit: Any, reach: int
) -> int:
    """Measure a row, and store for each lane the index of the parabola that is lowest at this row.

    Returns the number of steps, averaged over the two directions.
    """
    stepped = block.stepped
    best = load(stepped, row * LANES)
    lowest = splat(stepped, row)
    steps = 0
    for way in (-1, 1):
        k, at = STEPS + 1, row + way
        while 0 <= at < rows and k <= reach and any_greater(best, splat(stepped, k * k * unit)):
            cost = splat(stepped, (k * k - STEPS * STEPS) * unit)
            other = add(load(stepped, at * LANES), cost)
            lowest = where_less(other, best, splat(stepped, at), lowest)
            best = smaller(other, best)
            k += 1
            at += way
            steps += 1
    store(block.out, strip + row * block.pitch, best)
    store(block.lowest, group * LANES, lowest)
    return steps // 2


@compiled
def _measure_group(
    block: LineBuffers,
    strip: int,
    first: int,
    last: int,
    group: int,
    inner: Any,
    limit: Any,
    unit: Any,
    reach: int,
) -> int:
    """Measure the rows between the searched rows ``first`` and ``last``.

    ``inner`` holds, for each lane, the largest result of these rows after STEPS steps. Returns the number
    of steps of all these rows, averaged over the two directions.
    """
    spare = len(block.lowest) - 2 * LANES
    store(block.lowest, spare, inner)
    store(block.lowest, spare + LANES, limit)
    begin, steps = last, 0
    end: Any = np.int64(first)  # see measure_lines
    for lane in range(LANES):
        if block.lowest[spare + lane] > block.lowest[spare + LANES + lane]:
            begin = min(begin, int(block.lowest[group * LANES + lane]))
            end = max(end, int(block.lowest[(group + 1) * LANES + lane]))
    for row in range(first + 1, last):
        steps += _search_between(block, strip, row, begin, end, unit, reach)
    return steps


@compiled
def _search_between(
    block: LineBuffers, strip: int, row: int, begin: int, end: int, unit: Any, reach: int
) -> int:
    """Measure a row by the parabolas of rows ``begin`` to ``end``; return the steps as `_search_row` does."""
    stepped = block.stepped
    best = load(stepped, row * LANES)
    steps = 0
    for way in (-1, 1):
        if way < 0:
            k, stop = max(1, row - end), row - begin
        else:
            k, stop = max(1, begin - row), end - row
        k += STEPS
        stop = min(stop + STEPS, reach)
        while k <= stop and any_greater(best, splat(stepped, k * k * unit)):
            place = (row + way * (k - STEPS)) * LANES
            best = smaller(add(load(stepped, place), splat(stepped, (k * k - STEPS * STEPS) * unit)), best)
            k += 1
            steps += 1
    store(block.out, strip + row * block.pitch, best)
    return steps // 2
