"""Tests of scans of a table's chunk records. Processes share the result, which is stored in the table."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2features.core.errors import StoreUnavailable
from l2features.core.geometry import Chunk
from l2features.overview.chunk_scan import NOTE, ChunkScan, ScanNote, shared_scan
from l2features.store.base import DONE, FAILED, ChunkRecord, Store, open_store
from l2features.testing.small_table import GEOMETRY
from l2features.testing.stores import META

OLD = "2026-01-01T00:00:00Z"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(f"sqlite://{tmp_path}/store.db", "scanned")
    store.create(META)
    return store


def put_chunks(store: Store, *nodes: int) -> None:
    """Record one chunk per node count; -1 stands for a failed chunk."""
    for z, count in enumerate(nodes):
        state, chunk_id = FAILED if count < 0 else DONE, GEOMETRY.chunk_id(Chunk(z % 2, 0, z // 2))
        store.put_chunk(ChunkRecord(chunk_id, state, datetime.now(UTC), max(count, 0)))


def note_of(store: Store) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(store.note(NOTE) or "{}")
    return content


def check_equal(one: ChunkScan, other: ChunkScan) -> None:
    assert (one.progress, one.time, one.seconds) == (other.progress, other.time, other.seconds)
    assert (one.map.sample, one.map.most_nodes) == (other.map.sample, other.map.most_nodes)
    for name, plane in one.map.planes.items():
        for array in ("counts", "total", "failed"):
            assert np.array_equal(getattr(plane, array), getattr(other.map.planes[name], array))


def test_a_scan_is_shared_until_it_is_old(store: Store) -> None:
    put_chunks(store, 3, 17, -1)
    first = shared_scan(store, GEOMETRY)
    assert (first.progress.done, first.progress.failed, first.progress.nodes) == (2, 1, 20)
    assert first.map.most_nodes == 17
    put_chunks(store, 3, 17, -1, 30)
    check_equal(shared_scan(store, GEOMETRY), first)
    store.put_note(NOTE, json.dumps({**note_of(store), "time": OLD}))
    again = shared_scan(store, GEOMETRY)
    assert (again.progress.done, again.map.most_nodes) == (3, 30)
    assert note_of(store)["most_nodes"] == 30


def test_a_slow_scan_is_repeated_later_and_not_by_all_at_once(store: Store) -> None:
    shared_scan(store, GEOMETRY)
    note = ScanNote.model_validate(note_of(store) | {"seconds": 0.01})
    waits = [(note.due(process) - note.time).total_seconds() for process in range(16)]
    assert waits[0] == 10
    assert len(set(waits)) == 16
    assert max(waits) < 15
    assert note.model_copy(update={"seconds": 300.0}).due(0) - note.time == timedelta(seconds=12_000)


def test_a_scan_of_another_grid_is_not_used(store: Store) -> None:
    put_chunks(store, 3, 17)
    shared_scan(store, GEOMETRY)
    x, y, z = GEOMETRY.voxel_size
    larger = replace(GEOMETRY, voxel_size=(x + GEOMETRY.chunk_size[0], y, z))
    assert shared_scan(store, larger).progress.total == larger.n_chunks


@pytest.mark.parametrize(
    "planes",
    [{}, {"xy": {"counts": [[[1], [1, 2]]], "failed": []}}, {"xy": {"counts": [], "failed": []}}],
)
def test_a_note_without_the_map_is_replaced(store: Store, planes: Any) -> None:
    put_chunks(store, 4)
    shared_scan(store, GEOMETRY)
    store.put_note(NOTE, json.dumps({**note_of(store), "planes": planes, "most_nodes": 99}))
    assert shared_scan(store, GEOMETRY).map.most_nodes == 4
    assert note_of(store)["most_nodes"] == 4


def test_a_malformed_note_is_replaced(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    put_chunks(store, 4)
    store.put_note(NOTE, '{"seconds": "x"}')
    with caplog.at_level(logging.WARNING):
        assert shared_scan(store, GEOMETRY).map.most_nodes == 4
    assert "the note 'chunk_scan' cannot be read" in caplog.text
    assert note_of(store)["most_nodes"] == 4


def test_a_newer_note_stays(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    put_chunks(store, 4)
    store.put_note(NOTE, '{"format": 99}')
    with caplog.at_level(logging.WARNING):
        assert shared_scan(store, GEOMETRY).map.most_nodes == 4
    assert "format 99" in caplog.text
    assert note_of(store) == {"format": 99}


def test_a_store_that_refuses_writes_is_read(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise StoreUnavailable("read only")

    put_chunks(store, 4)
    monkeypatch.setattr(store, "put_note", refuse)
    with caplog.at_level(logging.WARNING):
        assert shared_scan(store, GEOMETRY).map.most_nodes == 4
        assert shared_scan(store, GEOMETRY).map.most_nodes == 4
    assert (
        caplog.text.count(
            "cannot store the chunk scan (note 'chunk_scan'), so each process repeats it: read only"
        )
        == 1
    )


def test_processes_differ(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put_chunks(store, 4)
    shared_scan(store, GEOMETRY)
    aged = datetime.now(UTC) - timedelta(seconds=12)
    store.put_note(NOTE, json.dumps({**note_of(store), "time": aged.isoformat(), "most_nodes": 99}))
    monkeypatch.setattr("l2features.overview.chunk_scan._process", lambda: 15)
    assert shared_scan(store, GEOMETRY).map.most_nodes == 99
    monkeypatch.setattr("l2features.overview.chunk_scan._process", lambda: 16)
    assert shared_scan(store, GEOMETRY).map.most_nodes == 4
