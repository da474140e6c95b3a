"""Tests of data sets without a graph: their segments are the roots, and must match the voxels."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2features.config.datasets import load_dataset
from l2features.core.chunks import ChunkBox, whole_box
from l2features.core.errors import GraphError
from l2features.core.geometry import Chunk
from l2features.core.ids import as_ids
from l2features.graph.base import Graph, RootHistory
from l2features.graph.flat import FlatGraph
from l2features.ingest.source import open_dataset_graph
from l2features.ingest.steps import Ingest, compute_chunk, prepare, save_chunk
from l2features.store import segment_index
from l2features.store.base import Store
from l2features.store.segment_index import IndexState, build_index, index_state
from l2features.testing.graph_history import roots_by_node
from l2features.testing.layers import make_layer
from tests.support.jobs import dataset_file

SIZE, CHUNK_SIZE = (48, 32, 32), (16, 16, 16)
MOST = 1_000
NOW = datetime.now(UTC)
Labels = np.ndarray[Any, Any]


def random_labels(seed: int) -> Labels:
    """Return bricks of random segments and background; some bricks cross chunks."""
    rng = np.random.default_rng(seed)
    bricks = rng.choice(as_ids([0, 1, 2, 3, 5, 8, 2**63 + 1]), [n // 4 for n in SIZE])
    labels = bricks.repeat(4, 0).repeat(4, 1).repeat(4, 2)
    return np.roll(labels, 2, axis=0)


def ingested(folder: Path, labels: Labels, create: bool = True) -> Ingest:
    make_layer(folder / "ws", labels, chunk_size=CHUNK_SIZE)
    config = dataset_file(folder, folder / "ws", chunk_size=list(CHUNK_SIZE))
    ingest = prepare(load_dataset("sample", config), create=create)
    source = ingest.open_source()
    with closing(ingest.open_store()) as store:
        for xyz in np.ndindex(*ingest.geometry.grid):
            save_chunk(store, ingest.geometry, compute_chunk(source, Chunk(*xyz)))
    source.graph.close()
    return ingest


def counted(
    ingest: Ingest, labels: Labels
) -> tuple[dict[int, dict[int, int]], dict[int, set[tuple[int, ...]]]]:
    """Return each segment's number of voxels by node, and its edges as pairs of nodes."""
    voxels: dict[int, dict[int, int]] = {}
    nodes: dict[tuple[Chunk, int], int] = {}
    parts: dict[Chunk, Labels] = {}
    for xyz in np.ndindex(*ingest.geometry.grid):
        chunk = Chunk(*xyz)
        box = tuple(slice(n * step, n * step + step) for n, step in zip(xyz, CHUNK_SIZE, strict=True))
        parts[chunk] = labels[box]
        segments, counts = np.unique(parts[chunk], return_counts=True)
        present = [(int(s), int(n)) for s, n in zip(segments, counts, strict=True) if s]
        for rank, (segment, count) in enumerate(present, 1):
            nodes[chunk, segment] = node = ingest.geometry.chunk_id(chunk) + rank
            voxels.setdefault(segment, {})[node] = count
    edges: dict[int, set[tuple[int, ...]]] = {segment: set() for segment in voxels}
    for (chunk, segment), node in nodes.items():
        for axis in range(3):
            above = Chunk(*(n + (i == axis) for i, n in enumerate(chunk)))
            upper = parts[chunk].take(-1, axis=axis) == segment
            if (above, segment) in nodes and upper.any():
                lower = parts[above].take(0, axis=axis) == segment
                if lower.any():
                    edges[segment].add(tuple(sorted((node, nodes[above, segment]))))
    return voxels, edges


def check(ingest: Ingest, labels: Labels) -> None:
    """Check that nodes, edges and volumes of all segments match the voxels."""
    voxels, edges = counted(ingest, labels)
    geometry = ingest.geometry
    with closing(open_dataset_graph(ingest.dataset)) as graph, closing(ingest.open_store()) as store:
        found = graph.root_nodes(geometry, as_ids([9, *voxels, 0]), MOST)
        assert (found.too_large, found.errors) == ({}, {})
        assert {root: ids.tolist() for root, ids in found.l2_ids.items()} == {
            root: sorted(nodes) for root, nodes in voxels.items()
        }
        got = graph.root_edges(geometry, found.l2_ids)
        assert {root: set(map(tuple, pairs.tolist())) for root, pairs in got.items()} == edges
        for root, ids in found.l2_ids.items():
            sizes = store.read(ids).features["size_nm3"].tolist()
            assert sum(sizes) == (labels == root).sum()
            assert graph.roots_of(geometry, ids, NOW).tolist() == [root] * len(ids)


@pytest.fixture
def ingest(tmp_path: Path) -> Ingest:
    return ingested(tmp_path, random_labels(0))


@pytest.fixture
def graph(ingest: Ingest) -> Iterator[Graph]:
    with closing(open_dataset_graph(ingest.dataset)) as graph:
        yield graph


def test_segments_are_those_of_the_voxels(ingest: Ingest) -> None:
    check(ingest, random_labels(0))


def test_a_changed_segmentation_leaves_nothing_stale(ingest: Ingest, tmp_path: Path) -> None:
    changed = random_labels(1)
    changed[changed == 3] = 4
    check(ingested(tmp_path, changed, create=False), changed)


def test_segments_have_the_time_of_their_table(ingest: Ingest, graph: Graph) -> None:
    asked = as_ids([1, 2, 77, 0])
    assert graph.is_root(ingest.geometry, asked).tolist() == [True, True, True, False]
    history = RootHistory(ingest.meta.time)
    assert graph.histories(ingest.geometry, asked) == {1: history, 2: history}
    unknown = as_ids([0, 7, ingest.geometry.chunk_id(Chunk(0, 0, 0)) + 100])
    assert graph.roots_of(ingest.geometry, unknown, NOW).tolist() == [0, 0, 0]


