"""A label volume as runs: maximal stretches of one label along the volume's fast axis.

Everything else in the feature kernel works on runs. A run of a segmentation has about thirty voxels, so
looking up ids, mapping supervoxels to labels and adding up moments cost next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ..core.jit import compiled, inlined
from .simd import LANES, differing, load, trailing_zeros

MAX_VOXELS = 2**31 - 1
MAX_EXTENT = 65535
CACHED_VOXELS = 1 << 18
"""Number of voxels whose runs are found at a time: 2 MB of uint64, which fit into a processor's cache."""


class Runs(NamedTuple):
    """Runs of a volume whose axes are ordered from the fastest in memory to the slowest.

    Line ``c1 + c2 * shape[1]`` holds the runs ``offsets[line]:offsets[line + 1]``. A run ends where the next
    one starts; the last run of a line ends with the line.
    """

    shape: tuple[int, int, int]
    offsets: np.ndarray
    """int32 (lines + 1,), index of each line's first run."""
    starts: np.ndarray
    """uint16, index along the fast axis of each run's first voxel."""
    labels: np.ndarray
    """Label of each run: itself (uint64), or a number that stands for it (uint32); 0 is background."""

    def voxels(self) -> np.ndarray:
        """Return the labels of all voxels, an array of ``shape`` in Fortran order."""
        lines = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        starts = lines * self.shape[0] + self.starts
        flat = np.repeat(self.labels, np.diff(starts, append=math.prod(self.shape)))
        return flat.reshape(self.shape, order="F")


def find_runs(pieces: Iterable[np.ndarray | Runs], shape: tuple[int, int, int]) -> tuple[Runs, np.ndarray]:
    """Return a tuple: the runs of a volume; the volume's ids (n,) uint64.

    ``pieces`` are the lines of the volume in order; each piece has some whole lines, as a flat array or as
    runs of uint64 labels. A piece's memory may be overwritten once the next piece is taken. The ids begin
    with 0 for the background; the other ids follow in the order of their first voxels. The runs' labels are
    indices into the ids.

    Raises ValueError if a piece is not made of whole lines, or the pieces have more or fewer lines than the
    volume.
    """
    finder = _Finder(shape)
    for piece in pieces:
        finder.add(piece)
    return finder.finish()


class _Finder:
    """Finds the runs of a few lines at a time, so that the lines stay in the processor's cache."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape, self.line = shape, 0
        self.offsets = np.zeros(shape[1] * shape[2] + 1, np.int32)
        self.starts: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.ids = np.zeros(max(1024, 2 * shape[0]), np.uint64)
        self.slots, self.n_ids = _empty_slots(len(self.ids)), 1
        self.step = shape[0] * max(1, CACHED_VOXELS // shape[0])
        most = min(self.step, math.prod(shape))
        self.found, self.values = np.empty(most, np.uint16), np.empty(most, np.uint64)

    def add(self, piece: np.ndarray | Runs) -> None:
        extent, is_runs = self.shape[0], isinstance(piece, Runs)
        voxels = math.prod(piece.shape)
        beyond = self.line + voxels // extent >= len(self.offsets)
        if voxels % extent or beyond or (is_runs and piece.shape[0] != extent):
            rest = len(self.offsets) - 1 - self.line
            expected = f"expected whole lines of {extent} voxels, and at most {rest} lines"
            raise ValueError(f"a piece has {voxels} voxels: {expected}")
        if isinstance(piece, Runs):
            self._number(piece.offsets, piece.starts.copy(), piece.labels)
            return
        for first in range(0, len(piece), self.step):
            lines = piece[first : first + self.step]
            offsets = np.zeros(len(lines) // extent + 1, np.int32)
            n = _find_starts(lines, extent, offsets, self.found, self.values)
            self._number(offsets, self.found[:n].copy(), self.values[:n])

    def _number(self, offsets: np.ndarray, starts: np.ndarray, values: np.ndarray) -> None:
        """Add the runs of the next lines; store their labels ``values`` as indices into the ids."""
        labels, line, n_lines = np.empty(len(starts), np.uint32), 0, len(offsets) - 1
        while line < n_lines:
            if self.n_ids + self.shape[0] > len(self.ids):
                self.ids = np.concatenate([self.ids, np.zeros_like(self.ids)])
                self.slots = _empty_slots(len(self.ids))
                _enter(self.ids, self.slots, self.n_ids)
            self.n_ids, line = _number_lines(values, offsets, labels, self.ids, self.slots, self.n_ids, line)
        here = self.offsets[self.line : self.line + n_lines + 1]
        here[1:] = here[0] + offsets[1:]
        self.starts.append(starts)
        self.labels.append(labels)
        self.line += n_lines

    def finish(self) -> tuple[Runs, np.ndarray]:
        if self.line != len(self.offsets) - 1:
            expected = f"expected {len(self.offsets) - 1} for a volume of shape {self.shape}"
            raise ValueError(f"the pieces have {self.line} lines in all: {expected}")
        runs = Runs(self.shape, self.offsets, np.concatenate(self.starts), np.concatenate(self.labels))
        return runs, self.ids[: self.n_ids].copy()


@inlined
def start_of(runs: Runs, run: int) -> Any:
    """Return the index of a run's first voxel along the line, as a signed integer."""
    return np.int64(runs.starts[run])


