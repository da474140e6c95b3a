"""A small table of synthetic nodes and its data sets file, enough to try a server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..core.geometry import Geometry
from ..core.ids import IdLayout, Ids
from ..core.schema import FEATURES, FLAGS, NAMES
from ..store.base import Meta, open_store

DATASET = "sample"
GEOMETRY = Geometry((16, 16, 40), (1024, 512, 20), (160, 128, 48), (64, 64, 32), IdLayout({2: 10}))
NODES = 100
EMPTY = 7
"""One in this many nodes could not be computed."""


def node_ids(count: int = NODES) -> Ids:
    """Return the ids of the table's nodes, shape (count,)."""
    return np.uint64(GEOMETRY.layout.chunk_id(1, 0, 0)) + np.arange(1, count + 1, dtype=np.uint64)


def small_table(folder: Path, nodes: int = NODES) -> Path:
    """Write a SQLite table to ``folder``; return its data sets file. The data set has no graph."""
    rng, rows = np.random.default_rng(0), np.zeros(nodes, dtype=FEATURES)
    for name in NAMES:
        rows[name] = rng.integers(1, 30_000, rows[name].shape)
    for flag in FLAGS:
        rows[flag] = np.arange(nodes) % 3 > 0
    rows[::EMPTY] = 0
    rows["label"] = node_ids(nodes)
    store_url = f"sqlite://{folder}/l2cache.db"
    store = open_store(store_url, "l2cache_small")
    store.create(Meta("graph", "precomputed://file:///nowhere", "2026-01-01 00:00:00", GEOMETRY))
    store.write(rows)
    store.close()
    entry = {"cv_path": "precomputed://file:///nowhere", "l2cache_id": "l2cache_small", "store": store_url}
    config = folder / "datasets.yml"
    config.write_text(json.dumps({DATASET: {**entry, "graph": "flat", "chunk_size": [64, 64, 32]}}))
    return config
