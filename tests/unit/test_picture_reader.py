"""What is kept of pictures, and the largest chunk of a table."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from l2features.core.errors import StoreUnavailable, UnknownFormat
from l2features.graph.base import Graph
from l2features.neurons.neuron_reader import NeuronReader
from l2features.pictures import largest_chunk
from l2features.pictures.node_layers import NODE_LAYERS
from l2features.pictures.picture_reader import PictureReader
from l2features.query.reader import Reader
from l2features.store.base import DONE, FAILED, ChunkRecord, Store, open_store
from l2features.store.rewrites import Rewriting, end_rewrites
from l2features.testing.stores import CHUNK, META
from tests.support.known_roots import GEOMETRY, KnownGraph, random_roots, table_of
from tests.support.neuron_api import features_in_chunks

ROOTS = random_roots([40, 7])
ROOT, IDS = next(iter(ROOTS.items()))
NODES = NODE_LAYERS["nodes"]


class Setting:
    """A table and a graph, and readers of them, each as of a new process."""

    def __init__(self, permanent: bool = True) -> None:
        self.table, self.graph = table_of(ROOTS), KnownGraph(ROOTS, permanent)

    def pictures(self, cache_bytes: int = 0) -> PictureReader:
        rows, graph = Reader(cast(Store, self.table), GEOMETRY), cast(Graph, self.graph)
        return PictureReader(NeuronReader(rows, graph, keep=True, cache_bytes=cache_bytes))

    def reads(self) -> int:
        """The number of reads of rows since the last call of this."""
        found = len(self.table.reads)
        self.table.reads = []
        return found


# ------------------------------------------------------------------ skeletons
@pytest.mark.parametrize("permanent", [True, False])
def test_the_skeleton_of_a_complete_root_is_kept(permanent: bool) -> None:
    setting = Setting(permanent)
    first = setting.pictures().skeleton(ROOT)
    assert setting.reads() > 0
    again = setting.pictures().skeleton(ROOT)
    assert (again.body, again.lasting, setting.reads()) == (first.body, permanent, 0)
    reader = setting.pictures(cache_bytes=10_000_000)
    reader.skeleton(ROOT)
    setting.table.asked.clear()
    assert reader.skeleton(ROOT).body == first.body
    assert setting.table.asked == []


@pytest.mark.parametrize("permanent", [True, False])
def test_a_kept_skeleton_is_found_without_the_roots_nodes(permanent: bool) -> None:
    setting = Setting(permanent)
    assert setting.pictures().kept_skeleton(ROOT) is None
    made = setting.pictures().skeleton(ROOT)
    setting.table.asked.clear()
    setting.graph.calls.clear()
    found = setting.pictures().kept_skeleton(ROOT)
    assert (found and (found.body, found.lasting)) == ((made.body, True) if permanent else None)
    assert setting.table.asked == ([["skeleton"]] if permanent else [])
    assert setting.graph.calls == []
    with Rewriting(cast(Store, setting.table)).open():
        assert setting.pictures().kept_skeleton(ROOT) is None


def test_a_kept_skeleton_ends_with_its_rows() -> None:
    setting = Setting()
    pictures = setting.pictures(cache_bytes=10_000_000)
    first = pictures.skeleton(ROOT).body
    with Rewriting(cast(Store, setting.table)).open():
        setting.table.write(features_in_chunks(IDS, seed=2))
        assert not pictures.skeleton(ROOT).lasting
    end_rewrites(cast(Store, setting.table))
    fresh = pictures.skeleton(ROOT)
    assert fresh.body != first
    assert fresh.lasting
    assert setting.pictures().skeleton(ROOT).body == fresh.body


def test_the_skeleton_of_an_incomplete_root_is_not_kept() -> None:
    setting = Setting()
    lost = setting.table.features[np.isin(setting.table.features["label"], IDS[:2])]
    setting.table.delete(IDS[:2])
    first = setting.pictures().skeleton(ROOT)
    assert (first.lasting, first.missing.tolist()) == (False, IDS[:2].tolist())
    setting.table.write(lost)
    fresh = setting.pictures().skeleton(ROOT)
    assert (fresh.lasting, len(fresh.missing)) == (True, 0)
    assert fresh.body != first.body


def test_a_malformed_skeleton_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting()
    first = setting.pictures().skeleton(ROOT).body
    cell = setting.table.cells[ROOT]["skeleton"]
    setting.table.cells[ROOT]["skeleton"] = cell[:-1] + bytes([cell[-1] ^ 1])
    with caplog.at_level(logging.WARNING):
        assert setting.pictures().skeleton(ROOT).body == first
    assert "wrong checksum" in caplog.text


# ------------------------------------------------------------------ lists of nodes
def test_a_list_of_nodes_lasts_if_none_is_missing() -> None:
    setting = Setting()
    assert setting.pictures().nodes_of_root(NODES, ROOT).lasting
    with Rewriting(cast(Store, setting.table)).open():
        assert not setting.pictures().nodes_of_root(NODES, ROOT).lasting
    end_rewrites(cast(Store, setting.table))
    setting.table.delete(IDS[:1])
    found = setting.pictures().nodes_of_root(NODES, ROOT)
    assert (found.lasting, found.missing.tolist()) == (False, IDS[:1].tolist())
    assert not Setting(permanent=False).pictures().nodes_of_root(NODES, ROOT).lasting


# ------------------------------------------------------------------ the largest chunk
@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(f"sqlite://{tmp_path}/store.db", "largest")
    store.create(META)
    return store


def put_chunks(store: Store, *nodes: int) -> None:
    for i, count in enumerate(nodes):
        state = FAILED if count < 0 else DONE
        store.put_chunk(ChunkRecord(CHUNK + (i << 24), state, datetime.now(UTC), max(count, 0)))


def note_of(store: Store) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(store.note(largest_chunk.NOTE) or "{}")
    return content


def test_the_largest_chunk_is_that_of_the_records(store: Store) -> None:
    assert largest_chunk.largest_chunk(store) == 0
    put_chunks(store, 3, 17, -1, 5)
    assert largest_chunk.largest_chunk(store) == 0  # of the note
    store.put_note(largest_chunk.NOTE, json.dumps({**note_of(store), "time": "2026-01-01T00:00:00Z"}))
    assert largest_chunk.largest_chunk(store) == 17
    assert note_of(store)["nodes"] == 17


def test_a_slow_scan_is_repeated_later() -> None:
    now = datetime.now(UTC)
    fast, slow = (largest_chunk.LargestChunk(nodes=1, time=now, seconds=s) for s in (0.01, 300))
    assert fast.due - now == timedelta(seconds=60)
    assert slow.due - now == timedelta(seconds=30_000)


def test_a_malformed_note_is_replaced_and_a_newer_one_refused(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    put_chunks(store, 4)
    store.put_note(largest_chunk.NOTE, '{"nodes": "x"}')
    with caplog.at_level(logging.WARNING):
        assert largest_chunk.largest_chunk(store) == 4
    assert "the note 'largest_chunk' cannot be read" in caplog.text
    store.put_note(largest_chunk.NOTE, '{"format": 99}')
    with pytest.raises(UnknownFormat, match="format 99"):
        largest_chunk.largest_chunk(store)


def test_a_store_that_refuses_writes_is_read(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise StoreUnavailable("read only")

    put_chunks(store, 4)
    monkeypatch.setattr(store, "put_note", refuse)
    with caplog.at_level(logging.WARNING):
        assert largest_chunk.largest_chunk(store) == 4
    assert "cannot keep the note 'largest_chunk': read only" in caplog.text
