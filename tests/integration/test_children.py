"""Tests of nodes' supervoxels, from Bigtable cells and from a misbehaving server; see also test_nodes.py."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
import zstandard

from l2features.config.datasets import Dataset
from l2features.core.errors import GraphError
from l2features.core.geometry import Chunk, Geometry
from l2features.core.ids import IdLayout, as_ids
from l2features.graph import graphene
from l2features.graph.graphene import FEW, GrapheneGraph
from l2features.graph.id_cells import decode_ids
from l2features.ingest.compute import read_geometry
from tests.support.jobs import Recordings

Answers = dict[int, Callable[[], tuple[int, bytes]]]
Server = tuple[GrapheneGraph, Answers, list[tuple[str, str]]]
LIST, LIST_ROUTE = 0, "l2_chunk_children_binary"
"""Key in `Answers` for `LIST_ROUTE`, the children of a chunk's nodes; no node has this id."""
GEOMETRY = Geometry((16, 16, 40), (1024, 512, 20), (160, 128, 48), (64, 64, 32), IdLayout({1: 10, 2: 10}))


def test_cells_of_children() -> None:
    ids = as_ids([2**56 + 1, 2**56 + 2])
    raw = ids.astype("<u8").tobytes()
    streamed = zstandard.ZstdCompressor(write_content_size=False).compress(raw)
    for cell in (raw, zstandard.compress(raw, 22), streamed):
        assert decode_ids(cell, 100, "children").tolist() == ids.tolist()
    with pytest.raises(ValueError, match="cannot be decompressed"):
        decode_ids(zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2**24)), 100, "children")


# ------------------------------------------------------------------ a server that misbehaves
@pytest.fixture
def server(recordings: Recordings) -> Iterator[Server]:
    """Start a graph server with configured answers, which records paths and tokens."""
    answers: Answers = {}
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            *_, word, _ = self.path.split("/")
            status, body = answers[LIST if word == LIST_ROUTE else int(word)]()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    children = GrapheneGraph(recordings.cv_path("fixture_v2"))
    children.server = children.server.replace(str(recordings.graphene_port), str(http.server_port))
    yield children, answers, asked
    children.close()
    http.shutdown()
    http.server_close()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (404, b'{"leaf_ids": [1]}'),
        (200, b"<html>please log in</html>"),
        (200, b"[1]"),
        (200, b'{"leaf_ids": 5}'),
        (200, b'{"leaf_ids": [1.5]}'),
        (200, b'{"leaf_ids": [18446744073709551616]}'),
    ],
)
def test_a_server_that_does_not_answer_may_later(server: Server, status: int, body: bytes) -> None:
    children, answers, _ = server
    answers[2**57 + 1] = lambda: (200, b'{"leaf_ids": []}')
    answers[2**57 + 2] = lambda: (status, body)
    with pytest.raises(GraphError, match=rf"did not list the supervoxels of {2**57 + 2}: "):
        children.children(GEOMETRY, Chunk(0, 0, 0), as_ids([2**57 + 1, 2**57 + 2]))


def test_a_server_that_hangs_or_is_gone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    children, answers, _ = server
    monkeypatch.setattr(graphene, "TIMEOUT_S", (0.2, 0.2))
    done = threading.Event()
    answers[2**57 + 1] = lambda: (done.wait(5) and 200, b"")  # type: ignore[return-value]
    with pytest.raises(GraphError, match=r"Read timed out"):
        children.children(GEOMETRY, Chunk(0, 0, 0), as_ids([2**57 + 1]))
    done.set()
    children.server = "http://127.0.0.1:9/segmentation/api/v1/table/t"
    with pytest.raises(GraphError, match=r"Connection refused"):
        children.children(GEOMETRY, Chunk(0, 0, 0), as_ids([2**57 + 1]))


def test_what_a_server_says_is_checked(server: Server) -> None:
    children, answers, _ = server
    node, other = 2**57 + 1, 2**57 + 2
    answers[node] = lambda: (200, json.dumps({"leaf_ids": [2**56 + 1, 2**56 + 2]}).encode())
    answers[other] = lambda: (200, json.dumps({"leaf_ids": [2**56 + 1, other]}).encode())
    said = children.children(GEOMETRY, Chunk(0, 0, 0), as_ids([node, other]))
    assert {k: v.tolist() for k, v in said.supervoxels.items()} == {node: [2**56 + 1, 2**56 + 2]}
    assert said.errors == {other: f"node {other}: child {other} is not a supervoxel"}


