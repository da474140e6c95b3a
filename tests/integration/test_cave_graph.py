"""Tests of the graph server on a recorded table: it answers as the genuine PyChunkedGraph."""

from __future__ import annotations

import base64
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from l2features.core.ids import as_ids, from_bytes, to_bytes
from l2features.testing.emulators import Emulator
from l2features.testing.pcg_server import PcgServer, load_recorded

TABLE = "fixture_v2"
ROUTE = f"/segmentation/api/v1/table/{TABLE}"
OF_MACHINE = ("data_dir",)
"""Keys of an info that differ between machines."""


@pytest.fixture(scope="module")
def server(
    shared: Callable[[str], Path], emulator: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PcgServer]:
    folder, layers = shared("cave"), tmp_path_factory.mktemp("layers")
    graphs = load_recorded(folder / "graph_v2.json.gz", folder / "watershed_v2.npz", layers)
    server = PcgServer(graphs)
    threading.Thread(target=server.serve, daemon=True).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def exchanges(shared: Callable[[str], Path]) -> dict[str, Any]:
    recorded = json.loads(shared("cave/pcg_http.json").read_text())["exchanges"]
    return {exchange["name"]: exchange for exchange in recorded}


def ask(server: PcgServer, request: dict[str, Any]) -> requests.Response:
    body = request.get("body", "").encode() or base64.b64decode(request.get("body_base64", ""))
    url = f"http://127.0.0.1:{server.port}{request['path']}"
    return requests.request(request["method"], url, data=body, timeout=60)


