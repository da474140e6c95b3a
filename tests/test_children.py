"""Supervoxels of nodes: what is made of cells, and of a server that misbehaves; see also test_nodes.py."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import zstandard

from l2features.errors import GraphError
from l2features.geometry import Chunk, Geometry
from l2features.graph import children as children_module
from l2features.graph.children import GrapheneChildren, decode_children
from l2features.ids import IdLayout, as_ids
from l2features.volume import Volume

from .conftest import Recordings

Answers = dict[int, Callable[[], tuple[int, bytes]]]
Server = tuple[GrapheneChildren, Answers, list[tuple[str, str]]]
GEOMETRY = Geometry((16, 16, 40), (1024, 512, 20), (160, 128, 48), (64, 64, 32), IdLayout({1: 10, 2: 10}))


def test_cells_of_children() -> None:
    ids = as_ids([2**56 + 1, 2**56 + 2])
    raw = ids.astype("<u8").tobytes()
    streamed = zstandard.ZstdCompressor(write_content_size=False).compress(raw)
    for cell in (raw, zstandard.compress(raw, 22), streamed):
        assert decode_children(cell, 100).tolist() == ids.tolist()
    with pytest.raises(ValueError, match="cannot be decompressed"):
        decode_children(zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2**24)), 100)


# ------------------------------------------------------------------ a server that misbehaves
@pytest.fixture
def server(recordings: Recordings) -> Iterator[Server]:
    """A graph's server that answers for each node what it is told to; and what it was asked, by whom."""
    answers: Answers = {}
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            status, body = answers[int(self.path.split("/")[-2])]()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    children = GrapheneChildren(Volume(recordings.cv_path("fixture_v2")).cv, GEOMETRY)
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
    with pytest.raises(GraphError, match=rf"did not say the supervoxels of {2**57 + 2}: "):
        children.children(Chunk(0, 0, 0), as_ids([2**57 + 1, 2**57 + 2]))


def test_a_server_that_hangs_or_is_gone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    children, answers, _ = server
    monkeypatch.setattr(children_module, "TIMEOUT_S", (0.2, 0.2))
    done = threading.Event()
    answers[2**57 + 1] = lambda: (done.wait(5) and 200, b"")  # type: ignore[return-value]
    with pytest.raises(GraphError, match=r"Read timed out"):
        children.children(Chunk(0, 0, 0), as_ids([2**57 + 1]))
    done.set()
    children.server = "http://127.0.0.1:9/segmentation/api/v1/table/t"
    with pytest.raises(GraphError, match=r"Connection refused"):
        children.children(Chunk(0, 0, 0), as_ids([2**57 + 1]))


def test_what_a_server_says_is_checked(server: Server) -> None:
    children, answers, _ = server
    node, other = 2**57 + 1, 2**57 + 2
    answers[node] = lambda: (200, json.dumps({"leaf_ids": [2**56 + 1, 2**56 + 2]}).encode())
    answers[other] = lambda: (200, json.dumps({"leaf_ids": [2**56 + 1, other]}).encode())
    said = children.children(Chunk(0, 0, 0), as_ids([node, other]))
    assert {k: v.tolist() for k, v in said.supervoxels.items()} == {node: [2**56 + 1, 2**56 + 2]}
    assert said.errors == {other: f"node {other}: its child {other} is not a supervoxel"}


def test_what_a_server_is_asked(server: Server, recordings: Recordings) -> None:
    """As cloud-volume asked the genuine one."""
    children, answers, asked = server
    with open(recordings.folder / "graphene.jsonl") as lines:
        requests = [json.loads(line)["request"] for line in lines]
    paths = [r["path"] for r in requests if "/leaves?" in r["path"] and "stop_layer" not in r["path"]]
    nodes = as_ids([int(path.split("/")[-2]) for path in paths])
    answers |= {node: lambda: (200, b'{"leaf_ids": []}') for node in nodes.tolist()}
    assert children.children(Chunk(0, 0, 0), nodes).supervoxels == {}
    token = "Bearer " + "0123456789abcdef" * 2
    assert sorted(asked) == sorted((path, token) for path in paths)
    assert len(paths) >= 4
