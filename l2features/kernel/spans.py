"""Values of the voxels of lines, in memory that one chunk leaves to the next."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from ..core.jit import compiled
from .runs import Runs, start_of, stop_of
from .simd import LANES

_MOST_KEPT = 2**27
_spare: deque[np.ndarray] = deque(maxlen=1)
"""Memory of at most _MOST_KEPT bytes: the system would clear fresh memory, for 2 to 4 % of a chunk's time."""


class Spans(NamedTuple):
    """Values for the voxels of each line from its first to its last label; small for a sparse volume."""

    values: np.ndarray
    """LANES more elements follow, so that whole vectors can be loaded up to the end."""
    places: np.ndarray
    """int64 (lines + 1,), index in ``values`` of the first of each line."""
    begins: np.ndarray
    """int64 (lines,), index of that voxel along the line; the line's length if it has none."""


def make_spans(runs: Runs, dtype: type) -> Spans:
    places, begins = np.zeros(len(runs.offsets), np.int64), np.empty(len(runs.offsets) - 1, np.int64)
    _place_spans(runs, places, begins)
    values: np.ndarray = _spare_memory((int(places[-1]) + LANES) * np.dtype(dtype).itemsize).view(dtype)
    values[-LANES:] = 0
    return Spans(values, places, begins)


def reuse(spans: Spans) -> None:
    """Keep the memory of values that are no longer used, for the next spans of any thread."""
    memory = spans.values.base
    if memory is not None and memory.nbytes <= _MOST_KEPT:
        _spare.append(memory)


def release_memory() -> None:
    """Free the memory that `reuse` kept."""
    _spare.clear()


def _spare_memory(n: int) -> np.ndarray:
    """Return n bytes, from memory that is kept if it suffices."""
    try:
        memory = _spare.pop()
    except IndexError:
        memory = np.empty(n, np.uint8)
    if memory.nbytes < n:
        memory = np.empty(n, np.uint8)
    return memory[:n]


@compiled
def _place_spans(runs: Runs, places: np.ndarray, begins: np.ndarray) -> None:
    for line in range(len(begins)):
        run, end = runs.offsets[line], runs.offsets[line + 1]
        begins[line] = 0 if runs.labels[run] != 0 else stop_of(runs, run, end)
        stop = runs.shape[0] if runs.labels[end - 1] != 0 else start_of(runs, end - 1)
        places[line + 1] = places[line] + max(stop - begins[line], 0)
