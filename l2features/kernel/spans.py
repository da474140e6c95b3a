"""Values of voxels, stored line by line in memory that is reused for the next chunk."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from ..core.jit import compiled
from .runs import Runs, start_of, stop_of
from .simd import LANES

_MOST_KEPT = 2**27
_spare: deque[np.ndarray] = deque(maxlen=1)
"""Up to _MOST_KEPT bytes for reuse; new memory, which the system clears, costs 2 to 4 % of a chunk's time."""


class Spans(NamedTuple):
    """Values of the voxels of each line, from the line's first labelled voxel to its last."""

    values: np.ndarray
    """All values, then LANES more elements, so that vectors can be loaded up to the end."""
    places: np.ndarray
    """int64 (lines + 1,), index in ``values`` of each line's first value."""
    begins: np.ndarray
    """int64 (lines,), index along the line of its first labelled voxel; the line's length if it has none."""


def make_spans(runs: Runs, dtype: type) -> Spans:
    places, begins = np.zeros(len(runs.offsets), np.int64), np.empty(len(runs.offsets) - 1, np.int64)
    _place_spans(runs, places, begins)
    values: np.ndarray = _spare_memory((int(places[-1]) + LANES) * np.dtype(dtype).itemsize).view(dtype)
    values[-LANES:] = 0
    return Spans(values, places, begins)


def reuse(spans: Spans) -> None:
    """Keep the memory of unneeded spans, if at most _MOST_KEPT bytes, for any thread's next `make_spans`."""
    memory = spans.values.base
    if memory is not None and memory.nbytes <= _MOST_KEPT:
        _spare.append(memory)


def release_memory() -> None:
    """Free the memory that `reuse` kept."""
    _spare.clear()


def _spare_memory(n: int) -> np.ndarray:
    """Return n bytes: from the memory kept by `reuse` if that is large enough, else new."""
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