def test_nodes_of_boxes_have_their_segments(ingest: Ingest, graph: Graph) -> None:
    voxels, _ = counted(ingest, random_labels(0))
    expected = {node: segment for segment, nodes in voxels.items() for node in nodes}
    for cut in range(4):
        boxes = ChunkBox((0, 0, 0), (cut, 5, 5)), ChunkBox((cut, 0, 0), (5, 2, 2))
        parts = [roots_by_node(graph.valid_nodes(ingest.geometry, box, NOW)) for box in boxes]
        assert len(parts[0]) + len(parts[1]) == len(expected)
        assert parts[0] | parts[1] == expected
    with pytest.raises(GraphError, match="graph flat has no history of roots: make a version without a base"):
        graph.changed_roots(ingest.geometry, NOW, NOW)


def test_chunks_without_a_record_have_no_nodes(tmp_path: Path) -> None:
    make_layer(tmp_path / "ws", random_labels(0), chunk_size=CHUNK_SIZE)
    config = dataset_file(tmp_path, tmp_path / "ws", chunk_size=list(CHUNK_SIZE))
    ingest = prepare(load_dataset("sample", config), create=True)
    chunk = Chunk(1, 1, 0)
    with closing(ingest.open_store()) as store, closing(open_dataset_graph(ingest.dataset)) as graph:
        save_chunk(store, ingest.geometry, compute_chunk(ingest.open_source(), chunk))
        found = graph.valid_nodes(ingest.geometry, whole_box(ingest.geometry.grid), NOW)
        assert found.l2_ids.tolist() == graph.nodes(ingest.geometry, chunk).tolist()
        assert len(found.roots) > 1


def test_large_segments_are_counted(ingest: Ingest, graph: Graph) -> None:
    found = graph.root_nodes(ingest.geometry, as_ids([1, 2]), 11)
    assert (list(found.l2_ids), found.too_large) == ([], {1: 12, 2: 12})


def test_a_node_without_a_row_has_no_edges(ingest: Ingest, graph: Graph) -> None:
    nodes = graph.root_nodes(ingest.geometry, as_ids([1]), MOST).l2_ids
    before = graph.root_edges(ingest.geometry, nodes)[1]
    lost = int(before[0, 0])
    with closing(ingest.open_store()) as store:
        store.delete(lost, lost)
    after = graph.root_edges(ingest.geometry, nodes)[1]
    assert after.tolist() == before[~(before == np.uint64(lost)).any(axis=1)].tolist()


def test_edges_are_those_of_rows_that_have_been_read(
    ingest: Ingest, graph: FlatGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = graph.root_nodes(ingest.geometry, as_ids([1, 2, 5]), MOST).l2_ids
    expected = graph.root_edges(ingest.geometry, nodes)
    rows = graph.store.read(np.concatenate(list(nodes.values())))
    monkeypatch.setattr(graph.store, "read", None)
    got = graph.root_edges(ingest.geometry, nodes, rows)
    assert {root: pairs.tolist() for root, pairs in got.items()} == {
        root: pairs.tolist() for root, pairs in expected.items()
    }
    assert graph.root_edges(ingest.geometry, {}, rows[:0]) == {}


# ------------------------------------------------------------------ tables of older versions
def forget_index(ingest: Ingest) -> Store:
    """Delete the segment index, as if older code had written the table, and open the store."""
    with closing(sqlite3.connect(ingest.dataset.store.removeprefix("sqlite://"))) as db:
        db.executescript("DROP TABLE 'l2cache_sample.segments'; DELETE FROM notes")
    return ingest.open_store()


def test_a_table_without_an_index_says_so_until_it_is_built(ingest: Ingest, graph: Graph) -> None:
    with closing(forget_index(ingest)) as store:
        for use in (
            lambda: graph.root_nodes(ingest.geometry, as_ids([1]), MOST),
            lambda: graph.histories(ingest.geometry, as_ids([1])),
        ):
            with pytest.raises(GraphError, match="table l2cache_sample: segments are not indexed"):
                use()
        prepare(ingest.dataset, create=False)
        assert not index_state(store).complete
        assert list(build_index(store, ingest.geometry)) == [0, 12]
        assert list(build_index(store, ingest.geometry)) == [12]
    check(ingest, random_labels(0))


def test_an_interrupted_index_is_resumed(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_index, "SHARD_CHUNKS", 5)
    with closing(forget_index(ingest)) as store:
        interrupted = build_index(store, ingest.geometry)
        assert [next(interrupted), next(interrupted)] == [0, 5]
        del interrupted
        assert index_state(store) == IndexState(complete=False, chunks=5)
        assert list(build_index(store, ingest.geometry)) == [5, 10, 12]
    check(ingest, random_labels(0))


def test_a_new_table_without_chunks_has_an_index(tmp_path: Path) -> None:
    make_layer(tmp_path / "ws", random_labels(0), chunk_size=CHUNK_SIZE)
    config = dataset_file(tmp_path, tmp_path / "ws", chunk_size=list(CHUNK_SIZE))
    ingest = prepare(load_dataset("sample", config), create=True)
    with closing(ingest.open_store()) as store, closing(open_dataset_graph(ingest.dataset)) as graph:
        assert index_state(store).complete
        assert graph.root_nodes(ingest.geometry, as_ids([1]), MOST).l2_ids == {}