@inlined
def stop_of(runs: Runs, run: int, end: int) -> Any:
    """Return 1 + the index of a run's last voxel in its line; ``end`` is the first run of the next line."""
    return np.int64(runs.starts[run + 1]) if run + 1 < end else np.int64(runs.shape[0])


@compiled
def _find_starts(
    voxels: np.ndarray, extent: int, offsets: np.ndarray, starts: np.ndarray, values: np.ndarray
) -> int:
    """Write the index in its line of each run's first voxel to ``starts``, and its label to ``values``.

    Writes the number of runs up to the end of each line to ``offsets[1:]``. Returns the number of runs.
    """
    n = 0
    for line in range(len(offsets) - 1):
        begin = line * extent
        starts[n], values[n] = 0, voxels[begin]
        n += 1
        for i in range(1, extent, LANES):
            changes = _find_changes(voxels, begin, i, extent)
            while changes != 0:
                start = i + trailing_zeros(changes)
                changes &= changes - 1
                starts[n], values[n] = start, voxels[begin + start]
                n += 1
        offsets[line + 1] = n
    return n


@inlined
def _find_changes(voxels: np.ndarray, begin: int, i: int, extent: int) -> Any:
    """Return an integer whose bit k is 1 where voxel i + k of a line differs from the voxel before it."""
    if extent > LANES:
        skipped = max(i + LANES - extent, 0)
        place = begin + i - skipped
        return differing(load(voxels, place), load(voxels, place - 1)) >> skipped
    changes = np.int64(0)
    for k in range(i, extent):
        changes |= np.int64(voxels[begin + k] != voxels[begin + k - 1]) << (k - i)
    return changes


def _empty_slots(n: int) -> np.ndarray:
    """Return an open-addressing hash table for n values: a power of two of slots, at most two thirds full."""
    return np.zeros(1 << (3 * n // 2 - 1).bit_length(), np.uint32)


@compiled
def _number_lines(
    values: np.ndarray,
    offsets: np.ndarray,
    labels: np.ndarray,
    ids: np.ndarray,
    slots: np.ndarray,
    n_ids: int,
    line: int,
) -> tuple[int, int]:
    """Write the labels of the lines from ``line`` on as indices into ``ids``, and append new ids.

    Stops before a line that has more runs than ``ids`` has free elements. Returns the number of ids, and the
    line to continue with.
    """
    most = len(ids)
    while line < len(offsets) - 1 and n_ids + offsets[line + 1] - offsets[line] <= most:
        for run in range(offsets[line], offsets[line + 1]):
            value = values[run]
            labels[run] = 0
            if value != 0:
                slot = _find_slot(slots, ids, value)
                if slots[slot] == 0:
                    ids[n_ids] = value
                    slots[slot] = n_ids
                    n_ids += 1
                labels[run] = slots[slot]
        line += 1
    return n_ids, line


@compiled
def _enter(ids: np.ndarray, slots: np.ndarray, n_ids: int) -> None:
    for i in range(1, n_ids):
        slots[_find_slot(slots, ids, ids[i])] = i


@inlined
def _find_slot(slots: np.ndarray, ids: np.ndarray, value: int) -> np.uint64:
    """Return the slot of ``value`` in a hash table: the slot that holds it, or the empty slot for it."""
    mask = np.uint64(len(slots) - 1)
    mixed = value * np.uint64(0x9E3779B97F4A7C15)
    slot = (mixed ^ (mixed >> np.uint64(32))) & mask
    while slots[slot] != 0 and ids[slots[slot]] != value:
        slot = (slot + np.uint64(1)) & mask
    return slot
