"""Tests of the HTTP routes for roots: status, summaries, nodes, graphs, missing nodes and errors."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from l2features.core.errors import GraphError, GraphUnavailable, StoreUnavailable
from l2features.core.ids import Ids, as_ids
from l2features.graph.base import RootHistory
from l2features.neurons.neuron_summary import GRAPH_SUMMARIES, SUMMARIES
from tests.support.known_roots import FIRST_ROOT, chain, features_in_chunks, random_roots
from tests.support.neuron_api import ARROW, PARQUET, NeuronApi, neuron_api

ROOTS = random_roots((30, 1, 90))
FIRST, SINGLE, LARGE = ROOTS
UNKNOWN = FIRST_ROOT + 999
TIME = datetime(2026, 11, 21, 1, 2, 3, 456_000, UTC)


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NeuronApi:
    return neuron_api(tmp_path, monkeypatch, ROOTS, max_root_nodes=50, max_roots=5)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NeuronApi]:
    """Yield a server shared by the tests that change nothing."""
    with pytest.MonkeyPatch.context() as patch:
        yield neuron_api(tmp_path_factory.mktemp("api"), patch, ROOTS, max_root_nodes=50, max_roots=5)


def without(api: NeuronApi, ids: Ids) -> None:
    """Delete these nodes' rows."""
    for node in ids.tolist():
        api.store.delete(node, node)


# ------------------------------------------------------------------ summaries
def test_each_root_says_its_status(api: NeuronApi) -> None:
    lost = ROOTS[FIRST][3:5]
    without(api, lost)
    answer = api.summaries([UNKNOWN, FIRST, str(SINGLE), LARGE, int(lost[0])])
    assert answer.status_code == 200
    found = answer.json
    assert list(found) == sorted(map(str, [UNKNOWN, FIRST, SINGLE, LARGE, int(lost[0])]), key=int)
    statuses = {int(root): one["status"] for root, one in found.items()}
    assert statuses == {
        UNKNOWN: "unknown",
        FIRST: "incomplete",
        SINGLE: "ready",
        LARGE: "too_large",
        int(lost[0]): "not_a_root",
    }
    assert found[str(FIRST)]["n_missing"] == 2
    assert found[str(LARGE)]["n_nodes"] == 51
    assert "expected 50 at most" in found[str(LARGE)]["reason"]
    assert api.published == lost.tolist()
    for root in (FIRST, SINGLE):
        assert set(SUMMARIES.names or ()) | {"status", "retired_at", "successors"} == set(found[str(root)])


def test_a_summary_sums_over_the_nodes(unchanged: NeuronApi) -> None:
    one = unchanged.get(f"root/{FIRST}").json
    nodes = unchanged.get(f"root/{FIRST}/nodes").json
    assert list(nodes) == list(map(str, ROOTS[FIRST].tolist()))
    assert one == unchanged.summaries([FIRST]).json
    for name in ("size_nm3", "area_nm2"):
        assert one[str(FIRST)][name] == sum(node.get(name, 0) for node in nodes.values())
    assert one[str(FIRST)]["n_empty"] == sum(not node for node in nodes.values()) > 0


def test_measures_of_the_graph(unchanged: NeuronApi) -> None:
    one = unchanged.get(f"root/{FIRST}?graph=true&int64_as_str=1").json[str(FIRST)]
    assert set(GRAPH_SUMMARIES.names or ()) < set(one)
    assert (one["n_edges"], one["n_components"]) == (29, 1)
    assert isinstance(one["size_nm3"], str)


def test_history_is_looked_up_at_each_request(api: NeuronApi, monkeypatch: pytest.MonkeyPatch) -> None:
    assert api.get(f"root/{FIRST}").json[str(FIRST)]["retired_at"] is None
    history = {FIRST: RootHistory(TIME, TIME, (LARGE, SINGLE), ())}
    monkeypatch.setattr(api.graph, "histories", lambda *_: history)
    one = api.get(f"root/{FIRST}").json[str(FIRST)]
    assert (one["retired_at"], one["successors"]) == ("2026-11-21T01:02:03.456Z", [LARGE, SINGLE])
    one = api.get(f"root/{FIRST}?int64_as_str=true").json[str(FIRST)]
    assert one["successors"] == [str(LARGE), str(SINGLE)]
    assert api.graph.calls.count("root_nodes") == 1


