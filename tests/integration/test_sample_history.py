"""Tests of the valid nodes and changed roots of an edited sample, compared with all cells of its graph."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import sleep

import pytest
from google.cloud.bigtable.data import ReadRowsQuery

from l2features.config.datasets import load_dataset
from l2features.core.chunks import whole_box
from l2features.core.geometry import Geometry
from l2features.core.ids import from_bytes
from l2features.graph.base import Graph
from l2features.graph.bigtable import BigtableGraph
from l2features.graph.graphene import GrapheneGraph
from l2features.graph.id_cells import decode_ids
from l2features.local.sample.edit import MERGE, SPLIT, SampleEditor
from l2features.local.sample.segmentation_files import Sample
from l2features.store.bigtable.calls import open_table
from l2features.testing.emulators import Emulator
from l2features.testing.graph_history import (
    GraphHistorySuite,
    KnownHistory,
    KnownRoot,
    around,
    at,
    roots_by_node,
)
from l2features.testing.pcg_server import INSTANCE, PcgServer, served_at
from tests.support.command import run

EDITS = (MERGE, SPLIT, SPLIT) * 12
TABLE = f"history_{os.getpid()}"
URL = f"bigtable://{INSTANCE}/{INSTANCE}/{TABLE}"
TOP = 5


class Walk:
    """All cells of a graph's table, and plain look-ups in them, whose results the graph must equal."""

    def __init__(self) -> None:
        self.cells: dict[int, dict[str, list[tuple[int, bytes]]]] = {}
        table = open_table(INSTANCE, INSTANCE, TABLE)
        for row in table.read_rows(ReadRowsQuery()):
            if row.row_key.isdigit():
                own = self.cells.setdefault(int(row.row_key), {})
                for cell in row.cells:
                    name, ms = cell.qualifier.decode(), cell.timestamp_micros // 1000
                    own.setdefault(name, []).append((ms, cell.value))
        table.client.close()

    def made(self, node: int) -> int:
        [(ms, _)] = self.cells[node]["children"]
        return ms

    def retired(self, root: int) -> int | None:
        cells = self.cells[root].get("new_parents")
        return cells[0][0] if cells else None

    def children(self, node: int) -> list[int]:
        [(_, value)] = self.cells[node]["children"]
        return [int(i) for i in decode_ids(value, 1 << 20, "children")]

    def below(self, node: int) -> list[int]:
        if node >> 56 == 2:
            return [node]
        return sorted(i for child in self.children(node) for i in self.below(child))

    def of_layer(self, layer: int) -> list[int]:
        return [i for i, own in self.cells.items() if i >> 56 == layer and "children" in own]

    def root(self, node: int, ms: int) -> int:
        while cells := [cell for cell in self.cells[node].get("parents", []) if cell[0] <= ms]:
            node = int(from_bytes(max(cells)[1])[0])
        return node

    def valid(self, ms: int) -> dict[int, int]:
        """Return each L2 node made by time ``ms`` with its root, unless that root was retired by then."""
        roots = {node: self.root(node, ms) for node in self.of_layer(2) if self.made(node) <= ms}
        retired = {root: self.retired(root) for root in roots.values()}
        return {node: root for node, root in roots.items() if not (retired[root] or ms + 1) <= ms}


@pytest.fixture(scope="module")
def geometry() -> Geometry:
    return Sample((5, 3, 2), (32, 32, 16), graph=URL).geometry


@pytest.fixture(scope="module")
def folder(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a sample, apply all edits in different milliseconds, and return its folder."""
    folder = tmp_path_factory.mktemp("history") / "s"
    made = run("sample", folder, "--grid", "5,3,2", "--chunk-size", "32,32,16", "--graph", URL)
    assert made.exit_code == 0, made.output
    with closing(SampleEditor(load_dataset("sample", folder / "datasets.yml"))) as editor:
        for kind in EDITS:
            editor.edit(kind)
            sleep(0.005)
    return folder


@pytest.fixture(scope="module")
def walk(folder: Path) -> Walk:
    return Walk()


@pytest.fixture(scope="module")
def history(walk: Walk) -> KnownHistory:
    return KnownHistory(
        {
            root: KnownRoot(walk.made(root), walk.retired(root), tuple(walk.below(root)))
            for root in walk.of_layer(TOP)
        }
    )


class TestTable(GraphHistorySuite):
    every = 3

    @pytest.fixture
    def graph(self, folder: Path) -> Iterator[Graph]:
        with closing(BigtableGraph(URL)) as graph:
            yield graph

    def test_nodes_of_a_plain_walk(
        self, graph: Graph, geometry: Geometry, walk: Walk, history: KnownHistory
    ) -> None:
        assert len(history.edits_ms) == 1 + len(EDITS)
        for ms in around(history.edits_ms[::4]):
            found = roots_by_node(graph.valid_nodes(geometry, whole_box(geometry.grid), at(ms)))
            assert found == walk.valid(ms)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[PcgServer]:
    server = PcgServer({TABLE: served_at(TABLE, str(folder / "segmentation"))})
    threading.Thread(target=server.serve, daemon=True).start()
    yield server
    server.stop()


class TestServer(GraphHistorySuite):
    every = 9

    @pytest.fixture
    def graph(self, server: PcgServer) -> Iterator[Graph]:
        with closing(GrapheneGraph(server.url(TABLE))) as graph:
            yield graph
