"""Compute the features of all labels of a chunk, or of groups of its supervoxels; groups may overlap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .block_runs import PackedBlocks, find_block_runs
from .groups import group_features
from .labels import SegmentedChunk, check_chunk, compute_features

__all__ = ["WARM_UP_STEPS", "SegmentedChunk", "check_chunk", "compute_features", "group_features", "warm_up"]


WARM_UP_STEPS = 16
"""Number of times that `warm_up` calls ``on_step``."""


def warm_up(on_step: Callable[[], object] = lambda: None) -> None:
    """Compile the kernel's functions, or load them from numba's cache.

    Run this when a container image is built. ``on_step`` is called after each of the `WARM_UP_STEPS` steps.

    The cache is beside the modules, or in ``NUMBA_CACHE_DIR``; if neither is writable, in the user's cache
    directory. The cached code fits one type of processor: if an image is built on one type and runs on
    another, set ``NUMBA_CPU_NAME`` to the same value (for example ``x86-64-v3``) in both places.
    """
    for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
        volume = np.zeros((3, 3, 3), dtype)
        volume[1, 1, 1] = 1
        for resolution in ((1, 1, 1), (10**5, 10**5, 10**5), (10**6, 10**6, 10**6 + 1)):
            compute_features(volume, resolution)
            on_step()
    for wide in (np.uint32, np.uint64):
        compute_features(np.resize([0, 1], (2, 1, 32)).astype(wide), (1, 1, 1))
        on_step()
    places = np.zeros((1, 2), np.int64)
    blocks, columns = np.array([[[[-1, 0, 0]]]]), np.array([[0, 1, 0, 0]])
    runs = find_block_runs(PackedBlocks(np.zeros(2, np.uint32), blocks, columns, places, places, (1, 1), 2))
    SegmentedChunk.of_slabs((1, 1, 1), runs)
    on_step()
    group_features(SegmentedChunk(volume), {1: [1]}, (1, 1, 1))
    on_step()
