"""Distance of each voxel to the nearest voxel of another label, exactly, in whole nm.

Squared distances are integers in units of the resolution's greatest common divisor. The first axis comes
from the runs. Along each of the two others, with g the squared distances so far and a the voxel's extent,

    d2(v) = min over k >= 0 and both directions of  k^2 a^2 + (g(v + k) if label(v + k) == label(v) else 0).

No segment need be followed: behind another label, met at k, nothing is nearer than k^2 a^2. A voxel is done
as soon as k^2 a^2 is not less than its value. Voxels are taken in strips of neighbouring lines; a strip lies
in the cache, and a row of it in registers. Where distances are large, lower envelopes of parabolas take over.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import edt
import numpy as np

from ..core.jit import compiled
from .envelope import Block, measure_lines
from .runs import Runs, start_of, stop_of
from .simd import LANES, add, any_greater, load, smaller, splat, store, where_equal

_BLOCK = 256
"""Least number of neighbouring voxels to a block, where the volume has as many."""
_FAR_32, _FAR_64 = 2**30, 2**62
"""More than any squared distance; another one can be added without overflow."""
_PAD = 16
"""Elements between the rows of a block, without which its rows would share few of the cache's sets."""
_PATIENCE = 48
"""Steps per row, on average, beyond which lower envelopes are faster."""


class _Tables(NamedTuple):
    """Squared distances along the first axis."""

    rising: np.ndarray
    """far throughout, for runs that begin at the chunk's border; from ``half`` on those of 1, 2, ..."""
    falling: np.ndarray
    """far throughout; from ``half`` on those of shape[0], ..., 2, 1."""
    half: int


