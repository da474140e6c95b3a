"""Tests of ``l2features index`` for a table of many chunks, killed and resumed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from l2features.core.geometry import Geometry
from l2features.core.ids import IdLayout, as_ids
from l2features.store.base import DONE, ChunkRecord, Meta, Store, open_store
from l2features.store.segment_index import index_state
from l2features.store.sqlite.tables import row_of
from l2features.testing.stores import T0
from tests.support.command import run
from tests.support.jobs import dataset_file

GEOMETRY = Geometry((8, 8, 40), (0, 0, 0), (320, 320, 160), (16, 16, 16), IdLayout({2: 10}))
TABLE = "l2cache_sample"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Record 4,000 chunks without an index, each with segment 1 and one of its own."""
    config = dataset_file(tmp_path, "precomputed://file:///nowhere", chunk_size=[16, 16, 16])
    with closing(opened(config)) as store:
        store.create(Meta("sample", "precomputed://file:///nowhere", "2026-01-01 00:00:00", GEOMETRY))
    with closing(sqlite3.connect(tmp_path / "l2cache.db")) as db, db:
        rows = [
            row_of(ChunkRecord(chunk_id, DONE, T0, 2), as_ids([1, chunk_id])) for chunk_id in every_chunk()
        ]
        db.executemany(f'INSERT INTO "{TABLE}.chunks" VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)', rows)
    return config


def every_chunk() -> list[int]:
    return GEOMETRY.layout.chunk_id_array(np.argwhere(np.ones(GEOMETRY.grid))).tolist()


def opened(config: Path) -> Store:
    return open_store(f"sqlite://{config.parent}/l2cache.db", TABLE)


def test_an_index_is_killed_and_resumed(config: Path) -> None:
    command = [sys.executable, "-m", "l2features.cli", "index", "sample", "--config", str(config)]
    with closing(opened(config)) as store:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while index_state(store).chunks == 0 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        process.kill()
        process.wait()
        state = index_state(store)
        assert (state.complete, 0 < state.chunks < GEOMETRY.n_chunks) == (False, True)

        result = run("index", "sample", "--config", config)
        assert (result.exit_code, "the segments of 4000 chunks are indexed" in result.output) == (0, True)
        assert index_state(store).complete
        chunk_ids = every_chunk()
        found = store.segment_nodes(as_ids([1, *chunk_ids]), 10_000)
        assert found[1].tolist() == [chunk_id + 1 for chunk_id in chunk_ids]
        assert {i: nodes.tolist() for i, nodes in found.items() if i != 1} == {i: [i + 2] for i in chunk_ids}


def test_a_data_set_with_a_graph_needs_no_index(tmp_path: Path) -> None:
    config = dataset_file(
        tmp_path, "precomputed://file:///nowhere", graph="bigtable://p/i/t", chunk_size=None
    )
    result = run("index", "sample", "--config", config)
    assert result.exit_code == 2
    assert "needs no index: its graph bigtable://p/i/t has the roots" in result.output
