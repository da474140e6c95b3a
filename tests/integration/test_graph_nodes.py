"""Tests of chunks' L2 nodes in the recorded graphs, from their tables and servers."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from google.cloud import bigtable
from google.cloud.bigtable.data.mutations import SetCell

from l2features.core.errors import GraphError
from l2features.core.geometry import Chunk, Geometry
from l2features.core.ids import Ids, as_ids
from l2features.graph.base import Graph
from l2features.ingest.source import open_dataset_graph
from l2features.testing.stores import INSTANCE, PROJECT, raw_table
from tests.support.graph_nodes import V2, V2_GRAPHENE, chunks_of, valid_nodes
from tests.support.jobs import Recordings
from tests.support.nodes import SOURCES, entry, open_nodes


def all_ids(geometry: Geometry, ids: Callable[[Chunk], Ids]) -> list[int]:
    """Return the sorted ids of all chunks, and check that each chunk's own ids are sorted."""
    found = []
    for chunk in chunks_of(geometry):
        of_chunk = ids(chunk).tolist()
        assert of_chunk == sorted(set(of_chunk))
        found += of_chunk
    return sorted(found)


@pytest.fixture(scope="module")
def opened(recordings: Recordings) -> Callable[..., tuple[Graph, Geometry]]:
    def open_(table: str, graph: str, volume: str) -> tuple[Graph, Geometry]:
        dataset = entry(recordings, table, graph, volume)
        geometry = open_nodes(dataset).geometry
        return open_dataset_graph(dataset), geometry

    return open_


@pytest.mark.parametrize("source", [V2, V2_GRAPHENE, *SOURCES[3:5]])
def test_all_nodes_that_were_ever_made(
    recordings: Recordings, opened: Callable[..., tuple[Graph, Geometry]], source: tuple[str, str, str]
) -> None:
    nodes, geometry = opened(*source)
    name = "l2_children_v1.json" if source[0] == "fixture_v1" else "l2_children.json"
    assert all_ids(geometry, lambda chunk: nodes.nodes(geometry, chunk)) == sorted(
        int(i) for i in recordings.json(name)["l2"]
    )
    nodes.close()


def test_nodes_that_are_valid_at_any_time(
    recordings: Recordings, opened: Callable[..., tuple[Graph, Geometry]]
) -> None:
    """Check the nodes at each edit of the graph, one millisecond before it, and after the last."""
    nodes, geometry = opened(*V2)
    children = recordings.json("l2_children.json")
    changes = {node["valid_from_ms"] for node in children["l2"].values()}
    counts = set()
    for ms in sorted({change - back for change in changes for back in (0, 1)} | {children["t1_ms"]}):
        time = datetime.fromtimestamp(ms / 1000 + 1e-4, UTC)
        expected = valid_nodes(children, ms)
        assert all_ids(geometry, lambda chunk, time=time: nodes.nodes(geometry, chunk, time)) == expected  # type: ignore[misc]
        counts.add(len(expected))
    assert {0, 159, 166} <= counts


@pytest.mark.parametrize(("when", "count"), [("t0_ms", 159), ("t1_ms", 166)])
def test_a_server_maps_supervoxels_to_find_valid_nodes(
    recordings: Recordings, opened: Callable[..., tuple[Graph, Geometry]], when: str, count: int
) -> None:
    nodes, geometry = opened(*V2_GRAPHENE)
    children = recordings.json("l2_children.json")
    time = datetime.fromtimestamp(children[when] / 1000, UTC)
    found = all_ids(geometry, lambda chunk: nodes.nodes(geometry, chunk, time))
    assert found == valid_nodes(children, children[when])
    assert len(found) == count
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    assert all_ids(geometry, lambda chunk: nodes.nodes(geometry, chunk, long_ago)) == []


def test_a_server_is_asked_as_the_genuine_one_was(
    recordings: Recordings,
    opened: Callable[..., tuple[Graph, Geometry]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes, geometry = opened(*V2_GRAPHENE)
    with open(recordings.folder / "graphene.jsonl") as lines:
        [recorded] = [e for e in map(json.loads, lines) if "l2_chunk_children" in e["request"]["path"]]
    answers = [(200, gzip.decompress(base64.b64decode(recorded["response"]["body_base64"])))]
    asked = []

    def send(self: Any, request: Any, **_: Any) -> requests.Response:
        asked.append(request)
        answer = requests.Response()
        answer.status_code, answer._content = answers[-1]
        return answer

    monkeypatch.setattr(requests.Session, "send", send)
    made = nodes.nodes(geometry, Chunk(0, 0, 0)).tolist()
    children = recordings.json("l2_children.json")["l2"]
    assert made == sorted(int(i) for i, node in children.items() if node["chunk"] == [0, 0, 0])
    assert asked[0].path_url == recorded["request"]["path"]
    assert asked[0].headers["Authorization"] == "Bearer " + "0123456789abcdef" * 2
    for status, body, said in (
        (500, b"", "did not list its nodes: 500"),
        (200, b"<html>please log in</html>", "did not list its nodes: "),
        (200, as_ids([3 << 56, 1 << 56]).tobytes(), f"lists id {3 << 56}: expected an L2 node"),
    ):
        answers.append((status, body))
        with pytest.raises(GraphError, match=said):
            nodes.nodes(geometry, Chunk(0, 0, 0))


def test_a_missing_graph(recordings: Recordings) -> None:
    dataset = entry(recordings, "fixture_v2", f"bigtable://{PROJECT}/{INSTANCE}/no_such_graph")
    geometry = open_nodes(entry(recordings, *V2)).geometry
    with pytest.raises(GraphError, match="the table does not exist"):
        open_dataset_graph(dataset).nodes(geometry, Chunk(0, 0, 0))


def test_a_row_in_the_graph_whose_key_is_no_id(recordings: Recordings) -> None:
    dump = recordings.dump("graph_v2.json.gz")
    client = bigtable.Client(project=PROJECT, admin=True)
    recordings.loader.load(client.instance(INSTANCE), dump, "fixture_strange_key")
    geometry = open_nodes(entry(recordings, *V2)).geometry
    key = b"%020d_x" % (geometry.chunk_id(Chunk(0, 0, 0)) + 2)
    raw_table("fixture_strange_key").mutate_row(key, SetCell("0", b"children", b"", timestamp_micros=1000))
    graph = f"bigtable://{PROJECT}/{INSTANCE}/fixture_strange_key"
    nodes = open_dataset_graph(entry(recordings, "fixture_v2", graph))
    with pytest.raises(GraphError, match="is not an id of 20 digits"):
        nodes.nodes(geometry, Chunk(0, 0, 0))
    assert len(nodes.nodes(geometry, Chunk(1, 0, 0)))