def plain(value: Any) -> Any:
    """Sort all lists, whose order does not count, and drop keys that depend on the machine."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in OF_MACHINE}
    if isinstance(value, list):
        return sorted((plain(item) for item in value), key=json.dumps)
    return value


def test_all_exchanges(server: PcgServer, exchanges: dict[str, Any]) -> None:
    for name, exchange in exchanges.items():
        got, want = ask(server, exchange["request"]), exchange["response"]
        assert got.status_code == want["status"], (name, got.text)
        for header, value in want["headers"]:
            assert got.headers[header] == value, name
        if "json" not in got.headers["Content-Type"]:
            assert got.content == recorded_bytes(want), name
        elif name == "root_timestamps_latest":
            latest, retired = got.json()["timestamp"]
            assert abs(latest - time.time()) < 60
            assert retired == json.loads(want["body"])["timestamp"][1]
        elif name.startswith(("root", "is_latest", "info")):
            assert {**got.json(), "data_dir": 0} == {**json.loads(want["body"]), "data_dir": 0}, name
        else:
            assert plain(got.json()) == plain(json.loads(want["body"])), name


def recorded_bytes(response: dict[str, Any]) -> bytes:
    if "body_base64" in response:
        return base64.b64decode(response["body_base64"])
    return str(response["body"]).encode("latin-1")


# ------------------------------------------------------------------ all roots
@pytest.fixture(scope="module")
def recorded(shared: Callable[[str], Path]) -> dict[str, Any]:
    roots: dict[str, Any] = json.loads(shared("cave/roots.json").read_text())
    return roots


def get(server: PcgServer, path: str, **arguments: Any) -> Any:
    answer = requests.get(f"http://127.0.0.1:{server.port}{ROUTE}{path}", params=arguments, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(server: PcgServer, path: str, value: Any, **arguments: Any) -> Any:
    url = f"http://127.0.0.1:{server.port}{ROUTE}{path}"
    data = value if isinstance(value, bytes) else json.dumps(value)
    answer = requests.post(url, params=arguments, data=data, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.content if isinstance(value, bytes) else answer.json()


def test_nodes_edges_and_times_of_every_root(server: PcgServer, recorded: dict[str, Any]) -> None:
    roots = recorded["roots"]
    ids = {"node_ids": [int(root) for root in roots]}
    leaves = post(server, "/node/leaves_many", ids, stop_layer=2)
    assert {root: sorted(own) for root, own in leaves.items()} == {
        root: sorted(values["l2_ids"]) for root, values in roots.items()
    }
    made = post(server, "/root_timestamps", ids)["timestamp"]
    assert made == [values["created_ms"] / 1000 for values in roots.values()]
    latest = post(server, "/is_latest_roots", ids)["is_latest"]
    assert latest == [values["retired_ms"] is None for values in roots.values()]
    for root, values in roots.items():
        edges = get(server, f"/node/{root}/lvl2_graph")["edge_graph"]
        assert sorted(edges) == sorted(values["l2_edges"])


def test_lineage_of_every_root(server: PcgServer, recorded: dict[str, Any]) -> None:
    roots = {int(root): values for root, values in recorded["roots"].items()}
    for root in (root for root, values in roots.items() if values["successors"] or values["predecessors"]):
        found = post(server, "/lineage_graph_multiple", {"root_ids": [root]})
        edges = {(link["source"], link["target"]) for link in found["links"]}
        past, future = {root}, {root}
        for _ in roots:
            past |= {old for one in past for old in roots[one]["predecessors"]}
            future |= {new for one in future for new in roots[one]["successors"]}
        assert edges == {(old, one) for one in past for old in roots[one]["predecessors"]} | {
            (one, new) for one in future for new in roots[one]["successors"]
        }
        assert {node["id"] for node in found["nodes"]} == past | future


def test_roots_at_three_times(server: PcgServer, recorded: dict[str, Any]) -> None:
    for name, roots in recorded["l2_to_root"].items():
        nodes = [int(node) for node in roots]
        time_s = recorded[f"{name}_ms"] / 1000
        found = post(server, "/roots_binary", to_bytes(as_ids(nodes)), timestamp=time_s)
        assert from_bytes(found).tolist() == list(roots.values())


def test_changed_roots_between_three_times(server: PcgServer, recorded: dict[str, Any]) -> None:
    """Compare lists, because sets hide duplicates. A root made and retired in the window is in both lists."""
    for window in recorded["delta_roots"]:
        times = {f"timestamp_{name}": window[f"{name}_ms"] / 1000 for name in ("past", "future")}
        found = get(server, "/delta_roots", **times)
        assert {name: sorted(roots) for name, roots in found.items()} == {
            name: sorted(window[name]) for name in ("old_roots", "new_roots")
        }


def test_supervoxels_and_layers_between(server: PcgServer, recorded: dict[str, Any]) -> None:
    root = max(recorded["roots"], key=lambda root: len(recorded["roots"][root]["l2_ids"]))
    children = get(server, f"/node/{root}/children")["children_ids"]
    of_layer_3 = get(server, f"/node/{root}/leaves", stop_layer=3)["leaf_ids"]
    assert set(of_layer_3) == {child for child in children if child >> 56 == 3}
    supervoxels = get(server, f"/node/{root}/leaves")["leaf_ids"]
    pairs = [(i, get(server, f"/node/{i}/root", stop_layer=2)["root_id"]) for i in supervoxels[:3]]
    for supervoxel, node in pairs:
        assert supervoxel in get(server, f"/node/{node}/leaves")["leaf_ids"]
        assert get(server, f"/node/{supervoxel}/leaves")["leaf_ids"] == []
        assert get(server, f"/node/{node}/leaves", stop_layer=2)["leaf_ids"] == [node]
    below = [i for child in children for i in get(server, f"/node/{child}/leaves", stop_layer=2)["leaf_ids"]]
    assert sorted(below) == sorted(recorded["roots"][root]["l2_ids"])


def test_bounds_narrow_every_layer(server: PcgServer, recorded: dict[str, Any]) -> None:
    """Check bounds that begin at voxel 1088 in x, where the second chunk begins."""
    root = max(recorded["roots"], key=lambda root: len(recorded["roots"][root]["l2_ids"]))
    nodes = recorded["roots"][root]["l2_ids"]
    upper = {node for node in nodes if node >> 46 & 1023}
    bounds = {"bounds": "1088-1184_512-640_20-68"}
    assert set(get(server, f"/node/{root}/leaves", stop_layer=2, **bounds)["leaf_ids"]) == upper
    supervoxels = {i for node in upper for i in get(server, f"/node/{node}/leaves")["leaf_ids"]}
    assert set(get(server, f"/node/{root}/leaves", **bounds)["leaf_ids"]) == supervoxels
    edges = get(server, f"/node/{root}/lvl2_graph", **bounds)["edge_graph"]
    assert sorted(edges) == sorted(e for e in recorded["roots"][root]["l2_edges"] if upper >= set(e))
    assert 0 < len(upper) < len(nodes)


def test_a_compressed_body(server: PcgServer) -> None:
    url = f"http://127.0.0.1:{server.port}{ROUTE}/roots_binary?stop_layer=2"
    ids = to_bytes(as_ids([(1 << 56) + 1]))
    packed = requests.post(url, data=gzip.compress(ids), headers={"Content-Encoding": "gzip"}, timeout=60)
    assert packed.content == requests.post(url, data=ids, timeout=60).content != ids


# ------------------------------------------------------------------ mistakes
@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/segmentation/table/other/info", None, 404, "table 'other' is not served"),
        (f"{ROUTE}/node/5/leaves?bounds=1-2_3-4", None, 400, "bounds=1-2_3-4: expected x0-x1_y0-y1_z0-z1"),
        (f"{ROUTE}/node/5/leaves?bounds=0-{10**20}_0-1_0-1", None, 400, "expected x0-x1_y0-y1_z0-z1"),
        (f"{ROUTE}/node/5/leaves?stop_layer=5", None, 400, "stop_layer=5: expected 1 to 4"),
        (f"{ROUTE}/node/5/leaves?stop_layer=-1", None, 400, "stop_layer=-1: expected 1 to 4"),
        (f"{ROUTE}/node/5/root?timestamp=nan", None, 400, "timestamp=nan: expected seconds since 1970"),
        (f"{ROUTE}/node/5/root?timestamp=1e99", None, 400, "timestamp=1e99: expected seconds since 1970"),
        (f"{ROUTE}/roots?timestamp=253402300799.9", b'{"node_ids": [ROOT]}', 400, "the years 1970 to 2999"),
        (f"{ROUTE}/roots?timestamp=-1e10", b'{"node_ids": [ROOT]}', 400, "expected seconds since 1970"),
        (f"{ROUTE}/node/5/root", None, 404, "node 5 has no ancestor of layer 4"),
        (f"{ROUTE}/node/{1 << 64}/children", None, 400, "is not an id"),
        (f"{ROUTE}/node/x/children", None, 404, "not found"),
        (f"{ROUTE}/merge", b"[]", 404, "not found"),
        (f"{ROUTE}/roots", None, 405, "not allowed"),
        (f"{ROUTE}/roots", b"{", 400, "body: expected JSON such as"),
        (f"{ROUTE}/roots", b"[" * 100_000, 400, "body: expected JSON such as"),
        (f"{ROUTE}/roots", b"[1]", 400, "body: expected JSON such as"),
        (f"{ROUTE}/roots", b'{"node_ids": [1.5]}', 400, "1.5 is not an id"),
        (f"{ROUTE}/roots", b'{"node_ids": 7}', 400, "7 are not ids"),
        (f"{ROUTE}/roots_binary", b"1234567", 400, "multiple"),
        (f"{ROUTE}/root_timestamps", b'{"node_ids": [5]}', 404, "5 is not a root of the graph"),
        (f"{ROUTE}/root_timestamps?latest=1&timestamp=0", b'{"node_ids": [ROOT]}', 404, "before 1970"),
        (f"{ROUTE}/lineage_graph_multiple", b'{"root_ids": [5]}', 404, "5 is not a root of the graph"),
        (f"{ROUTE}/l2_chunk_children_binary/{2 << 56}", None, 400, "expected as_array=True"),
        (
            f"{ROUTE}/l2_chunk_children_binary/5?as_array=1",
            None,
            400,
            "expected the id of a chunk of layer 2",
        ),
        (f"{ROUTE}/delta_roots", None, 400, "timestamp_past is missing"),
        (f"{ROUTE}/oldest_timestamp?delimiter=ab", None, 400, "delimiter='ab': expected one character"),
        ("/info/api/v2/datastack/full/other", None, 404, "table 'other' is not served"),
        ("/info/api/v1/datasets", None, 404, "not found"),
    ],
)
def test_mistakes(
    server: PcgServer,
    recorded: dict[str, Any],
    path: str,
    body: bytes | None,
    status: int,
    message: str,
) -> None:
    method = "GET" if body is None else "POST"
    body = (body or b"").replace(b"ROOT", next(iter(recorded["roots"])).encode())
    answer = requests.request(method, f"http://127.0.0.1:{server.port}{path}", data=body, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (status, status), answer.text
    assert message in answer.json()["message"]


@pytest.mark.parametrize("body", [b"x", b"no gzip", gzip.compress(bytes(800), mtime=0)[:-9]])
def test_a_body_that_is_not_gzip(server: PcgServer, body: bytes) -> None:
    url = f"http://127.0.0.1:{server.port}{ROUTE}/roots_binary"
    answer = requests.post(url, data=body, headers={"Content-Encoding": "gzip"}, timeout=60)
    assert (answer.status_code, "the body is not gzip" in answer.text) == (400, True)


def test_a_table_that_is_down(shared: Callable[[str], Path], tmp_path: Path, monkeypatch: Any) -> None:
    own = Emulator()
    monkeypatch.setenv(own.variable, own.host)
    files = shared("cave/graph_v2.json.gz"), shared("cave/watershed_v2.npz")
    server = PcgServer(load_recorded(*files, tmp_path))
    threading.Thread(target=server.serve, daemon=True).start()
    server.graphs[TABLE].graph.deadline_s = 2.0
    try:
        url = f"http://127.0.0.1:{server.port}{ROUTE}/node/{(2 << 56) + 1}/children"
        assert requests.get(url, timeout=60).json()["children_ids"][0] == (1 << 56) + 1
        own.pause()
        began = time.monotonic()
        assert requests.get(url, timeout=60).status_code == 503
        assert time.monotonic() - began < 10
    finally:
        server.stop()
        own.stop()
