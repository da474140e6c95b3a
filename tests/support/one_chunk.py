"""A table with one ingested chunk of the sample and one failed chunk."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from l2features.config.datasets import load_dataset
from l2features.core.geometry import Chunk, Geometry
from l2features.core.rows import Rows
from l2features.ingest.compute import ChunkSource, read_geometry
from l2features.store.base import DONE, FAILED, ChunkRecord, Meta, open_store
from tests.support.jobs import dataset_file

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path, sample: Path) -> Path:
    path = dataset_file(tmp_path, sample)
    dataset = load_dataset("sample", path)
    geometry = read_geometry(dataset)
    store = open_store(dataset.store, dataset.l2cache_id)
    store.create(Meta(dataset.graph_id, dataset.cv_path, "2026-11-21 00:27:44", geometry))
    result = ChunkSource(dataset, geometry, NOW).compute(Chunk(1, 0, 0))
    store.write(result.features)
    nodes = len(result.features)
    done = ChunkRecord(geometry.chunk_id(Chunk(1, 0, 0)), DONE, NOW, nodes, orphans=2)
    store.put_chunk(done, result.segments)
    store.put_chunk(ChunkRecord(geometry.chunk_id(Chunk(2, 1, 1)), FAILED, NOW, reason="cannot read it"))
    store.close()
    return path


def stored(config: Path) -> tuple[Rows, Geometry]:
    """Return the ingested chunk's rows, and the geometry."""
    dataset = load_dataset("sample", config)
    store = open_store(dataset.store, dataset.l2cache_id)
    meta = store.meta()
    assert meta
    assert meta.geometry
    chunk_id = meta.geometry.chunk_id(Chunk(1, 0, 0))
    rows = store.scan_chunk(chunk_id, meta.geometry.layout.last_id(chunk_id))
    store.close()
    assert len(rows) >= 3
    return rows, meta.geometry
