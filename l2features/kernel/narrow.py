"""Distances in 16 bits, which need half the vectors and half the memory traffic of 32 bits.

Squared distances above FAR are stored as FAR. A sum with FAR is FAR too, so a minimum below FAR is exact.
Inside thick labels, results reach FAR. A strip of the second pass with such a result is measured again in 32
bits. Where it needs a first-pass result that is FAR, that result's strip is measured again in 32 bits too.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..core.jit import compiled
from .envelope import LineBuffers
from .runs import Runs
from .simd import LANES
from .spans import Spans
from .strips import (
    FAR_32,
    Tables,
    keep_lines,
    load_lines,
    measure_strip,
    reaches,
    spread_lines,
)

FAR = 2**16 - 1
"""Stands for every squared distance of FAR or more; smaller squared distances are exact."""
_FIRST = 64
"""Number of strips that may reach FAR in addition to the share `_SHARE`."""
_SHARE = 2
"""One strip in this many may reach FAR, besides the first `_FIRST`."""


class Depth(NamedTuple):
    """Unit, tables and buffers of a pass along one axis, in integers of one width."""

    unit: Any
    """Square of the voxel's extent along the axis of the pass."""
    tables: Tables
    block: LineBuffers


class Depths(NamedTuple):
    """What a pass needs in 16-bit integers (``narrow``), and the same in 32-bit integers (``wide``)."""

    narrow: Depth
    wide: Depth


class Thick(NamedTuple):
    """32-bit squared distances after the first pass, for the strips in which some distances reach FAR."""

    places: np.ndarray
    """int32 (blocks, strips of a block), index of each strip in ``values``; -1 until the strip is needed."""
    values: np.ndarray
    """int32 (strips, rows of a strip, LANES), squared distances."""
    state: np.ndarray
    """int64 (2,), number of strips in ``values``; the first-pass block that was last filled in 32 bits."""
    lines: int
    """Number of lines in a row of a first-pass block."""


def make_thick(shape: tuple[int, int, int], block: LineBuffers) -> Thick:
    """Return a `Thick` with room for strips. Memory is reserved, but occupied only as strips are added."""
    lines, strips = block.width // shape[0], block.width // LANES
    blocks = -(-shape[2] // lines)
    values = np.empty((blocks * strips // _SHARE + _FIRST, shape[1], LANES), np.int32)
    return Thick(np.full((blocks, strips), -1, np.int32), values, np.array([0, -1]), lines)


@compiled
def first_pass(runs: Runs, narrow: Depth, distances: Spans, thick: Thick) -> bool:
    """Write squared distances along the first two axes, at most FAR, to ``distances``.

    Returns False, with the work unfinished, if too many strips reach FAR.
    """
    n0, n1, n2 = runs.shape
    n, done = 0, 0
    for begin in range(0, n2, thick.lines):
        lines = min(thick.lines, n2 - begin)
        spread_lines(runs, begin, lines, narrow.tables, narrow.block)
        for strip in range(0, lines * n0, LANES):
            done += 1
            n += not _measure(narrow.block, strip, n1, narrow.unit)
            if n > _FIRST + done // _SHARE:
                return False
        keep_lines(runs, begin, lines, narrow.block, distances)
    return True


@compiled
def second_pass(
    runs: Runs,
    first: Depth,
    depths: Depths,
    distances: Spans,
    thick: Thick,
    whole: np.ndarray,
    factor: float,
    divisor: float,
) -> None:
    """Measure the third axis, and replace squared distances in ``distances`` by whole nm.

    ``whole`` (FAR + 1,) maps squared distances to whole nm. Strips with results of FAR are measured again in
    32 bits.
    """
    n0, n1, n2 = runs.shape
    narrow, wide = depths
    most = narrow.block.width // n0
    again = np.zeros(narrow.block.width // LANES, np.bool_)
    for begin in range(0, n1, most):
        lines = min(most, n1 - begin)
        load_lines(runs, begin, lines, distances, narrow.block)
        for strip in range(0, lines * n0, LANES):
            again[strip // LANES] = not _measure(narrow.block, strip, n2, narrow.unit)
        for row in range(n2):
            for i in range(lines):
                line, place = begin + i + row * n1, row * narrow.block.pitch + i * n0
                _take_roots(narrow.block, place, distances, line, whole)
        again[-(-lines * n0 // LANES) :] = False
        if again.any():
            _widen(runs, begin, again, narrow.block, wide.block, first, thick)
            for strip in range(0, lines * n0, LANES):
                if again[strip // LANES]:
                    measure_strip(wide.block, strip, n2, wide.unit, np.int64(FAR_32))
            _take_roots_again(runs, begin, lines, again, wide.block, distances, factor, divisor)


@compiled
def _take_roots(block: LineBuffers, place: int, distances: Spans, line: int, whole: np.ndarray) -> None:
    """Write a line's distances in whole nm, from its squared distances in ``block.out``."""
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
    """Write distances in whole nm in the strips marked by ``again``, which were measured in 32 bits."""
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
def _widen(
    runs: Runs,
    begin: int,
    again: np.ndarray,
    narrow: LineBuffers,
    wide: LineBuffers,
    first: Depth,
    thick: Thick,
) -> None:
    """Copy the labels and squared distances of the strips marked by ``again`` into a block of 32 bits.

    A squared distance of FAR is replaced by its 32-bit value, which is measured when first needed.
    """
    n0, _, n2 = runs.shape
    strips = np.flatnonzero(again)
    for row in range(n2):
        for strip in strips:
            for i in range(strip * LANES, (strip + 1) * LANES):
                value = np.int32(narrow.values[row * narrow.pitch + i])
                if value == FAR:
                    place = (row % thick.lines) * n0 + i % n0
                    kept: int = thick.places[row // thick.lines, place // LANES]
                    if kept < 0:
                        kept = _measure_again(runs, row // thick.lines, place // LANES, first, thick)
                    value = thick.values[kept, begin + i // n0, place % LANES]
                wide.values[row * wide.pitch + i] = value
                wide.labels[row * wide.pitch + i] = narrow.labels[row * narrow.pitch + i]


@compiled
def _measure_again(runs: Runs, block: int, strip: int, wide: Depth, thick: Thick) -> int:
    """Measure a strip of the first pass in 32 bits, and return its index in ``thick.values``."""
    _, n1, n2 = runs.shape
    if thick.state[1] != block:
        begin = block * thick.lines
        spread_lines(runs, begin, min(thick.lines, n2 - begin), wide.tables, wide.block)
        thick.state[1] = block
    measure_strip(wide.block, strip * LANES, n1, wide.unit, np.int64(FAR_32))
    kept: int = thick.state[0]
    for row in range(n1):
        place = row * wide.block.pitch + strip * LANES
        thick.values[kept, row] = wide.block.out[place : place + LANES]
    thick.places[block, strip] = kept
    thick.state[0] += 1
    return kept


@compiled
def _measure(block: LineBuffers, strip: int, rows: int, unit: Any) -> bool:
    """Measure a strip; return False if any result is FAR."""
    exact = True
    if measure_strip(block, strip, rows, unit, FAR):
        for row in range(rows):
            exact &= not reaches(block, strip + row * block.pitch, FAR)
    return exact