def test_what_a_server_is_asked(server: Server, recordings: Recordings) -> None:
    """Check that requests equal cloud-volume's recorded ones."""
    children, answers, asked = server
    with open(recordings.folder / "graphene.jsonl") as lines:
        requests = [json.loads(line)["request"] for line in lines]
    paths = [r["path"] for r in requests if "/leaves?" in r["path"] and "stop_layer" not in r["path"]]
    nodes = as_ids([int(path.split("/")[-2]) for path in paths])
    answers |= {node: lambda: (200, b'{"leaf_ids": []}') for node in nodes.tolist()}
    assert children.children(GEOMETRY, Chunk(0, 0, 0), nodes).supervoxels == {}
    token = "Bearer " + "0123456789abcdef" * 2
    assert sorted(asked) == sorted((path, token) for path in paths)
    assert len(paths) >= 4


# ------------------------------------------------------------------ many nodes of a chunk
def asked_of(
    recordings: Recordings, table: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[GrapheneGraph, Geometry, list[str]]:
    """Return a graph, its geometry, and a list that records requested paths."""
    asked: list[str] = []
    cv_path = recordings.cv_path(table)
    dataset = Dataset(
        name="t", cv_path=cv_path, l2cache_id="unused", graph="graphene", store="sqlite:///no/db"
    )
    children, geometry = GrapheneGraph(cv_path), read_geometry(dataset)
    send = requests.Session.send

    def counted(self: requests.Session, request: requests.PreparedRequest, **kwargs: Any) -> Any:
        asked.append(request.path_url)
        return send(self, request, **kwargs)

    monkeypatch.setattr(requests.Session, "send", counted)
    return children, geometry, asked


@pytest.mark.parametrize("table", ["fixture_v2", "fixture_v1"])
def test_many_nodes_of_a_chunk_take_one_request(
    recordings: Recordings, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that it returns the same as one request per node, also for superseded and unknown nodes."""
    children, geometry, asked = asked_of(recordings, table, monkeypatch)
    layout = geometry.layout
    nodes = recordings.json("l2_children.json")["l2"]
    suffix = "_v1" if table == "fixture_v1" else ""
    named = as_ids([int(node) for node in recordings.json(f"features{suffix}.json")["features"]])
    superseded = 0
    for xyz in np.ndindex(*geometry.grid):
        chunk = Chunk(*xyz)
        first = geometry.chunk_id(chunk)
        known = named[layout.chunk_ids(named) == np.uint64(first)]
        unknown = np.uint64(first) + np.arange(50_000, 51_000, dtype=np.uint64)
        del asked[:]
        listed = children.children(geometry, chunk, np.concatenate([unknown[::-1], known]))
        assert asked == [f"{urlsplit(children.server).path}/l2_chunk_children_binary/{first}?as_array=True"]
        del asked[:]
        alone = children.children(geometry, chunk, np.concatenate([unknown[:9], known]))
        assert len(asked) == 9 + len(known) <= FEW
        assert list(listed.supervoxels) == list(alone.supervoxels) == known.tolist()
        for node, supervoxels in alone.supervoxels.items():
            assert listed.supervoxels[node].dtype == supervoxels.dtype
            assert listed.supervoxels[node].tolist() == supervoxels.tolist()
        assert listed.errors == alone.errors == {}
        superseded += sum(bool(nodes[str(node)]["superseded_ms"]) for node in known.tolist() if not suffix)
    assert superseded == (0 if suffix else 30)
    children.close()


def test_a_list_is_checked_as_single_answers_are(server: Server) -> None:
    children, answers, _ = server
    chunk, ids = Chunk(0, 0, 0), as_ids(range(2**57, 2**57 + FEW + 1))
    node, other, ours = 2**57 + 1, 2**57 + 2, [2**56 + 2, 2**56 + 1]
    pairs = [node, ours[0], other, other, node, ours[1], 2**57 + 9_999, 7]
    for status, body in ((500, pairs), (200, pairs[:-1]), (200, "<html>please log in</html>")):
        content = body.encode() if isinstance(body, str) else as_ids(body).tobytes()
        answers[LIST] = lambda status=status, content=content: (status, content)  # type: ignore[misc]
        with pytest.raises(GraphError, match=r"chunk 0,0,0: http\S+ did not list its nodes: "):
            children.children(GEOMETRY, chunk, ids)
    answers[LIST] = lambda: (200, as_ids(pairs).tobytes())
    said = children.children(GEOMETRY, chunk, ids)
    assert {k: v.tolist() for k, v in said.supervoxels.items()} == {node: ours}
    assert said.errors == {other: f"node {other}: child {other} is not a supervoxel"}
    answers[LIST] = lambda: (200, b"")
    assert children.children(GEOMETRY, chunk, ids).supervoxels == {}
