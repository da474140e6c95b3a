"""Label volumes of EM: a recorded volume, and a similar synthetic volume."""

from __future__ import annotations

import argparse
import gzip
import math
from pathlib import Path

import numpy as np

SHARED = Path(__file__).resolve().parents[3] / "shared"


def em_parser(description: str | None, epilog: str) -> argparse.ArgumentParser:
    """Return a parser that has the option ``--shared``, the folder of the EM volume."""
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shared", type=Path, default=SHARED, help="folder with data/connectomics.npy.ckl.gz"
    )
    return parser


def read_em(path: Path) -> np.ndarray:
    import crackle

    return crackle.decompress(gzip.decompress(path.read_bytes()))


def make_neuropil(shape: tuple[int, ...]) -> np.ndarray:
    """Return labels of synthetic neuropil: each z slice has the Voronoi cells of points that move with z."""
    from scipy.spatial import cKDTree

    random = np.random.default_rng(0)
    n = max(8, math.prod(shape[:2]) // 150)
    points = random.uniform(0, 1, (n, 2)) * shape[:2]
    labels = random.integers(1, n // 2 + 2, n).astype(np.uint32)
    grid = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij"), axis=-1)
    volume = np.empty(shape, np.uint32, order="F")
    for z in range(shape[2]):
        points = points + random.normal(0, 0.7, points.shape)
        _, nearest = cKDTree(points).query(grid)
        volume[:, :, z] = labels[nearest]
    return volume