@pytest.mark.parametrize("form", [ARROW, PARQUET])
def test_summaries_as_a_table(unchanged: NeuronApi, form: str) -> None:
    asked = [LARGE, FIRST, UNKNOWN, FIRST]
    answer = unchanged.summaries(asked, Accept=form)
    assert answer.mimetype == form
    buffer = io.BytesIO(answer.data)
    table = pa.ipc.open_stream(buffer).read_all() if form == ARROW else pq.read_table(buffer)
    assert table.column("root_id").to_pylist() == asked
    assert table.column("status").to_pylist() == ["too_large", "ready", "unknown", "ready"]
    assert table.column("n_nodes").to_pylist() == [51, 30, None, 30]
    expected = unchanged.summaries([FIRST]).json[str(FIRST)]
    for name in SUMMARIES.names or ():
        values = table.column(name).to_pylist()
        assert values[1] == values[3] == expected[name], name
        assert name == "n_nodes" or values[0] is values[2] is None, name
    assert table.schema.field("size_nm3").metadata[b"unit"] == b"nm^3"
    assert table.column("successors").to_pylist() == [None, [], None, []]


@pytest.mark.parametrize("query", ["", "?graph=true"])
def test_no_root(unchanged: NeuronApi, query: str) -> None:
    assert unchanged.summaries([], query).json == {}
    assert len(pa.ipc.open_stream(unchanged.summaries([], query, Accept=ARROW).data).read_all()) == 0


def test_ids_as_a_buffer(unchanged: NeuronApi) -> None:
    body = as_ids([FIRST, SINGLE]).tobytes()
    answer = unchanged.post("roots/summary", data=body, content_type="application/octet-stream")
    assert list(answer.json) == [str(FIRST), str(SINGLE)]


# ------------------------------------------------------------------ missing nodes
@pytest.mark.parametrize("path", ["", "/nodes", "?graph=true"])
def test_a_request_waits_for_missing_nodes(api: NeuronApi, path: str) -> None:
    lost = ROOTS[FIRST][5:8]
    without(api, lost)

    def compute() -> None:
        until = time.monotonic() + 10
        while not api.published and time.monotonic() < until:
            time.sleep(0.01)
        api.store.write(features_in_chunks(lost))

    thread = threading.Thread(target=compute)
    thread.start()
    answer = api.get(f"root/{FIRST}{path}{'&' if '?' in path else '?'}wait=20").json
    thread.join()
    if path == "/nodes":
        assert all(answer[str(node)] for node in lost.tolist())
    else:
        assert (answer[str(FIRST)]["status"], answer[str(FIRST)]["n_missing"]) == ("ready", 0)
    assert api.published == lost.tolist()


def test_missing_nodes_are_not_published_on_request(api: NeuronApi) -> None:
    without(api, ROOTS[FIRST][5:8])
    for path in (f"root/{FIRST}", f"root/{FIRST}/nodes"):
        assert api.get(f"{path}?update_cache=false").status_code == 200
    assert api.published == []
    assert api.get(f"root/{FIRST}?wait=31").json["field"] == "wait"


# ------------------------------------------------------------------ nodes and graph
@pytest.mark.parametrize("query", ["", "?attribute_names=size_nm3,pca&int64_as_str=true", "?with_status=1"])
@pytest.mark.parametrize("form", ["application/json", ARROW])
def test_nodes_are_those_of_the_attributes_route(api: NeuronApi, query: str, form: str) -> None:
    without(api, ROOTS[FIRST][:2])
    ours = api.get(f"root/{FIRST}/nodes{query}", Accept=form)
    body = {"l2_ids": ROOTS[FIRST].tolist()}
    theirs = api.post(f"attributes{query}", json=body, headers={"Accept": form})
    assert ours.status_code == theirs.status_code == 200
    assert ours.data == theirs.data


def test_a_graph(unchanged: NeuronApi) -> None:
    graph = unchanged.get(f"root/{FIRST}/graph").json
    edges = chain(ROOTS[FIRST]).tolist()
    assert graph == {"root_id": FIRST, "node_ids": ROOTS[FIRST].tolist(), "edges": edges}
    as_str = unchanged.get(f"root/{FIRST}/graph?int64_as_str=true").json
    assert as_str["edges"] == [[str(a), str(b)] for a, b in edges]
    assert as_str["root_id"] == str(FIRST)
    table = pa.ipc.open_stream(unchanged.get(f"root/{FIRST}/graph", Accept=ARROW).data).read_all()
    assert table.to_pylist() == [graph]
    assert unchanged.get(f"root/{SINGLE}/graph").json["edges"] == []


