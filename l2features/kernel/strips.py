"""Squared distances along an axis. A block holds neighbouring lines; LANES of them at a time are a strip."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..core.jit import compiled
from .envelope import LineBuffers
from .runs import Runs, start_of, stop_of
from .simd import LANES, add, any_greater, differing, larger, load, smaller, splat, store, where_equal
from .spans import Spans
from .thick import GROUP, STEPS, measure_thick

_BLOCK = 256
"""Maximum number of voxels in a row of a block that has more than one line."""
_PAD = 64
"""Bytes between the rows of a block. Without them, all rows would compete for a few sets of the cache."""


class Tables(NamedTuple):
    """Squared distances of a run's voxels to the voxels just before and after it, along the first axis."""

    rising: np.ndarray
    """The first ``half`` elements are ``far``, for runs that begin at the chunk's border. Then come the
    squared distances of 1, 2, ... voxels."""
    falling: np.ndarray
    """The first ``half`` elements are ``far``, for runs that end at the chunk's border. Then come the squared
    distances of n, ..., 2, 1 voxels, then ``far`` again; n is the axis's length."""
    half: int
    """The axis's length plus LANES."""


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
    lowest = (shape[axis] // GROUP + 4) * LANES
    values, out, stepped = _aligned(size, dtype), _aligned(size, dtype), _aligned(shape[axis] * LANES, dtype)
    return LineBuffers(_aligned(size, labels), values, out, stepped, _aligned(lowest, dtype), width, pitch)


def _aligned(n: int, dtype: type) -> np.ndarray:
    """Return an array of n zeros that begins at a cache line."""
    raw = np.zeros(n * np.dtype(dtype).itemsize + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + n * np.dtype(dtype).itemsize].view(dtype)


@compiled
def spread_lines(runs: Runs, begin: int, lines: int, tables: Tables, block: LineBuffers) -> None:
    """Fill a block for the pass along axis 1, with the labels and the squared distances along axis 0.

    The block receives the voxels with index ``begin`` to ``begin + lines - 1`` along axis 2.
    """
    n0, n1, _ = runs.shape
    for row in range(n1):
        place = row * block.pitch
        for i in range(lines):
            _spread_line(runs, row + (begin + i) * n1, tables, block, place + i * n0)
        _clear(block, place + lines * n0, place + block.width)


@compiled
def keep_lines(runs: Runs, begin: int, lines: int, block: LineBuffers, squares: Spans) -> None:
    """Copy the results of a block, filled by `spread_lines`, to ``squares``.

    The lines are copied in order. The last vector of a line may write beyond the line's end; later lines
    overwrite these elements.
    """
    n0, n1, _ = runs.shape
    for i in range(lines):
        for row in range(n1):
            line, place = row + (begin + i) * n1, row * block.pitch + i * n0
            target, n = squares.places[line], squares.places[line + 1] - squares.places[line]
            _copy(block.out, place + squares.begins[line], squares.values, target, n)


@compiled
def load_lines(runs: Runs, begin: int, lines: int, squares: Spans, block: LineBuffers) -> None:
    """Fill a block for the pass along axis 2, with the labels and the squared distances of the previous pass.

    The block receives the voxels with index ``begin`` to ``begin + lines - 1`` along axis 1.
    """
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
    """Write a strip's squared distances to ``block.out``. The parameters are those of `measure_thick`.

    If this returns False, all these distances are below ``far``; if it returns True, some may be ``far``.
    """
    if _measure_sparse(block, strip, rows, unit, far):
        return True
    reach = int(math.sqrt(far / unit))
    if not _step(block, strip, rows, unit, min(reach, STEPS)):
        return reach <= STEPS
    if reach > STEPS:
        measure_thick(block, strip, rows, unit, far, reach)
    return True


@compiled
def _measure_sparse(block: LineBuffers, strip: int, rows: int, unit: Any, far: Any) -> bool:
    """Measure a strip if one label (not 0) fills it, and at most 2 * GROUP rows have values below ``far``.

    Returns False, with nothing written to ``block.out``, for any other strip.
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
def _step(block: LineBuffers, strip: int, rows: int, unit: Any, reach: int) -> bool:
    """Write each voxel's squared distance to ``block.out``; consider voxels up to ``reach`` rows away.

    Returns whether rows farther away may still lower a result. A voxel k rows away costs k^2 = 1 + 3 + ... +
    (2k - 1) times ``unit``. So step k adds (2k - 1) * unit to the results of the two neighbouring rows, and
    keeps these sums where they are smaller. Only step 1 compares labels. It leaves at most ``unit`` on both
    sides of a boundary. A later step across the boundary adds at least 3 * unit, so it lowers nothing there.
    """
    labels, values, out, pitch = block.labels, block.values, block.out, block.pitch
    cost, most = splat(values, unit), splat(values, 0)
    last = strip + (rows - 1) * pitch
    for place in range(strip, last + 1, pitch):
        best = load(values, place)
        if reach > 0 and any_greater(best, cost):
            here = load(labels, place)
            back, forth = max(place - pitch, strip), min(place + pitch, last)
            best = smaller(add(where_equal(load(labels, back), here, load(values, back)), cost), best)
            best = smaller(add(where_equal(load(labels, forth), here, load(values, forth)), cost), best)
            most = larger(best, most)
        store(out, place, best)
    k = 2
    while k <= reach and any_greater(most, splat(values, k * k * unit)):
        cost, most = splat(values, (2 * k - 1) * unit), splat(values, 0)
        before = load(out, strip)
        here = before
        for place in range(strip, last + 1, pitch):
            after = load(out, min(place + pitch, last))
            best = smaller(add(smaller(before, after), cost), here)
            store(out, place, best)
            most = larger(best, most)
            before = here
            here = after
        k += 1
    return k > reach and any_greater(most, splat(values, k * k * unit))


@compiled
def reaches(block: LineBuffers, place: int, far: Any) -> bool:
    """Return whether a result in a strip's row equals ``far``. The row's first result is at ``place``."""
    return bool(any_greater(load(block.out, place), splat(block.out, far - 1)))
