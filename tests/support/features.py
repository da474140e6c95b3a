"""Shapes, resolutions and a volume for the tests of features."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

SHAPES = st.tuples(*[st.sampled_from((1, 2, 3, 5, 17, 31, 40, 66))] * 3)
RESOLUTIONS = ((16, 16, 40), (8, 8, 33), (4, 4, 40), (1, 1, 1), (40, 7, 4), (4.5, 4.5, 33.3), (0.4, 0.5, 0.6))
COARSE = (7720.0, 7720.0, 7720.0)


def cubes() -> np.ndarray:
    """Return a volume with a cube of 20×20×20 voxels and one of a single voxel."""
    volume = np.zeros((32, 32, 32), np.uint64)
    volume[4:24, 4:24, 4:24], volume[28, 28, 28] = 1, 2
    return volume
