"""Strips of neighbouring lines of a block: filled from runs, and measured along their axis."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..core.jit import compiled
from .envelope import LineBuffers, measure_lines
from .runs import Runs, start_of, stop_of
from .simd import (
    LANES,
    add,
    any_greater,
    differing,
    larger,
    load,
    smaller,
    splat,
    store,
    where_equal,
    where_less,
)

FAR_32 = 2**30
"""More than any squared distance in 32 bits; another one can be added without overflow."""
_BLOCK = 256
"""Least number of neighbouring voxels to a block, where the volume has as many."""
_PAD = 64
"""Bytes between the rows of a block, without which its rows would share few of the cache's sets."""
GROUP = 12
"""Steps of every row, and rows to a group of which the first is searched beyond."""
_PATIENCE = 48
"""Steps per row, on average, beyond which lower envelopes are faster."""


class Tables(NamedTuple):
    """Squared distances along the first axis."""

    rising: np.ndarray
    """far throughout, for runs that begin at the chunk's border; from ``half`` on those of 1, 2, ..."""
    falling: np.ndarray
    """far throughout; from ``half`` on those of shape[0], ..., 2, 1."""
    half: int


class Spans(NamedTuple):
    """A value for each voxel of a line from its first to its last label: few in a sparse volume."""

    values: np.ndarray
    """LANES more elements follow, so that whole vectors can be loaded up to the end."""
    places: np.ndarray
    """int64 (lines + 1,), index in ``values`` of the first of each line."""
    begins: np.ndarray
    """int64 (lines,), index of that voxel along the line; the line's length if it has none."""


def make_spans(runs: Runs, dtype: type) -> Spans:
    places, begins = np.zeros(len(runs.offsets), np.int64), np.empty(len(runs.offsets) - 1, np.int64)
    _place_spans(runs, places, begins)
    values: np.ndarray = np.empty(places[-1] + LANES, dtype)
    values[-LANES:] = 0
    return Spans(values, places, begins)


@compiled
def _place_spans(runs: Runs, places: np.ndarray, begins: np.ndarray) -> None:
    for line in range(len(begins)):
        run, end = runs.offsets[line], runs.offsets[line + 1]
        begins[line] = 0 if runs.labels[run] != 0 else stop_of(runs, run, end)
        stop = runs.shape[0] if runs.labels[end - 1] != 0 else start_of(runs, end - 1)
        places[line + 1] = places[line] + max(stop - begins[line], 0)


def make_tables(n: int, unit: Any, far: np.integer[Any]) -> Tables:
    half = n + LANES
    squares = np.minimum(np.arange(1, half + 1) ** 2 * unit, far).astype(far.dtype)
    beyond = np.full(half, far)
    falling = np.concatenate([beyond, squares[:n][::-1], beyond])
    return Tables(np.concatenate([beyond, squares]), falling, half)


