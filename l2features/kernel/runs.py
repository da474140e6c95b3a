"""A label volume as runs: maximal stretches of one label along the volume's fast axis.

Everything else in the feature kernel works on runs. A segmentation has some thirty voxels to a run, so
that looking up ids, mapping supervoxels to labels and adding up moments cost next to nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..core.jit import compiled, inlined

MAX_VOXELS = 2**31 - 1
MAX_EXTENT = 65535


class Runs(NamedTuple):
    """Runs of a volume whose axes are ordered from the fastest in memory to the slowest.

    Line ``c1 + c2 * shape[1]`` holds the runs ``offsets[line]:offsets[line + 1]``. A run reaches from its
    start to the start of the next one, the last run of a line to the end of the line.
    """

    shape: tuple[int, int, int]
    offsets: np.ndarray
    """int32, one more than there are lines."""
    starts: np.ndarray
    """uint16, index along the fast axis of each run's first voxel."""
    labels: np.ndarray
    """uint32, number of each run's label; 0 is background."""


def find_runs(volume: np.ndarray, shape: tuple[int, int, int]) -> tuple[Runs, np.ndarray]:
    """Return the runs of a flat volume, and its ids.

    Runs are labelled with indices into the ids (uint64), which are in the order of their first voxels after
    a leading 0 for the background.
    """
    offsets = np.zeros(shape[1] * shape[2] + 1, np.int32)
    _count_runs(volume, shape[0], offsets)
    starts = np.empty(offsets[-1], np.uint16)
    _fill_starts(volume, shape[0], offsets, starts)
    runs = Runs(shape, offsets, starts, np.empty(offsets[-1], np.uint32))
    return runs, _number_values(volume, runs)


@inlined
def start_of(runs: Runs, run: int) -> Any:
    """Return the index of a run's first voxel, as a signed integer."""
    return np.int64(runs.starts[run])


@inlined
def stop_of(runs: Runs, run: int, end: int) -> Any:
    """Return the index after a run; ``end`` is the first run of the next line."""
    return np.int64(runs.starts[run + 1]) if run + 1 < end else np.int64(runs.shape[0])


@compiled
def _count_runs(volume: np.ndarray, extent: int, offsets: np.ndarray) -> None:
    count = 0
    for line in range(len(offsets) - 1):
        voxels = volume[line * extent : (line + 1) * extent]
        before, after = voxels[:-1], voxels[1:]
        count += 1
        for i in range(len(after)):
            count += before[i] != after[i]
        offsets[line + 1] = count


@compiled
def _fill_starts(volume: np.ndarray, extent: int, offsets: np.ndarray, starts: np.ndarray) -> None:
    for line in range(len(offsets) - 1):
        voxels = volume[line * extent : (line + 1) * extent]
        run = offsets[line]
        starts[run] = 0
        for i in range(1, extent):
            if voxels[i] != voxels[i - 1]:
                run += 1
                starts[run] = i


def _number_values(volume: np.ndarray, runs: Runs) -> np.ndarray:
    """Label the runs; return the values (uint64), by label."""
    ids = np.zeros(max(1024, 2 * runs.shape[0]), np.uint64)
    slots = _empty_slots(len(ids))
    n_ids, line = _number_lines(volume, runs, ids, slots, 1, 0)
    while line < len(runs.offsets) - 1:
        ids = np.concatenate([ids, np.zeros_like(ids)])
        slots = _empty_slots(len(ids))
        _enter(ids, slots, n_ids)
        n_ids, line = _number_lines(volume, runs, ids, slots, n_ids, line)
    return ids[:n_ids].copy()


def _empty_slots(n: int) -> np.ndarray:
    """Return an open-addressing hash table for n values: a power of two of slots, at most two thirds full."""
    return np.zeros(1 << (3 * n // 2 - 1).bit_length(), np.uint32)


@compiled
def _number_lines(
    volume: np.ndarray, runs: Runs, ids: np.ndarray, slots: np.ndarray, n_ids: int, line: int
) -> tuple[int, int]:
    """Label the runs of the lines that certainly fit; return the next id and line."""
    extent = runs.shape[0]
    labels, starts, offsets = runs.labels, runs.starts, runs.offsets
    while line < len(offsets) - 1 and n_ids + extent <= len(ids):
        for run in range(offsets[line], offsets[line + 1]):
            value: Any = np.uint64(volume[line * extent + starts[run]])
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
    """Return the value's slot, or the empty one for it."""
    mask = np.uint64(len(slots) - 1)
    mixed = value * np.uint64(0x9E3779B97F4A7C15)
    slot = (mixed ^ (mixed >> np.uint64(32))) & mask
    while slots[slot] != 0 and ids[slots[slot]] != value:
        slot = (slot + np.uint64(1)) & mask
    return slot
