"""Labels, a geometry and a file writer for the tests of Zarr volumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from l2features.core.geometry import Geometry
from l2features.core.ids import IdLayout

SHAPE, STEP = (20, 18, 10), (8, 8, 4)
LABELS = np.random.default_rng(3).integers(0, 2**40, SHAPE).astype(np.uint64)
GEOMETRY = Geometry((16.0, 16.0, 40.0), (0, 0, 0), SHAPE, (20, 18, 10), IdLayout({2: 10}))


def write(path: Path, content: bytes | dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