def whole_distances(runs: Runs, resolution: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return distances in whole nm (floored): int32, one per voxel in run order, 0 for background.

    LANES zeros follow, so that whole vectors can be loaded up to the end.

    ``resolution``: nm per voxel, in the order of the runs' axes; ``axes``: which of x, y and z these are.
    Exact where the resolution is whole; others are measured by the ``edt`` package, in float32. The volume
    must hold two different labels.
    """
    if np.all(resolution == np.floor(resolution)):
        return _exact_distances(runs, [int(r) for r in resolution])
    return _float_distances(runs, resolution, axes)


def _exact_distances(runs: Runs, resolution: list[int]) -> np.ndarray:
    unit = math.gcd(*resolution)
    steps = [r // unit for r in resolution]
    bound = sum((n * a) ** 2 for n, a in zip(runs.shape, steps, strict=True))
    dtype = np.int32 if bound < _FAR_32 else np.int64
    far = dtype(_FAR_32 if dtype is np.int32 else _FAR_64)
    tables = _make_tables(runs.shape[0], steps[0] ** 2, far)
    distances = _empty_distances(runs, dtype)
    for axis, factor in ((1, 0.0), (2, float(unit) ** 2)):
        block = _make_block(runs.shape, axis, dtype)
        _pass(runs, axis, dtype(steps[axis] ** 2), far, tables, distances, factor, block)
    return distances.astype(np.int32, copy=False)


def _empty_distances(runs: Runs, dtype: type) -> np.ndarray:
    distances: np.ndarray = np.empty(math.prod(runs.shape) + LANES, dtype)
    distances[-LANES:] = 0
    return distances


def _make_tables(n: int, unit: Any, far: np.signedinteger) -> _Tables:
    half = n + LANES
    squares = np.minimum(np.arange(1, half + 1) ** 2 * unit, far).astype(far.dtype)
    beyond = np.full(half, far)
    falling = np.concatenate([beyond, squares[:n][::-1], beyond])
    return _Tables(np.concatenate([beyond, squares]), falling, half)


def _make_block(shape: tuple[int, int, int], axis: int, dtype: type) -> Block:
    lines = min(max(1, _BLOCK // shape[0]), shape[3 - axis])
    width = -(-lines * shape[0] // LANES) * LANES
    pitch = width + _PAD
    size = pitch * shape[axis] + LANES
    return Block(_aligned(size, np.uint32), _aligned(size, dtype), _aligned(size, dtype), width, pitch)


def _aligned(n: int, dtype: type) -> np.ndarray:
    """Return zeros that begin at a cache line."""
    raw = np.zeros(n * np.dtype(dtype).itemsize + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + n * np.dtype(dtype).itemsize].view(dtype)


@compiled
def _pass(
    runs: Runs,
    axis: int,
    unit: Any,
    far: Any,
    tables: _Tables,
    distances: np.ndarray,
    factor: float,
    block: Block,
) -> None:
    """Compute squared distances in two axes (factor 0), or whole nm in all three, in place."""
    n0 = runs.shape[0]
    rows, others = (runs.shape[1], runs.shape[2]) if axis == 1 else (runs.shape[2], runs.shape[1])
    row_step, step = (1, runs.shape[1]) if axis == 1 else (runs.shape[1], 1)
    most = block.width // n0
    for begin in range(0, others, most):
        lines = min(most, others - begin)
        for row in range(rows):
            place = row * block.pitch
            for i in range(lines):
                line = row * row_step + (begin + i) * step
                if factor == 0:
                    _spread_line(runs, line, tables, block, place + i * n0)
                else:
                    _spread_labels(runs, line, block.labels, place + i * n0)
                    _copy_line(distances, line * n0, block.values, place + i * n0, n0)
            block.labels[place + lines * n0 : place + block.width] = 0
            block.values[place + lines * n0 : place + block.width] = 0
        for strip in range(0, lines * n0, LANES):
            _measure_strip(block, strip, rows, unit, far)
        for row in range(rows):
            for i in range(lines):
                line = row * row_step + (begin + i) * step
                _write_line(block.out, row * block.pitch + i * n0, distances, line * n0, n0, factor)


@compiled
def _spread_line(runs: Runs, line: int, tables: _Tables, block: Block, place: int) -> None:
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
def _spread_labels(runs: Runs, line: int, labels: np.ndarray, place: int) -> None:
    """Write a line's labels."""
    end = runs.offsets[line + 1]
    for run in range(runs.offsets[line], end):
        stop = stop_of(runs, run, end)
        for i in range(start_of(runs, run), stop, LANES):
            store(labels, place + i, splat(labels, runs.labels[run]))


@compiled
def _copy_line(source: np.ndarray, start: int, target: np.ndarray, place: int, n: int) -> None:
    for i in range(0, n, LANES):
        store(target, place + i, load(source, start + i))


@compiled
def _write_line(
    out: np.ndarray, place: int, distances: np.ndarray, start: int, n: int, factor: float
) -> None:
    source, target = out[place : place + n], distances[start : start + n]
    for i in range(n):
        target[i] = source[i] if factor == 0 else target.dtype.type(math.sqrt(source[i] * factor))


@compiled
def _measure_strip(block: Block, strip: int, rows: int, unit: Any, far: Any) -> None:
    """Measure row by row; once that is slow, line by line."""
    steps = 0
    for row in range(rows):
        steps += _measure_row(block, strip, row, rows, unit)
        if steps > _PATIENCE * (row + 1 + rows // 8):
            measure_lines(block, strip, rows, np.int64(unit), np.int64(far))
            return


@compiled
def _measure_row(block: Block, strip: int, row: int, rows: int, unit: Any) -> int:
    """Write the results of a strip's row; return the number of steps it took.

    Beyond the ends of the lines the last voxels count again at larger distances, which changes nothing.
    """
    labels, values, out, _, pitch = block
    here = load(labels, strip + row * pitch)
    best = load(values, strip + row * pitch)
    cost = splat(values, unit)
    k = 1
    limit = max(row, rows - 1 - row)
    while k <= limit and any_greater(best, cost):
        back = strip + max(row - k, 0) * pitch
        forth = strip + min(row + k, rows - 1) * pitch
        best = smaller(add(where_equal(load(labels, back), here, load(values, back)), cost), best)
        best = smaller(add(where_equal(load(labels, forth), here, load(values, forth)), cost), best)
        k += 1
        cost = splat(values, k * k * unit)
    store(out, strip + row * pitch, best)
    return k


def _float_distances(runs: Runs, resolution: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return distances from the ``edt`` package, in x, y, z order: its rounding depends on the order."""
    labels = runs.labels.astype(np.uint16) if int(runs.labels.max()) < 2**16 else runs.labels
    lines = np.repeat(np.arange(len(runs.offsets) - 1), np.diff(runs.offsets))
    starts = lines * runs.shape[0] + runs.starts
    flat = np.repeat(labels, np.diff(starts, append=math.prod(runs.shape)))
    in_xyz = np.argsort(axes)
    volume = np.asfortranarray(flat.reshape(runs.shape, order="F").transpose(in_xyz))
    del flat
    nm = edt.edt(volume, anisotropy=tuple(resolution[in_xyz].tolist()), black_border=False, parallel=1)
    distances = _empty_distances(runs, np.int32)
    distances[: nm.size].reshape(runs.shape, order="F")[...] = nm.transpose(axes)
    return distances
