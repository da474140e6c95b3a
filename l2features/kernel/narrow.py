"""Distances in 16 bits: twice as many fit into a vector, and half as many bytes go to memory and back.

Squared distances are cut at FAR. A sum of a cut one is FAR too, so a minimum below FAR is exact; strips that
reach FAR, amid thick labels, are measured again in 32 bits.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..core.jit import compiled
from .envelope import LineBuffers
from .runs import Runs
from .simd import LANES
from .strips import (
    FAR_32,
    Spans,
    Tables,
    keep_lines,
    load_lines,
    measure_strip,
    reaches,
    spread_lines,
)

FAR = 2**16 - 1
"""More than any squared distance that is kept in 16 bits."""
_FIRST = 64
"""Strips that may be measured again before the limit `_SHARE` applies."""
_SHARE = 2
"""At most one strip in this many is measured again."""


class Depth(NamedTuple):
    """What a pass needs in one width of integers."""

    unit: Any
    """Square of the voxel's extent along the axis of the pass."""
    tables: Tables
    block: LineBuffers


class Depths(NamedTuple):
    """A pass in 16 bits, and in 32."""

    narrow: Depth
    wide: Depth


class Thick(NamedTuple):
    """Squared distances after the first pass of the strips that have some of FAR or more."""

    places: np.ndarray
    """int32 (blocks, strips of a block), index of each such strip in ``values``; -1 for others."""
    values: np.ndarray
    """int32 (strips, lines, LANES)."""
    lines: int
    """Lines per row of a block of the first pass."""


def make_thick(shape: tuple[int, int, int], block: LineBuffers) -> Thick:
    """Return room for the strips; memory is taken as it is filled."""
    lines, strips = block.width // shape[0], block.width // LANES
    blocks = -(-shape[2] // lines)
    values = np.empty((blocks * strips // _SHARE + _FIRST, shape[1], LANES), np.int32)
    return Thick(np.full((blocks, strips), -1, np.int32), values, lines)


@compiled
def first_pass(runs: Runs, depths: Depths, distances: Spans, thick: Thick) -> bool:
    """Write squared distances in two axes, cut at FAR; return False if too many reach it."""
    narrow, wide = depths
    n0, n1, n2 = runs.shape
    n, done = 0, 0
    for begin in range(0, n2, thick.lines):
        lines = min(thick.lines, n2 - begin)
        spread_lines(runs, begin, lines, narrow.tables, narrow.block)
        spread = False
        for strip in range(0, lines * n0, LANES):
            done += 1
            if not _measure(narrow.block, strip, n1, narrow.unit):
                if n == len(thick.values) or (n > _FIRST and n > done // _SHARE):
                    return False
                if not spread:
                    spread_lines(runs, begin, lines, wide.tables, wide.block)
                    spread = True
                measure_strip(wide.block, strip, n1, wide.unit, np.int64(FAR_32))
                for row in range(n1):
                    source, place = row * wide.block.pitch + strip, row * narrow.block.pitch + strip
                    thick.values[n, row] = wide.block.out[source : source + LANES]
                    for lane in range(LANES):
                        narrow.block.out[place + lane] = min(thick.values[n, row, lane], FAR)
                thick.places[begin // thick.lines, strip // LANES] = n
                n += 1
        keep_lines(runs, begin, lines, narrow.block, distances)
    return True


@compiled
def second_pass(
    runs: Runs,
    depths: Depths,
    distances: Spans,
    thick: Thick,
    whole: np.ndarray,
    factor: float,
    divisor: float,
) -> None:
    """Replace squared distances with whole nm: ``whole`` (FAR + 1,) has those of all below FAR."""
    n0, n1, n2 = runs.shape
    narrow, wide = depths
    most = narrow.block.width // n0
    again = np.empty(narrow.block.width // LANES, np.bool_)
    for begin in range(0, n1, most):
        lines = min(most, n1 - begin)
        load_lines(runs, begin, lines, distances, narrow.block)
        for strip in range(0, lines * n0, LANES):
            again[strip // LANES] = not _measure(narrow.block, strip, n2, narrow.unit)
        for row in range(n2):
            for i in range(lines):
                line, place = begin + i + row * n1, row * narrow.block.pitch + i * n0
                _take_roots(narrow.block, place, distances, line, whole)
        if again[: -(-lines * n0 // LANES)].any():
            _widen(runs, begin, narrow.block, wide.block, thick)
            for strip in range(0, lines * n0, LANES):
                if again[strip // LANES]:
                    measure_strip(wide.block, strip, n2, wide.unit, np.int64(FAR_32))
            _take_roots_again(runs, begin, lines, again, wide.block, distances, factor, divisor)


@compiled
def _take_roots(block: LineBuffers, place: int, distances: Spans, line: int, whole: np.ndarray) -> None:
    """Write a line's whole nm."""
    target = distances.values[distances.places[line] : distances.places[line + 1]]
    place += distances.begins[line]
    source = block.out[place : place + len(target)]
    for i in range(len(target)):
        target[i] = whole[source[i]]


@compiled
def _take_roots_again(
    runs: Runs,
    begin: int,
    lines: int,
    again: np.ndarray,
    block: LineBuffers,
    distances: Spans,
    factor: float,
    divisor: float,
) -> None:
    """Write the whole nm of the strips that were measured again."""
    n0, n1, n2 = runs.shape
    for row in range(n2):
        for i in range(lines):
            line = begin + i + row * n1
            target, place = distances.places[line], i * n0 + distances.begins[line]
            for at in range(distances.places[line + 1] - target):
                if again[(place + at) // LANES]:
                    squared = block.out[row * block.pitch + place + at]
                    distances.values[target + at] = np.uint16(math.sqrt(squared * factor) / divisor)


@compiled
def _widen(runs: Runs, begin: int, narrow: LineBuffers, wide: LineBuffers, thick: Thick) -> None:
    """Copy the labels and squared distances of a block into 32 bits, those beyond FAR included."""
    n0, _, n2 = runs.shape
    for row in range(n2):
        first = (row % thick.lines) * n0
        for i in range(narrow.width):
            value = np.int32(narrow.values[row * narrow.pitch + i])
            if value == FAR:
                place = first + i % n0
                kept = thick.places[row // thick.lines, place // LANES]
                value = thick.values[kept, begin + i // n0, place % LANES]
            wide.values[row * wide.pitch + i] = value
            wide.labels[row * wide.pitch + i] = narrow.labels[row * narrow.pitch + i]


@compiled
def _measure(block: LineBuffers, strip: int, rows: int, unit: Any) -> bool:
    """Measure a strip; return False if any result is FAR."""
    if not measure_strip(block, strip, rows, unit, FAR):
        return False
    exact = True
    for row in range(rows):
        exact &= not reaches(block, strip + row * block.pitch, FAR)
    return exact
