"""Tests of the recorded graph's roots, from its server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import numpy as np
import pytest

from l2features.core.chunks import whole_box
from l2features.core.errors import GraphError, GraphUnavailable
from l2features.core.ids import as_ids
from l2features.graph import root_requests
from l2features.graph.graphene import GrapheneGraph
from tests.support.graph_roots import (
    GEOMETRY,
    MOST,
    UNKNOWN_ROOT,
    check_roots,
    check_roots_at_times,
    roots_of_recording,
)
from tests.support.jobs import Recordings
from tests.support.root_server import Answer, RootServer, serve_roots

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def shared_server(recordings: Recordings) -> Iterator[RootServer]:
    with serve_roots(recordings) as server:
        yield server


@pytest.fixture
def server(shared_server: RootServer) -> RootServer:
    shared_server.asked.clear()
    shared_server.fail = lambda route: None
    return shared_server


@pytest.fixture
def graph(server: RootServer) -> Iterator[GrapheneGraph]:
    with closing(GrapheneGraph(server.url)) as graph:
        yield graph


@pytest.fixture
def roots(recordings: Recordings) -> list[int]:
    return sorted(roots_of_recording(recordings))


@pytest.mark.parametrize("at_once", [7, 100])
def test_every_root_has_the_recorded_nodes_edges_and_history(
    graph: GrapheneGraph, recordings: Recordings, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(root_requests, "ROOTS", at_once)
    check_roots(graph, recordings)


def test_l2_nodes_have_the_recorded_roots_at_three_times(
    graph: GrapheneGraph, recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root_requests, "IDS", 50)
    check_roots_at_times(graph, recordings)


def test_unknown_roots_are_in_no_answer(graph: GrapheneGraph) -> None:
    asked, nothing = as_ids([UNKNOWN_ROOT, 2 << 56, 0, 2**64 - 1]), as_ids([])
    assert graph.is_root(GEOMETRY, asked).tolist() == [True, False, False, False]
    for ids in (asked, nothing):
        found = graph.root_nodes(GEOMETRY, ids, MOST)
        assert (found.l2_ids, found.too_large, found.errors) == ({}, {}, {})
        assert graph.histories(GEOMETRY, ids) == {}
        assert graph.roots_of(GEOMETRY, ids, NOW).tolist() == [0] * len(ids)
    assert graph.root_edges(GEOMETRY, {}) == {}


def test_a_root_of_one_node_has_no_edges_and_needs_no_request(
    graph: GrapheneGraph, server: RootServer
) -> None:
    [pairs] = graph.root_edges(GEOMETRY, {7: as_ids([(2 << 56) + 1])}).values()
    assert (pairs.shape, pairs.dtype, server.asked) == ((0, 2), np.uint64, [])


@pytest.mark.parametrize("most", [1, 5, 23])
def test_large_roots_are_counted(
    graph: GrapheneGraph, recordings: Recordings, roots: list[int], most: int
) -> None:
    recorded = {root: len(entry["l2_ids"]) for root, entry in roots_of_recording(recordings).items()}
    found = graph.root_nodes(GEOMETRY, as_ids(roots), most)
    small = {root for root, n in recorded.items() if n <= most}
    assert (set(found.l2_ids), set(found.too_large)) == (small, set(recorded) - small)
    assert all(most < n <= recorded[root] for root, n in found.too_large.items())


# ------------------------------------------------------------------ servers that fail
def test_a_request_of_many_roots_that_fails_is_made_one_by_one(
    graph: GrapheneGraph, server: RootServer, roots: list[int]
) -> None:
    server.fail = lambda route: (400, b"no") if route == "node/leaves_many" else None
    found = graph.root_nodes(GEOMETRY, as_ids(roots), MOST)
    assert sorted(found.l2_ids) == roots
    assert server.asked.count("node/leaves_many") == 1
    assert len(server.asked) == 1 + len(roots)


def test_transient_errors_are_retried(
    graph: GrapheneGraph, server: RootServer, recordings: Recordings
) -> None:
    failed: set[str] = set()

    def fail_once(route: str) -> Answer | None:
        if route in failed:
            return None
        failed.add(route)
        return 503, b"busy"

    server.fail = fail_once
    check_roots(graph, recordings)
    assert len(failed) > 50


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (500, b"{}", GraphUnavailable),
        (401, b"{}", GraphUnavailable),
        (404, b"{}", GraphError),
        (200, b"<html>please log in</html>", GraphError),
        (200, b"[1]", GraphError),
        (200, b"{}", GraphError),
        (200, b'{"leaf_ids": 5, "edge_graph": [1], "is_latest": 3}', GraphError),
        (200, b'{"leaf_ids": [1.5], "edge_graph": [[1, 2, 3]], "is_latest": [true, false]}', GraphError),
        (200, b'{"leaf_ids": [1.5], "edge_graph": [[1, -2]], "is_latest": []}', GraphError),
    ],
)
def test_wrong_answers_are_errors(
    graph: GrapheneGraph, server: RootServer, roots: list[int], status: int, body: bytes, kind: type
) -> None:
    server.fail = lambda route: (400, b"") if route == "node/leaves_many" else (status, body)
    l2_ids = as_ids([(2 << 56) + 1, (2 << 56) + 2])
    for use in (
        lambda: graph.root_nodes(GEOMETRY, as_ids(roots[:1]), MOST),
        lambda: graph.root_edges(GEOMETRY, {roots[0]: l2_ids}),
        lambda: graph.roots_of(GEOMETRY, l2_ids, NOW),
        lambda: graph.histories(GEOMETRY, as_ids(roots[:1])),
        lambda: graph.changed_roots(GEOMETRY, NOW, NOW),
    ):
        with pytest.raises(
            kind, match=rf"http://127\.0\.0\.1:{server.server_port}/segmentation/api/v1/table"
        ):
            use()


def test_nodes_of_another_layer_are_an_error_of_their_root(
    graph: GrapheneGraph, server: RootServer, roots: list[int]
) -> None:
    body = b'{"%d": [%d], "%d": [%d]}' % (roots[0], 1 << 56, roots[1], 2 << 56)
    server.fail = lambda route: (200, body)
    found = graph.root_nodes(GEOMETRY, as_ids(roots[:2]), MOST)
    said = f"root {roots[0]}: the server lists nodes of other layers: expected layer 2"
    assert found.errors == {roots[0]: said}
    assert list(found.l2_ids) == [roots[1]]


def test_a_long_answer_is_not_read_to_its_end(
    graph: GrapheneGraph, server: RootServer, roots: list[int]
) -> None:
    long = b'{"leaf_ids": [%s]}' % b",".join([b"%d" % (2 << 56)] * 100_000)
    server.fail = lambda route: (200, long)
    assert graph.root_nodes(GEOMETRY, as_ids(roots[:1]), 1_000).too_large == {roots[0]: 1_001}


@pytest.mark.parametrize("listening", [False, True], ids=["refused", "silent"])
def test_a_server_that_is_down_or_silent(graph: GrapheneGraph, roots: list[int], listening: bool) -> None:
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        if listening:
            gone.listen()
        graph.server, graph.deadline_s = f"http://127.0.0.1:{gone.getsockname()[1]}/table/t", 0.5
        check_unavailable(graph, roots)


def test_a_server_that_is_slow(graph: GrapheneGraph, server: RootServer, roots: list[int]) -> None:
    done = threading.Event()

    def wait(route: str) -> Any:
        done.wait(10)

    server.fail, graph.deadline_s = wait, 0.5
    check_unavailable(graph, roots)
    done.set()


def check_unavailable(graph: GrapheneGraph, roots: list[int]) -> None:
    l2_ids = as_ids([(2 << 56) + 1, (2 << 56) + 2])
    for use in (
        lambda: graph.root_nodes(GEOMETRY, as_ids(roots), MOST),
        lambda: graph.root_edges(GEOMETRY, dict.fromkeys(roots, l2_ids)),
        lambda: graph.roots_of(GEOMETRY, l2_ids, NOW),
        lambda: graph.histories(GEOMETRY, as_ids(roots)),
        lambda: graph.valid_nodes(GEOMETRY, whole_box(GEOMETRY.grid), NOW),
        lambda: graph.changed_roots(GEOMETRY, NOW, NOW),
    ):
        start = monotonic()
        with pytest.raises(GraphUnavailable):
            use()
        assert monotonic() - start < 3