# ------------------------------------------------------------------ skeleton
def test_a_skeleton_in_each_format(unchanged: NeuronApi) -> None:
    path = f"root/{FIRST}/skeleton"
    content = unchanged.get(path).json
    assert content == unchanged.get(f"{path}?format=json").json
    assert (content["root_id"], content["node_ids"]) == (FIRST, ROOTS[FIRST].tolist())
    summary = unchanged.get(f"root/{FIRST}?graph=true").json[str(FIRST)]
    assert content["meta"]["path_length_nm"] == pytest.approx(summary["cable_length_nm"])
    assert content["meta"]["dataset"] == "sample"
    assert unchanged.get(f"{path}?int64_as_str=true").json["l2_ids"] == list(map(str, content["l2_ids"]))
    lines = unchanged.get(f"{path}?format=swc").text.splitlines()
    assert sum(not line.startswith("#") for line in lines) == len(content["vertices"])
    arrow = unchanged.get(f"{path}?format=arrow")
    assert arrow.mimetype == ARROW
    table = pa.ipc.open_stream(arrow.data).read_all()
    assert np.array_equal(table.column("position_nm").to_pylist(), content["vertices"])
    source = np.frombuffer(unchanged.get(f"{path}?format=precomputed").data, "<u4", 2)
    assert source.tolist() == [len(content["vertices"]), len(content["edges"])]


def test_parameters_of_a_skeleton(unchanged: NeuronApi) -> None:
    path, default = f"root/{FIRST}/skeleton", unchanged.get(f"root/{FIRST}/skeleton").json
    point = ",".join(map(str, default["vertices"][3]))
    answer = unchanged.get(f"{path}?invalidation_nm=50&root_point={point}&collapse_nm=9&join=true").json
    assert answer["root"] == len(answer["vertices"]) - 1
    assert answer["vertices"][answer["root"]] == default["vertices"][3]
    meta = {name: answer["meta"][name] for name in ("invalidation_nm", "collapse_nm", "join")}
    assert meta == {"invalidation_nm": 50, "collapse_nm": 9, "join": True}


def test_missing_nodes_of_a_skeleton_are_published_and_flagged(api: NeuronApi) -> None:
    computed = [bool(node) for node in api.get(f"root/{FIRST}/nodes").json.values()]
    place = next(i for i in range(1, 29) if all(computed[i - 1 : i + 2]))
    lost = ROOTS[FIRST][place : place + 1]
    without(api, lost)
    api.client.application.extensions["l2cache"].datasets["sample"].opened().reader.cache.clear()
    content = api.get(f"root/{FIRST}/skeleton?invalidation_nm=1").json
    assert api.published == lost.tolist()
    flagged = {node for node, flag in zip(content["l2_ids"], content["interpolated"], strict=True) if flag}
    assert set(lost.tolist()) <= flagged


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("format=obj", "format"),
        ("invalidation_nm=0", "invalidation_nm"),
        ("invalidation_nm=nan", "invalidation_nm"),
        ("invalidation_nm=1e400", "invalidation_nm"),
        ("root_point=1,2", "root_point"),
        ("root_point=1,2,x", "root_point"),
        ("root_point=1,2,inf", "root_point"),
        ("collapse_nm=-1&root_point=1,2,3", "collapse_nm"),
        ("collapse_nm=1", "root_point"),
        ("wait=-1", "wait"),
    ],
)
def test_bad_parameters_of_a_skeleton(unchanged: NeuronApi, query: str, field: str) -> None:
    answer = unchanged.get(f"root/{FIRST}/skeleton?{query}")
    assert (answer.status_code, answer.json["field"]) == (422, field)


