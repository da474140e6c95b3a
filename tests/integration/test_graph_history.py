"""Tests of the recorded graph's valid nodes and changed roots, from its table and its server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from l2features.core.chunks import ChunkBox, whole_box
from l2features.core.geometry import Geometry
from l2features.core.ids import Ids, as_ids
from l2features.graph.base import Graph
from l2features.graph.bigtable import BigtableGraph
from l2features.graph.graphene import GrapheneGraph
from l2features.testing.graph_history import GraphHistorySuite, KnownHistory, boxes_of, roots_by_node
from l2features.testing.stores import INSTANCE, PROJECT
from tests.support.graph_roots import GEOMETRIES, GEOMETRY, at, known_history
from tests.support.jobs import Recordings

TABLES = f"bigtable://{PROJECT}/{INSTANCE}"


class RecordedGraph(GraphHistorySuite):
    @pytest.fixture
    def geometry(self) -> Geometry:
        return GEOMETRY

    @pytest.fixture
    def history(self, recordings: Recordings) -> KnownHistory:
        return known_history(recordings)


class TestTable(RecordedGraph):
    @pytest.fixture
    def graph(self, recordings: Recordings) -> Iterator[Graph]:
        with closing(BigtableGraph(f"{TABLES}/fixture_v2")) as graph:
            yield graph


class TestServer(RecordedGraph):
    every = 3

    @pytest.fixture
    def graph(self, recordings: Recordings) -> Iterator[Graph]:
        with closing(GrapheneGraph(recordings.cv_path("fixture_v2"))) as graph:
            yield graph


@pytest.mark.parametrize("name", ["fixture_v2", "fixture_v1"])
@pytest.mark.parametrize("source", ["table", "server"])
def test_nodes_of_the_recording(recordings: Recordings, name: str, source: str) -> None:
    """Compare valid nodes and their roots with the recording, or for fixture_v1 with kvdbclient."""
    geometry = GEOMETRIES[name]
    expected = recorded_roots(recordings) if name == "fixture_v2" else roots_v1(recordings)
    opened = (
        BigtableGraph(f"{TABLES}/{name}") if source == "table" else GrapheneGraph(recordings.cv_path(name))
    )
    with closing(opened) as graph:
        for time, roots in expected.items():
            found: dict[int, int] = {}
            for box in boxes_of(geometry, np.random.default_rng(0), 1):
                found |= roots_by_node(graph.valid_nodes(geometry, box, time))
            assert found == roots
            assert roots_by_node(graph.valid_nodes(geometry, whole_box(geometry.grid), time)) == roots


@pytest.mark.parametrize("few", [1, 7, 40, 150, 1_000])
def test_what_one_request_leaves_is_read_too(
    recordings: Recordings, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr("l2features.graph.table_reads.FEW_ROWS", few)
    monkeypatch.setattr("l2features.graph.chunk_ranges.LONGEST", 2)
    geometry = GEOMETRIES["fixture_v2"]
    with closing(BigtableGraph(f"{TABLES}/fixture_v2")) as graph:
        for time, roots in recorded_roots(recordings).items():
            assert roots_by_node(graph.valid_nodes(geometry, whole_box(geometry.grid), time)) == roots


def opened(url: str) -> Graph:
    return BigtableGraph(url) if url.startswith("bigtable") else GrapheneGraph(url)


def recorded_roots(recordings: Recordings) -> dict[datetime, dict[int, int]]:
    recording = recordings.json("roots.json")
    found = {at(recording[f"{when}_ms"]): roots for when, roots in recording["l2_to_root"].items()}
    assert [len(roots) for roots in found.values()] == [159, 157, 166]
    return {time: {int(node): root for node, root in roots.items()} for time, roots in found.items()}


def roots_v1(recordings: Recordings) -> dict[datetime, dict[int, int]]:
    from kvdbclient import BigTableClient
    from kvdbclient.bigtable import BigTableConfig

    client = BigTableClient("fixture_v1", config=BigTableConfig(PROJECT=PROJECT, INSTANCE=INSTANCE))
    nodes = [int(node) for node in recordings.json("l2_children_v1.json")["l2"]]
    roots = client.root_ext.get_roots(as_ids(nodes))
    assert len(nodes) > 100
    return {datetime.now(UTC): dict(zip(nodes, roots.tolist(), strict=True)), at(0): {}}


def test_a_graph_that_was_never_edited_has_no_changes(recordings: Recordings) -> None:
    for url in (f"{TABLES}/fixture_v1", recordings.cv_path("fixture_v1")):
        with closing(opened(url)) as graph:
            found = graph.changed_roots(GEOMETRIES["fixture_v1"], at(0), datetime.now(UTC))
            assert [ids.tolist() for ids in found] == [[], []]


def test_roots_are_read_once_for_many_boxes(recordings: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that boxes at one past time share the roots read. Another time, or now, reads them anew."""
    read: list[Ids] = []
    roots_above = BigtableGraph._roots_above

    def counted(self: BigtableGraph, geometry: Geometry, ids: Ids, time: datetime) -> Any:
        read.append(ids)
        return roots_above(self, geometry, ids, time)

    monkeypatch.setattr(BigtableGraph, "_roots_above", counted)
    lower, upper = ChunkBox((0, 0, 0), (1, 2, 2)), ChunkBox((1, 0, 0), (3, 2, 2))
    with closing(BigtableGraph(f"{TABLES}/fixture_v2")) as graph:
        for box in (lower, upper, lower, upper):
            graph.valid_nodes(GEOMETRY, box, at(1_795_224_833_000))
        ids = np.concatenate(read)
        assert len(np.unique(ids)) == len(ids) > 50
        for time in (at(1_795_224_832_000), datetime.now(UTC), datetime.now(UTC)):
            before = len(read)
            graph.valid_nodes(GEOMETRY, lower, time)
            assert len(read) > before