def make_block(shape: tuple[int, int, int], axis: int, dtype: type) -> LineBuffers:
    lines = min(max(1, _BLOCK // shape[0]), shape[3 - axis])
    width = -(-lines * shape[0] // LANES) * LANES
    pitch = width + _PAD // np.dtype(dtype).itemsize
    size = pitch * shape[axis] + LANES
    labels = np.uint16 if dtype is np.uint16 else np.uint32
    lowest = (shape[axis] // GROUP + 3) * LANES
    values, out = _aligned(size, dtype), _aligned(size, dtype)
    return LineBuffers(_aligned(size, labels), values, out, _aligned(lowest, dtype), width, pitch)


def _aligned(n: int, dtype: type) -> np.ndarray:
    """Return zeros that begin at a cache line."""
    raw = np.zeros(n * np.dtype(dtype).itemsize + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + n * np.dtype(dtype).itemsize].view(dtype)


@compiled
def spread_lines(runs: Runs, begin: int, lines: int, tables: Tables, block: LineBuffers) -> None:
    """Fill a block for the pass along axis 1: with labels, and squared distances along axis 0."""
    n0, n1, _ = runs.shape
    for row in range(n1):
        place = row * block.pitch
        for i in range(lines):
            _spread_line(runs, row + (begin + i) * n1, tables, block, place + i * n0)
        _clear(block, place + lines * n0, place + block.width)


@compiled
def keep_lines(runs: Runs, begin: int, lines: int, block: LineBuffers, squares: Spans) -> None:
    """Keep the results of the pass along axis 1, in the order of the lines: vectors reach beyond them."""
    n0, n1, _ = runs.shape
    for i in range(lines):
        for row in range(n1):
            line, place = row + (begin + i) * n1, row * block.pitch + i * n0
            target, n = squares.places[line], squares.places[line + 1] - squares.places[line]
            _copy(block.out, place + squares.begins[line], squares.values, target, n)


@compiled
def load_lines(runs: Runs, begin: int, lines: int, squares: Spans, block: LineBuffers) -> None:
    """Fill a block for the pass along axis 2: with labels, and the squared distances of the pass before."""
    n0, n1, n2 = runs.shape
    for row in range(n2):
        place = row * block.pitch
        for i in range(lines):
            _load_line(runs, begin + i + row * n1, squares, block, place + i * n0)
        _clear(block, place + lines * n0, place + block.width)


@compiled
def _clear(block: LineBuffers, start: int, stop: int) -> None:
    block.labels[start:stop] = 0
    block.values[start:stop] = 0


@compiled
def _spread_line(runs: Runs, line: int, tables: Tables, block: LineBuffers, place: int) -> None:
    """Write a line's labels, and its squared distances along the line: 0 in the background."""
    n0 = runs.shape[0]
    end = runs.offsets[line + 1]
    for run in range(runs.offsets[line], end):
        label = runs.labels[run]
        start = start_of(runs, run)
        stop = stop_of(runs, run, end)
        rising = tables.half - start if start > 0 else 0
        falling = tables.half + n0 - stop if stop < n0 else 0
        for i in range(start, stop, LANES):
            store(block.labels, place + i, splat(block.labels, label))
            if label == 0:
                store(block.values, place + i, splat(block.values, 0))
            else:
                nearer = smaller(load(tables.rising, rising + i), load(tables.falling, falling + i))
                store(block.values, place + i, nearer)


@compiled
def _load_line(runs: Runs, line: int, squares: Spans, block: LineBuffers, place: int) -> None:
    """Write a line's labels, and its squared distances: 0 in the background."""
    begin, n = squares.begins[line], squares.places[line + 1] - squares.places[line]
    zeros = splat(block.values, 0)
    for i in range(0, begin, LANES):
        store(block.values, place + i, zeros)
    _copy(squares.values, squares.places[line], block.values, place + begin, n)
    for i in range(begin + n, runs.shape[0], LANES):
        store(block.values, place + i, zeros)
    end = runs.offsets[line + 1]
    for run in range(runs.offsets[line], end):
        for i in range(start_of(runs, run), stop_of(runs, run, end), LANES):
            store(block.labels, place + i, splat(block.labels, runs.labels[run]))


@compiled
def _copy(source: np.ndarray, start: int, target: np.ndarray, place: int, n: int) -> None:
    """Copy n elements, and up to LANES - 1 more."""
    for i in range(0, n, LANES):
        store(target, place + i, load(source, start + i))


@compiled
def measure_strip(block: LineBuffers, strip: int, rows: int, unit: Any, far: Any) -> bool:
    """Measure a strip; return False, and leave it unfinished, where a result of a thick label is far.

    In thick labels every GROUP-th row is searched first. Which row's parabola is the lowest only moves on
    from row to row, so that the rows between two need only the parabolas between theirs.
    """
    if _measure_sparse(block, strip, rows, unit, far):
        return True
    reach = int(math.sqrt(far / unit))
    thick = False
    for row in range(rows):
        thick |= _measure_row(block, strip, row, rows, unit, min(reach, GROUP)) > GROUP
    return not thick or reach <= GROUP or _measure_thick(block, strip, rows, unit, far, reach)


@compiled
def _measure_sparse(block: LineBuffers, strip: int, rows: int, unit: Any, far: Any) -> bool:
    """Measure a strip inside one label, of whose rows at most 2 * GROUP have values below far.

    Return False, with nothing done, for any other strip.
    """
    labels, values, sources, pitch = block.labels, block.values, block.lowest, block.pitch
    label = splat(labels, labels[strip])
    if labels[strip] == 0:
        return False
    n = 0
    nearest = splat(values, far)
    for row in range(rows):
        place = strip + row * pitch
        if differing(load(labels, place), label) != 0:
            return False
        if any_greater(nearest, load(values, place)):
            if n == 2 * GROUP:
                return False
            sources[n] = row
            n += 1
    for row in range(rows):
        best = nearest
        for i in range(n):
            k = row - np.int64(sources[i])
            if k * k * unit < far:
                other = add(load(values, strip + sources[i] * pitch), splat(values, k * k * unit))
                best = smaller(other, best)
        store(block.out, strip + row * pitch, best)
    return True


@compiled
def _measure_row(block: LineBuffers, strip: int, row: int, rows: int, unit: Any, reach: int) -> int:
    """Write the results of a strip's row up to ``reach`` steps away; return the first step not taken.

    Beyond the ends of the lines the last voxels count again at larger distances, which changes nothing.
    """
    labels, values, out = block.labels, block.values, block.out
    pitch = block.pitch
    here = load(labels, strip + row * pitch)
    best = load(values, strip + row * pitch)
    cost = splat(values, unit)
    k = 1
    limit = min(max(row, rows - 1 - row), reach)
    while k <= limit and any_greater(best, cost):
        back = strip + max(row - k, 0) * pitch
        forth = strip + min(row + k, rows - 1) * pitch
        best = smaller(add(where_equal(load(labels, back), here, load(values, back)), cost), best)
        best = smaller(add(where_equal(load(labels, forth), here, load(values, forth)), cost), best)
        k += 1
        cost = splat(values, k * k * unit)
    store(out, strip + row * pitch, best)
    return k


@compiled
def _measure_thick(block: LineBuffers, strip: int, rows: int, unit: Any, far: Any, reach: int) -> bool:
    groups = -(-(rows - 1) // GROUP)
    steps = 0
    for group in range(groups + 1):
        row = min(group * GROUP, rows - 1)
        steps += _search_row(block, strip, row, group, rows, unit, reach)
        if block.out.itemsize == 2 and reaches(block, strip + row * block.pitch, far):
            return False
    for group in range(groups):
        steps += _measure_group(block, strip, group, rows, unit, far, reach)
        if steps > _PATIENCE * rows:
            measure_lines(block, strip, rows, np.int64(unit), np.int64(far))
            break
    return True


@compiled
def reaches(block: LineBuffers, place: int, far: Any) -> bool:
    """Return whether any result in a row of a strip is ``far``."""
    return bool(any_greater(load(block.out, place), splat(block.out, far - 1)))


@compiled
def _search_row(
    block: LineBuffers, strip: int, row: int, group: int, rows: int, unit: Any, reach: int
) -> int:
    """Measure a row, and note for each lane the row whose parabola is the lowest; return the steps taken."""
    labels, values, pitch = block.labels, block.values, block.pitch
    here = load(labels, strip + row * pitch)
    best = load(values, strip + row * pitch)
    lowest = splat(values, row)
    steps = 0
    for way in (-1, 1):
        k, at = 1, row + way
        while 0 <= at < rows and k <= reach:
            cost = splat(values, k * k * unit)
            if not any_greater(best, cost):
                break
            place = strip + at * pitch
            other = add(where_equal(load(labels, place), here, load(values, place)), cost)
            lowest = where_less(other, best, splat(values, at), lowest)
            best = smaller(other, best)
            k += 1
            at += way
        steps += k
    store(block.out, strip + row * pitch, best)
    store(block.lowest, group * LANES, lowest)
    return steps // 2


@compiled
def _measure_group(
    block: LineBuffers, strip: int, group: int, rows: int, unit: Any, far: Any, reach: int
) -> int:
    """Measure the rows between two that have been searched; return the steps taken."""
    first, last = group * GROUP, min((group + 1) * GROUP, rows - 1)
    limit = min((GROUP + 1) ** 2 * unit, far)
    most = splat(block.out, 0)
    for row in range(first + 1, last):
        most = larger(load(block.out, strip + row * block.pitch), most)
    if not any_greater(most, splat(block.out, limit)):
        return 0
    spare = len(block.lowest) - LANES
    store(block.lowest, spare, most)
    begin, steps = rows, 0
    end: Any = np.int64(-1)  # see measure_lines
    for lane in range(LANES):
        if block.lowest[spare + lane] > limit:
            begin = min(begin, int(block.lowest[group * LANES + lane]))
            end = max(end, int(block.lowest[(group + 1) * LANES + lane]))
    for row in range(first + 1, last):
        steps += _search_between(block, strip, row, begin, end, unit, reach)
    return steps


@compiled
def _search_between(
    block: LineBuffers, strip: int, row: int, begin: int, end: int, unit: Any, reach: int
) -> int:
    """Go on with a row from GROUP steps away, up to rows ``begin`` and ``end``; return the steps taken."""
    labels, values, pitch = block.labels, block.values, block.pitch
    here = load(labels, strip + row * pitch)
    best = load(block.out, strip + row * pitch)
    steps = 0
    for way in (-1, 1):
        k = GROUP + 1
        if way < 0:
            k, stop = max(k, row - end), row - begin
        else:
            k, stop = max(k, begin - row), end - row
        while k <= min(stop, reach):
            cost = splat(values, k * k * unit)
            if not any_greater(best, cost):
                break
            place = strip + (row + way * k) * pitch
            best = smaller(add(where_equal(load(labels, place), here, load(values, place)), cost), best)
            k += 1
            steps += 1
    store(block.out, strip + row * pitch, best)
    return steps // 2
