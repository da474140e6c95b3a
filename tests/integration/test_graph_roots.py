"""Tests of the recorded graphs' roots, from their tables."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
import zstandard
from google.cloud import bigtable
from google.cloud.bigtable.data.mutations import DeleteAllFromRow, SetCell

from l2features.core.chunks import whole_box
from l2features.core.errors import GraphError, GraphUnavailable
from l2features.core.geometry import Chunk
from l2features.core.ids import as_ids, row_keys
from l2features.graph.base import Graph, MalformedEdges
from l2features.graph.bigtable import BigtableGraph
from l2features.local.sample.graph_cells import graph_meta
from l2features.store.bigtable.row_stream import Connection
from l2features.testing import graph_tables
from l2features.testing.emulators import Emulator
from l2features.testing.graph_tables import put_rows
from l2features.testing.stores import INSTANCE, PROJECT, raw_table
from tests.support.graph_roots import (
    GEOMETRIES,
    GEOMETRY,
    MOST,
    UNKNOWN_ROOT,
    at,
    check_roots,
    check_roots_at_times,
    pairs_of,
    roots_of_recording,
)
from tests.support.jobs import Recordings

V1 = GEOMETRIES["fixture_v1"]


def url(name: str) -> str:
    return f"bigtable://{PROJECT}/{INSTANCE}/{name}"


@pytest.fixture
def graph(recordings: Recordings) -> Iterator[Graph]:
    graph = BigtableGraph(url("fixture_v2"))
    yield graph
    graph.close()


def test_every_root_has_the_recorded_nodes_edges_and_history(graph: Graph, recordings: Recordings) -> None:
    check_roots(graph, recordings)


def test_l2_nodes_have_the_recorded_roots_at_three_times(graph: Graph, recordings: Recordings) -> None:
    check_roots_at_times(graph, recordings)


def test_unknown_roots_are_in_no_answer(graph: Graph, recordings: Recordings) -> None:
    l2_id = int(next(iter(recordings.json("l2_children.json")["l2"])))
    asked = as_ids([UNKNOWN_ROOT, l2_id, 0, 2**64 - 1])
    assert graph.is_root(GEOMETRY, asked).tolist() == [True, False, False, False]
    found = graph.root_nodes(GEOMETRY, asked, MOST)
    assert (found.l2_ids, found.too_large, found.errors) == ({}, {}, {})
    assert graph.histories(GEOMETRY, asked) == {}
    nothing = as_ids([])
    assert graph.root_nodes(GEOMETRY, nothing, MOST).l2_ids == {}
    assert graph.root_edges(GEOMETRY, {}) == {}
    assert graph.histories(GEOMETRY, nothing) == {}
    assert graph.roots_of(GEOMETRY, nothing, at(0)).tolist() == []
    [pairs] = graph.root_edges(GEOMETRY, {7: nothing}).values()
    assert (pairs.shape, pairs.dtype) == ((0, 2), np.uint64)


@pytest.mark.parametrize("most", [1, 2, 3, 10, 23, 24])
def test_large_roots_are_counted(graph: Graph, recordings: Recordings, most: int) -> None:
    recorded = {root: len(entry["l2_ids"]) for root, entry in roots_of_recording(recordings).items()}
    assert max(recorded.values()) == 24
    found = graph.root_nodes(GEOMETRY, as_ids([*recorded]), most)
    assert found.errors == {}
    small = {root for root, n in recorded.items() if n <= most}
    assert (set(found.l2_ids), set(found.too_large)) == (small, set(recorded) - small)
    assert all(most < n <= recorded[root] for root, n in found.too_large.items())


def test_a_graph_of_version_1_as_kvdbclient_walks_it(recordings: Recordings) -> None:
    from kvdbclient import BigTableClient, attributes
    from kvdbclient.bigtable import BigTableConfig

    config = BigTableConfig(PROJECT=PROJECT, INSTANCE=INSTANCE, ADMIN=False, READ_ONLY=True)
    client = BigTableClient("fixture_v1", config=config)

    def cell(node: int, *names: Any) -> list[Any]:
        row = client.read_node(np.uint64(node), properties=list(names))
        return [row[name][0].value for name in names if name in row]

    def leaves(node: int) -> list[int]:
        if node >> 56 == 2:
            return [node]
        [children] = cell(node, attributes.Hierarchy.Child)
        return sorted(leaf for child in children.tolist() for leaf in leaves(child))

    dumped = [base64.b64decode(key) for key, _ in recordings.dump("graph_v1.json.gz")["rows"]]
    roots = [int(key) for key in dumped if key.isdigit() and int(key) >> 56 == 4]
    assert len(roots) == 48
    expected = {root: leaves(root) for root in roots}
    graph = BigtableGraph(url("fixture_v1"))
    found = graph.root_nodes(V1, as_ids(roots), MOST)
    assert {root: ids.tolist() for root, ids in found.l2_ids.items()} == expected

    layers = [attributes.Connectivity.AtomicCrossChunkEdge[layer] for layer in (2, 3)]
    edges = {}
    for root, ids in expected.items():
        own = {sv: i for i in ids for sv in cell(i, attributes.Hierarchy.Child)[0].tolist()}
        crossing = [pair for i in ids for cells in cell(i, *layers) for pair in cells.reshape(-1, 2).tolist()]
        edges[root] = pairs_of((own[a], own[b]) for a, b in crossing if a in own and b in own)
    got = graph.root_edges(V1, found.l2_ids)
    assert {root: [tuple(pair) for pair in pairs.tolist()] for root, pairs in got.items()} == edges
    assert sum(map(len, edges.values())) > 100

    histories = graph.histories(V1, as_ids(roots))
    assert {(h.retired, h.successors, h.predecessors) for h in histories.values()} == {(None, (), ())}
    assert set(histories) == set(roots)
    now = datetime.now(UTC)
    for root, nodes in found.l2_ids.items():
        assert set(graph.roots_of(V1, nodes, now).tolist()) == {root}
        assert not graph.roots_of(V1, nodes, at(0)).any()
    graph.close()


@pytest.mark.parametrize(("made", "top"), [([], 3), ([3], 3), ([3, 4], 4)])
def test_the_layer_of_the_roots_of_a_grid_that_was_rounded_down_or_up(
    emulator: Emulator, made: list[int], top: int
) -> None:
    """A grid of 2.5 chunks has 3 layers if rounded down, else 4. An id counter of layer 4 means 4."""
    counters = {b"i%020d_0" % (layer << 56): {b"counter": bytes(8)} for layer in made}
    meta = graph_meta(graph_tables.GEOMETRY, "g", 3, "")
    graph = BigtableGraph(put_rows({b"meta": {b"meta": meta}, **counters}))
    geometry = replace(graph_tables.GEOMETRY, voxel_size=(80, 32, 32))
    ids = as_ids([layer << 56 for layer in range(1, 6)])
    assert graph.is_root(geometry, ids).tolist() == [layer == top for layer in range(1, 6)]
    graph.close()


# ------------------------------------------------------------------ malformed, slow and missing tables
class Copy:
    """A copy of the recorded table that a test can change."""

    def __init__(self, recordings: Recordings, name: str) -> None:
        client = bigtable.Client(project=PROJECT, admin=True)
        recordings.loader.load(client.instance(INSTANCE), recordings.dump("graph_v2.json.gz"), name)
        self.name, self.table = name, raw_table(name)

    def put(self, node: int, value: bytes, column: str = "children", family: str = "0") -> None:
        """Write a cell that is newer than the recorded one."""
        self.table.mutate_row(key_of(node), SetCell(family, column.encode(), value))

    def delete(self, node: int) -> None:
        self.table.mutate_row(key_of(node), DeleteAllFromRow())

    def open(self) -> BigtableGraph:
        return BigtableGraph(url(self.name))


def key_of(node: int) -> bytes:
    return row_keys(as_ids([node]))[0]


def test_a_malformed_cell_is_an_error_of_its_roots_only(recordings: Recordings) -> None:
    recorded = roots_of_recording(recordings)
    copy = Copy(recordings, "fixture_bad_roots")
    single = [root for root, entry in sorted(recorded.items()) if len(entry["l2_ids"]) == 1]
    odd, empty, own, low, bomb = single[:5]
    copy.put(odd, b"12345")
    copy.put(empty, b"")
    copy.put(own, as_ids([own]).tobytes())
    copy.put(low, as_ids([(1 << 56) + 1]).tobytes())
    copy.put(bomb, zstandard.compress(bytes(2**28)))
    inner, child = 288230376151712099, 216172782113783866
    copy.delete(child)
    graph = copy.open()
    found = graph.root_nodes(GEOMETRY, as_ids([*recorded]), MOST)
    assert found.too_large == {}
    assert found.errors == {
        odd: f"node {odd}: children have 5 bytes: expected 8 per id",
        empty: f"node {empty} has no children: expected one or more",
        own: f"node {own}: child {own}: expected a layer of 2 or higher, but below its parent's",
        low: f"node {low}: child {(1 << 56) + 1}: expected a layer of 2 or higher, but below its parent's",
        bomb: f"node {bomb}: children have {2**28} bytes: expected {8 << 24} at most",
        inner: f"node {child} has no children: expected one or more",
    }
    assert set(found.l2_ids) == set(recorded) - set(found.errors)
    graph.close()


def test_malformed_edges_and_parents_are_errors(recordings: Recordings) -> None:
    copy = Copy(recordings, "fixture_bad_edges")
    recorded = roots_of_recording(recordings)
    root, nodes = next((root, sorted(e["l2_ids"])) for root, e in recorded.items() if e["l2_edges"])
    other = next(root for root, e in recorded.items() if not set(nodes) & set(e["l2_ids"]))
    of_roots = {root: as_ids(nodes), other: as_ids(sorted(recorded[other]["l2_ids"]))}
    for value, said in (
        (bytes(8), "cross-chunk edges have an odd number of supervoxels"),
        (bytes(7), "cross-chunk edges have 7 bytes: expected 8 per id"),
        (as_ids([(1 << 56) + 5, 3 << 56]).tobytes(), f"end at {3 << 56}: expected a supervoxel"),
    ):
        copy.put(nodes[0], value, "atomic_cross_edges_2", "3")
        with pytest.raises(MalformedEdges, match=said) as error:
            copy.open().root_edges(GEOMETRY, of_roots)
        assert list(error.value.roots) == [root]
    copy.put(nodes[0], as_ids([nodes[0]]).tobytes(), "parents")
    with pytest.raises(GraphError, match=f"node {nodes[0]}: parent {nodes[0]} is not of a higher layer"):
        copy.open().roots_of(GEOMETRY, as_ids(nodes), datetime.now(UTC))
    copy.put(root, b"123", "new_parents")
    with pytest.raises(GraphError, match=f"root {root}: successors have 3 bytes"):
        copy.open().histories(GEOMETRY, as_ids([root]))


def test_edges_that_only_one_end_has(recordings: Recordings) -> None:
    copy = Copy(recordings, "fixture_one_sided")
    recorded = roots_of_recording(recordings)
    root = max(recorded, key=lambda root: len(recorded[root]["l2_edges"]))
    ids = sorted(recorded[root]["l2_ids"])
    for node in ids[::2]:
        for layer in (2, 3):
            copy.put(node, b"", f"atomic_cross_edges_{layer}", "3")
    silent = set(ids[::2])
    expected = [pair for pair in pairs_of(recorded[root]["l2_edges"]) if not silent.issuperset(pair)]
    assert 0 < len(expected) < len(recorded[root]["l2_edges"])
    [pairs] = copy.open().root_edges(GEOMETRY, {root: as_ids(ids)}).values()
    assert [tuple(pair) for pair in pairs.tolist()] == expected


def test_the_deadline_is_that_of_each_read(recordings: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = roots_of_recording(recordings)
    root = max(recorded, key=lambda root: len(recorded[root]["l2_ids"]))
    graph, read = Copy(recordings, "fixture_slow").open(), Connection.read_cells

    def slow(*arguments: Any, **options: Any) -> Any:
        sleep(0.5)
        return read(*arguments, **options)

    monkeypatch.setattr(Connection, "read_cells", slow)
    monkeypatch.setattr("l2features.graph.table_reads.ROWS", 2)
    found = graph.root_nodes(GEOMETRY, as_ids([root]), MOST)
    graph.deadline_s = 2.0
    begun = monotonic()
    [pairs] = graph.root_edges(GEOMETRY, found.l2_ids).values()
    assert pairs.tolist() == [list(pair) for pair in pairs_of(recorded[root]["l2_edges"])]
    assert monotonic() - begun > graph.deadline_s


@pytest.mark.parametrize("listening", [False, True], ids=["refused", "silent"])
def test_a_table_that_is_down_or_silent(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, listening: bool
) -> None:
    ids = as_ids([UNKNOWN_ROOT])
    with pytest.raises(GraphError, match=r"bigtable://\S+/no_such: the table does not exist"):
        BigtableGraph(url("no_such")).root_nodes(GEOMETRY, ids, MOST)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listening:
            server.listen()
        monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", f"127.0.0.1:{server.getsockname()[1]}")
        graph = BigtableGraph(url("g"))
        graph.deadline_s = 0.4
        l2_ids = as_ids([GEOMETRY.chunk_id(Chunk(0, 0, 0)) + 1])
        for use in (
            lambda: graph.root_nodes(GEOMETRY, ids, MOST),
            lambda: graph.root_edges(GEOMETRY, {UNKNOWN_ROOT: l2_ids}),
            lambda: graph.roots_of(GEOMETRY, l2_ids, at(0)),
            lambda: graph.histories(GEOMETRY, ids),
            lambda: graph.valid_nodes(GEOMETRY, whole_box(GEOMETRY.grid), at(0)),
            lambda: graph.changed_roots(GEOMETRY, at(0), at(1)),
        ):
            start = monotonic()
            with pytest.raises(GraphUnavailable, match=r"cannot read bigtable://\S+/g: "):
                use()
            assert monotonic() - start < 3
        graph.close()
