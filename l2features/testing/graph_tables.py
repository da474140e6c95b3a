"""Graph tables that contain only the graph's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from cloudvolume import CloudVolume
from google.cloud import bigtable
from google.cloud.bigtable.data import BigtableDataClient, SetCell

from ..core.geometry import Geometry
from ..core.ids import IdLayout
from ..local.sample.graph_cells import graph_meta
from .stores import INSTANCE, PROJECT

GEOMETRY = Geometry((16, 16, 40), (0, 0, 0), (64, 64, 32), (32, 32, 32), IdLayout({1: 10, 2: 10}))


def put_rows(rows: Mapping[bytes, Mapping[bytes, bytes]]) -> str:
    """Create a table with these cells; return its URL."""
    name = f"graph_{uuid4().hex[:12]}"
    table = bigtable.Client(project=PROJECT, admin=True).instance(INSTANCE).table(name)
    table.create(column_families={"0": None})
    raw = BigtableDataClient(project=PROJECT).get_table(INSTANCE, name)
    for key, cells in rows.items():
        raw.mutate_row(key, [SetCell("0", column, value) for column, value in cells.items()])
    return f"bigtable://{PROJECT}/{INSTANCE}/{name}"


def meta_table(watershed: str | None = "", mip: int = 0, custom: dict[str, object] | None = None) -> str:
    """Create a PyChunkedGraph 2 table that has only metadata; return its URL."""
    meta = graph_meta(GEOMETRY, "g", 3, watershed or "", mip, custom)
    return put_rows({b"meta": {b"meta": meta}})


def params_table(info: Mapping[str, Any] | None = None, layers: int = 3) -> str:
    """Create a PyChunkedGraph 1 table of metadata, with a segmentation's ``info`` if any; return its URL."""
    cells = {
        b"chunk_size": np.array(GEOMETRY.chunk_size, "<u8").tobytes(),
        b"fan_out": (2).to_bytes(8, "little"),
        b"n_layers": layers.to_bytes(8, "little"),
    }
    if info is not None:
        cells[b"dataset_info"] = json.dumps(info).encode()
    return put_rows({b"params": cells})


def write_scales(folder: Path, size: Sequence[int] = (64, 64, 32)) -> CloudVolume:
    """Write a layer of two scales, and return its second scale.

    The first (8 x 8 x 40 nm) has label 1 everywhere, the second (16 x 16 x 40 nm) label 2. ``size`` is the
    second scale's number of voxels (x, y, z); the first has twice as many along x and y.
    """
    x, y, z = size
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="segmentation",
        data_type="uint64",
        encoding="raw",
        resolution=(8, 8, 40),
        voxel_offset=(0, 0, 0),
        volume_size=(2 * x, 2 * y, z),
        chunk_size=(32, 32, 32),
    )
    volume = CloudVolume(f"precomputed://file://{folder}", info=info, progress=False)
    volume.add_scale((2, 2, 1))
    volume.commit_info()
    volume[:] = np.ones((*volume.shape[:3], 1), np.uint64)
    volume.mip = 1
    volume[:] = np.full((*volume.shape[:3], 1), 2, np.uint64)
    return volume