# ------------------------------------------------------------------ refused
@pytest.mark.parametrize("path", ["nodes", "graph", "skeleton"])
@pytest.mark.parametrize(
    ("root", "status", "code"),
    [
        (UNKNOWN, 404, "unknown_root"),
        (int(ROOTS[FIRST][0]), 404, "not_a_root"),
        (0, 404, "not_a_root"),
        (LARGE, 413, "too_many_nodes"),
        ("-1", 422, "invalid_parameter"),
        ("1.5", 422, "invalid_parameter"),
        ("1e3", 422, "invalid_parameter"),
        (1 << 64, 422, "invalid_parameter"),
        ("9" * 5000, 422, "invalid_parameter"),
        ("\u00b2", 422, "invalid_parameter"),
    ],
)
def test_a_root_that_cannot_be_read(
    unchanged: NeuronApi, path: str, root: Any, status: int, code: str
) -> None:
    answer = unchanged.get(f"root/{root}/{path}")
    assert (answer.status_code, answer.json["code"], answer.json["field"]) == (status, code, "root_id")
    if status == 413:
        assert (answer.json["value"], answer.json["limit"]) == ("51", 50)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "missing_field"),
        ({"l2_ids": [1]}, 422, "missing_field"),
        ({"root_ids": None}, 422, "not_an_id"),
        ({"root_ids": {"a": [1]}}, 422, "not_an_id"),
        ({"root_ids": [1.5]}, 422, "not_an_id"),
        ({"root_ids": [8.6e17]}, 422, "not_an_id"),
        ({"root_ids": [1 << 64]}, 422, "not_an_id"),
        ({"root_ids": [True]}, 422, "not_an_id"),
        ({"root_ids": [FIRST] * 6}, 413, "too_many_ids"),
        ({"root_ids": [[[FIRST]] * 3, [FIRST] * 3]}, 413, "too_many_ids"),
        ({"root_ids": [FIRST] * 500_000}, 413, "too_many_ids"),
    ],
)
def test_bodies_that_are_no_roots(unchanged: NeuronApi, body: Any, status: int, code: str) -> None:
    answer = unchanged.post("roots/summary", json=body)
    assert (answer.status_code, answer.json["code"]) == (status, code)
    assert answer.json["field"] == "root_ids"


@pytest.mark.parametrize(
    "path", [f"root/{FIRST}", f"root/{FIRST}/nodes", f"root/{FIRST}/graph", "nodes?bounds=0-1_0-1_0-1"]
)
def test_formats_that_are_not_offered(unchanged: NeuronApi, path: str) -> None:
    answer = unchanged.get(path, Accept="text/csv")
    assert (answer.status_code, answer.json["field"]) == (406, "Accept")


# ------------------------------------------------------------------ a graph or a store that is down
@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (GraphUnavailable("away"), "graph_unavailable"),
        (GraphError("malformed"), "graph_error"),
        (StoreUnavailable("away"), "store_unavailable"),
    ],
)
def test_a_failing_graph_is_a_503(api: NeuronApi, failure: Exception, code: str) -> None:
    api.graph.failure = failure
    for path in (f"root/{FIRST}", f"root/{FIRST}/nodes", f"root/{FIRST}/graph"):
        answer = api.get(path)
        assert (answer.status_code, answer.json["code"]) == (503, code)
        assert answer.headers["Retry-After"]
    body = {"l2_ids": ROOTS[FIRST].tolist()}
    assert api.post("attributes", json=body).status_code == 200


def test_a_slow_graph_is_a_503_within_the_deadline_and_delays_no_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = neuron_api(tmp_path, monkeypatch, ROOTS, root_timeout_s=0.3, max_root_requests=1)
    answers = threading.Event()
    monkeypatch.setattr(api.graph, "root_nodes", lambda *_: answers.wait(30))
    start = time.monotonic()
    late = api.get(f"root/{FIRST}")
    assert (late.status_code, late.json["code"]) == (503, "too_slow")
    full = api.get(f"root/{FIRST}")
    assert (full.status_code, full.json["code"]) == (429, "too_many_requests")
    body = {"l2_ids": ROOTS[FIRST].tolist()}
    assert api.post("attributes", json=body).status_code == 200
    assert api.get("nodes?bounds=0-9_0-9_0-9&partial=1").status_code == 200
    assert time.monotonic() - start < 10
    answers.set()
    monkeypatch.undo()
    until = time.monotonic() + 10
    while api.get(f"root/{FIRST}").status_code == 429:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_graph_that_does_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = neuron_api(tmp_path, monkeypatch, ROOTS, graph_timeout_s=0.2)
    opens = threading.Event()
    monkeypatch.setattr("api.served_datasets.open_graph", lambda *_: opens.wait(30) and api.graph)
    answer = api.get(f"root/{FIRST}")
    assert (answer.status_code, answer.json["code"]) == (503, "graph_unavailable")
    opens.set()
    until = time.monotonic() + 10
    while api.get(f"root/{FIRST}").status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.01)


# ------------------------------------------------------------------ what is kept
@pytest.mark.parametrize("keep", [False, True])
def test_results_are_kept_in_the_table_if_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    api = neuron_api(tmp_path, monkeypatch, ROOTS, keep_roots=keep)
    assert api.get(f"root/{FIRST}?graph=true").status_code == 200
    cells = api.store.root_cells(as_ids([FIRST]), ["l2_ids", "edges", "summary", "graph_summary"])
    assert bool(cells) == keep
    assert np.array_equal(as_ids([FIRST]), as_ids(list(cells))) == keep
