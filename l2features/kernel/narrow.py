"""Distances in the narrowest integers that suffice: 16 bits take half the vectors and memory of 32 bits.

Each integer type has a limit ``far`` (`FAR`): squared distances of ``far`` or more are stored as ``far``.
Adding to ``far`` gives at least ``far``, so a minimum below ``far`` is exact. Deep inside thick labels,
results are ``far``. If a strip of LANES lines has such a result in the second pass, along the last axis, it
is measured again in wider integers. If an input of this strip is ``far``, the first-pass strip that the input
comes from is measured again too.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..core.jit import compiled, inlined
from .envelope import LineBuffers
from .runs import Runs
from .simd import LANES
from .spans import Spans, make_spans, reuse
from .strips import (
    Tables,
    keep_lines,
    load_lines,
    make_block,
    make_tables,
    measure_strip,
    reaches,
    spread_lines,
)

FAR: dict[type[np.integer[Any]], int] = {np.uint16: 2**16 - 1, np.int32: 2**30, np.int64: 2**62}
"""By type of integer, ``far``, which stands for every squared distance of ``far`` or more. Smaller ones are
exact. The sum of ``far`` and a squared distance does not overflow; unsigned sums saturate."""
_FIRST = 64
"""Number of strips that may reach ``far`` in addition to the share `_SHARE`."""
_SHARE = 2
"""One strip in this many may reach ``far``, besides the first `_FIRST`."""


class Depth(NamedTuple):
    """Constants and buffers for a pass along one axis, in one type of integer."""

    unit: int
    """Square of the voxel's extent along the axis of the pass."""
    far: int
    tables: Tables
    block: LineBuffers


class Depths(NamedTuple):
    """A pass's `Depth` in the type used first (``narrow``), and in the type for thick labels (``wide``)."""

    narrow: Depth
    wide: Depth


class Roots(NamedTuple):
    """How squared distances become distances in whole nm; see `distance.Scale` for factor and divisor."""

    factor: float
    divisor: float
    single: np.float32
    """If not 0, the distance of a squared distance d is ``floor(sqrt(d * single))``, computed in float32."""


class Thick(NamedTuple):
    """First-pass results in wider integers, of strips measured again because some results are ``far``."""

    places: np.ndarray
    """int32 (blocks, strips of a block), index of each strip in ``values``; -1 until the strip is needed."""
    values: np.ndarray
    """(strips, rows of a strip, LANES), squared distances."""
    state: np.ndarray
    """int64 (2,), number of strips in ``values``; the first-pass block that was last filled in wide
    integers."""
    lines: int
    """Number of lines in a row of a first-pass block."""


def measure(
    runs: Runs,
    steps: list[int],
    factor: float,
    divisor: float,
    kinds: tuple[type[np.integer[Any]], type[np.integer[Any]]],
    below: bool,
) -> Spans | None:
    """Return each voxel's distance in whole nm; see `distance.Scale` for the steps, factor and divisor.

    ``kinds`` are two keys of `FAR`: the type that is used first, which also holds the result, and the type
    for thick labels. All squared distances must be below the second type's ``far``. ``below`` states that
    they are also below the first type's ``far``; the second type is then not used. Otherwise, returns
    None if the first pass reaches the first type's ``far`` in too many strips of LANES lines.
    """
    distances = make_spans(runs, kinds[0])
    tables = {kind: make_tables(runs.shape[0], steps[0] ** 2, kind(FAR[kind])) for kind in kinds}
    passes = []
    for axis in (1, 2):
        depths = {
            kind: Depth(steps[axis] ** 2, FAR[kind], table, make_block(runs.shape, axis, kind))
            for kind, table in tables.items()
        }
        passes.append(Depths(*(depths[kind] for kind in kinds)))
    thick = _make_thick(runs.shape, passes[0], below)
    if not _first_pass(runs, passes[0].narrow, distances, thick, below):
        reuse(distances)
        return None
    roots = Roots(factor, divisor, np.float32(0))
    if kinds[0] is np.uint16:
        roots = make_roots(factor, divisor)
    _second_pass(runs, passes[0].wide, passes[1], distances, thick, below, roots)
    return distances


@lru_cache(maxsize=16)
def make_roots(factor: float, divisor: float) -> Roots:
    """Return the `Roots` of uint16 squared distances. ``single`` is 0 if a root is wrong in float32."""
    single, squared = np.float32(factor / divisor**2), np.arange(2**16)
    whole = np.floor(np.sqrt(squared * factor) / divisor)
    exact = (np.floor(np.sqrt(squared.astype(np.float32) * single)) == whole).all()
    return Roots(factor, divisor, single if exact else np.float32(0))


