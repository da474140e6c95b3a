"""Find runs of equal labels along a volume's slowest axis, without transposing the voxels.

This is for volumes that have fewer runs along their slowest axis than along their fastest.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..core.jit import compiled
from .runs import Runs
from .simd import LANES, differing, load, trailing_zeros

_SAMPLES = 4
"""Maximum number of planes (fastest and slowest axis) that are sampled."""
_FEWER = 0.8
"""Runs along the slowest axis are used if they number less than this share of the runs along the fastest."""
_MOST_VOXELS = 1 << 20
"""Maximum number of voxels in a plane (fastest and slowest axis); the runs of a plane take up to 10 MB."""


def has_fewer_across(volume: np.ndarray) -> bool:
    """Return whether a volume has clearly fewer runs along its slowest axis than along its fastest.

    The axes of ``volume`` are slowest, middle, fastest. Only a sample is counted: at most `_SAMPLES` planes,
    each at one index of the middle axis.
    Returns False for volumes whose fastest axis is short or whose planes are large, and for 8- and 16-bit
    volumes, for which compilation takes longer than it saves.
    """
    n2, n1, n0 = volume.shape
    if volume.itemsize < 4 or n0 < LANES or n0 * n2 > _MOST_VOXELS:
        return False
    planes = volume[:, :: -(-n1 // _SAMPLES)]
    across = int(np.count_nonzero(planes[1:] != planes[:-1]))
    return across < _FEWER * int(np.count_nonzero(planes[..., 1:] != planes[..., :-1]))


def find_runs_across(volume: np.ndarray) -> Iterator[Runs]:
    """Yield the runs of a volume (slowest axis, middle, fastest) along its slowest axis, plane by plane.

    A plane holds all voxels at one index of the middle axis. Its lines run along the slowest axis, and are
    sorted by their index on the fastest axis. Labels are uint64. The yielded runs share memory: use
    each `Runs` before taking the next.
    """
    n2, n1, n0 = volume.shape
    voxels = volume.reshape(-1)
    starts, labels = np.empty(n0 * n2, np.uint16), np.empty(n0 * n2, np.uint64)
    for middle in range(n1):
        offsets = np.zeros(n0 + 1, np.int32)
        _find_across(voxels, (n0, n1, n2), middle, offsets, starts, labels)
        n = offsets[-1]
        yield Runs((n2, n0, 1), offsets, starts[:n], labels[:n])


def exchanged(runs: Runs) -> Runs:
    """Return runs with their second and third axis exchanged."""
    n0, n1, n2 = runs.shape
    lines = np.arange(n1 * n2).reshape(n2, n1).T.reshape(-1)
    counts = np.diff(runs.offsets)[lines]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    places = np.repeat(runs.offsets[lines] - offsets[:-1], counts)
    places += np.arange(len(places), dtype=np.int32)
    return Runs((n0, n2, n1), offsets, runs.starts[places], runs.labels[places])


@compiled
def _find_across(
    voxels: np.ndarray,
    shape: tuple[int, int, int],
    middle: int,
    offsets: np.ndarray,
    starts: np.ndarray,
    labels: np.ndarray,
) -> None:
    n0, n1, n2 = shape
    ends = np.arange(n0) * n2  # each line's runs, which are then moved together
    for line in range(n0):
        starts[ends[line]], labels[ends[line]] = 0, voxels[middle * n0 + line]
        ends[line] += 1
    for row in range(1, n2):
        begin = (row * n1 + middle) * n0
        for i in range(0, n0, LANES):
            skipped = max(i + LANES - n0, 0)
            place = begin + i - skipped
            changes = differing(load(voxels, place), load(voxels, place - n0 * n1)) >> skipped
            while changes != 0:
                line = i + trailing_zeros(changes)
                changes &= changes - 1
                starts[ends[line]], labels[ends[line]] = row, voxels[begin + line]
                ends[line] += 1
    n = 0
    for line in range(n0):
        for run in range(line * n2, ends[line]):
            starts[n], labels[n] = starts[run], labels[run]
            n += 1
        offsets[line + 1] = n