def _make_thick(shape: tuple[int, int, int], first: Depths, below: bool) -> Thick:
    """Return a `Thick` without strips. If ``below``, none will be added, so it has no room for any.

    Memory is reserved, but occupied only as strips are added.
    """
    block = first.narrow.block
    lines, strips = block.width // shape[0], block.width // LANES
    blocks = -(-shape[2] // lines)
    room = 0 if below else blocks * strips // _SHARE + _FIRST
    values = np.empty((room, shape[1], LANES), first.wide.block.out.dtype)
    return Thick(np.full((blocks, strips), -1, np.int32), values, np.array([0, -1]), lines)


@compiled
def _first_pass(runs: Runs, narrow: Depth, distances: Spans, thick: Thick, below: bool) -> bool:
    """Write squared distances along the first two axes, at most ``far``, to ``distances``.

    Returns False, with the work unfinished, if too many strips reach ``far``; always True if ``below``.
    """
    n0, n1, n2 = runs.shape
    n, done = 0, 0
    for begin in range(0, n2, thick.lines):
        lines = min(thick.lines, n2 - begin)
        spread_lines(runs, begin, lines, narrow.tables, narrow.block)
        for strip in range(0, lines * n0, LANES):
            done += 1
            n += not _measure(narrow, strip, n1, below)
            if n > _FIRST + done // _SHARE:
                return False
        keep_lines(runs, begin, lines, narrow.block, distances)
    return True


@compiled
def _second_pass(
    runs: Runs,
    first: Depth,
    depths: Depths,
    distances: Spans,
    thick: Thick,
    below: bool,
    roots: Roots,
) -> None:
    """Measure the third axis, and replace squared distances in ``distances`` by whole nm.

    Strips with results of ``far`` are measured again in wider integers.
    """
    n0, n1, n2 = runs.shape
    narrow, wide = depths
    most = narrow.block.width // n0
    again = np.zeros(narrow.block.width // LANES, np.bool_)
    for begin in range(0, n1, most):
        lines = min(most, n1 - begin)
        load_lines(runs, begin, lines, distances, narrow.block)
        for strip in range(0, lines * n0, LANES):
            again[strip // LANES] = not _measure(narrow, strip, n2, below)
        for row in range(n2):
            for i in range(lines):
                line, place = begin + i + row * n1, row * narrow.block.pitch + i * n0
                _take_roots(narrow.block, place, distances, line, roots)
        again[-(-lines * n0 // LANES) :] = False
        if again.any():
            _widen(runs, begin, again, narrow, wide.block, first, thick)
            for strip in range(0, lines * n0, LANES):
                if again[strip // LANES]:
                    measure_strip(wide.block, strip, n2, wide.unit, wide.far)
            _take_roots_again(runs, begin, lines, again, wide.block, distances, roots)


@compiled
def _take_roots(block: LineBuffers, place: int, distances: Spans, line: int, roots: Roots) -> None:
    """Write a line's distances in whole nm, from its squared distances in ``block.out``."""
    target = distances.values[distances.places[line] : distances.places[line + 1]]
    place += distances.begins[line]
    source = block.out[place : place + len(target)]
    if roots.single > 0:
        for i in range(len(target)):
            target[i] = target.dtype.type(np.sqrt(np.float32(source[i]) * roots.single))
    else:
        for i in range(len(target)):
            target[i] = target.dtype.type(_root(source[i], roots))


@compiled
def _take_roots_again(
    runs: Runs,
    begin: int,
    lines: int,
    again: np.ndarray,
    block: LineBuffers,
    distances: Spans,
    roots: Roots,
) -> None:
    """Write distances in whole nm in the strips marked by ``again``, which were measured again."""
    n0, n1, n2 = runs.shape
    for row in range(n2):
        for i in range(lines):
            line = begin + i + row * n1
            target, place = distances.places[line], i * n0 + distances.begins[line]
            for at in range(distances.places[line + 1] - target):
                if again[(place + at) // LANES]:
                    whole = _root(block.out[row * block.pitch + place + at], roots)
                    distances.values[target + at] = distances.values.dtype.type(whole)


@inlined
def _root(squared: int, roots: Roots) -> float:
    return math.sqrt(squared * roots.factor) / roots.divisor


@compiled
def _widen(
    runs: Runs,
    begin: int,
    again: np.ndarray,
    narrow: Depth,
    wide: LineBuffers,
    first: Depth,
    thick: Thick,
) -> None:
    """Copy the labels and squared distances of the strips marked by ``again`` into the block ``wide``.

    A squared distance of ``far`` is replaced by its value in wide integers. For this, the first-pass strip
    that it comes from is measured again, unless this has been done before.
    """
    n0, _, n2 = runs.shape
    block = narrow.block
    strips = np.flatnonzero(again)
    for row in range(n2):
        for strip in strips:
            for i in range(strip * LANES, (strip + 1) * LANES):
                value = wide.values.dtype.type(block.values[row * block.pitch + i])
                if value == narrow.far:
                    place = (row % thick.lines) * n0 + i % n0
                    kept: int = thick.places[row // thick.lines, place // LANES]
                    if kept < 0:
                        kept = _measure_again(runs, row // thick.lines, place // LANES, first, thick)
                    value = thick.values[kept, begin + i // n0, place % LANES]
                wide.values[row * wide.pitch + i] = value
                wide.labels[row * wide.pitch + i] = block.labels[row * block.pitch + i]


@compiled
def _measure_again(runs: Runs, block: int, strip: int, wide: Depth, thick: Thick) -> int:
    """Measure a strip of the first pass in wide integers, and return its index in ``thick.values``."""
    _, n1, n2 = runs.shape
    if thick.state[1] != block:
        begin = block * thick.lines
        spread_lines(runs, begin, min(thick.lines, n2 - begin), wide.tables, wide.block)
        thick.state[1] = block
    measure_strip(wide.block, strip * LANES, n1, wide.unit, wide.far)
    kept: int = thick.state[0]
    for row in range(n1):
        place = row * wide.block.pitch + strip * LANES
        thick.values[kept, row] = wide.block.out[place : place + LANES]
    thick.places[block, strip] = kept
    thick.state[0] += 1
    return kept


@compiled
def _measure(narrow: Depth, strip: int, rows: int, below: bool) -> bool:
    """Measure a strip; return whether all results are below ``far``. If ``below``, always returns True."""
    block, exact = narrow.block, True
    if measure_strip(block, strip, rows, narrow.unit, narrow.far) and not below:
        for row in range(rows):
            exact &= not reaches(block, strip + row * block.pitch, narrow.far)
    return exact
