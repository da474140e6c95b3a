"""Tests of the recorded graph's roots over HTTP and in exports, from its table and its server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from flask.testing import FlaskClient

from l2features.core.times import format_time
from l2features.store.base import Meta
from l2features.testing.stores import INSTANCE, PROJECT, open_table
from tests.support.api_app import TABLE, client_of, need_no_token
from tests.support.command import run
from tests.support.graph_roots import (
    GEOMETRY,
    UNKNOWN_ROOT,
    at,
    features_of_recording,
    pairs_of,
    roots_of_recording,
)
from tests.support.jobs import Recordings, dataset_file
from tests.support.root_server import RootServer, serve_roots

VOXEL_NM3 = 16 * 16 * 40
TIMEOUT_S = 2.0


@pytest.fixture(scope="module")
def server(recordings: Recordings) -> Iterator[RootServer]:
    with serve_roots(recordings) as server:
        yield server


@pytest.fixture(params=["table", "server"])
def config(
    request: pytest.FixtureRequest, server: RootServer, recordings: Recordings, tmp_path: Path
) -> Path:
    """Return a data sets file whose table has all recorded features."""
    server.fail = lambda route: None
    graph = f"bigtable://{PROJECT}/{INSTANCE}/fixture_v2" if request.param == "table" else "graphene"
    config = dataset_file(tmp_path, server.url, graph=graph, chunk_size=None)
    with closing(open_table(config)) as store:
        store.create(Meta("fixture_v2", server.url, "2026-11-21 00:27:44", GEOMETRY))
        store.write(features_of_recording(recordings))
    return config


@pytest.fixture
def client(config: Path, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    need_no_token(monkeypatch)
    return client_of(config, graph_timeout_s=60)


def millis(ms: int | None) -> str | None:
    return None if ms is None else at(ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_every_recorded_root(client: FlaskClient, recordings: Recordings) -> None:
    recorded, features = roots_of_recording(recordings), recordings.json("features.json")["features"]
    body = {"root_ids": [*map(str, recorded), UNKNOWN_ROOT]}
    found: Any = client.post(f"{TABLE}/roots/summary?graph=true", json=body).json
    assert found.pop(str(UNKNOWN_ROOT))["status"] == "unknown"
    assert set(found) == set(map(str, recorded))
    for root, entry in recorded.items():
        one, rows = found[str(root)], [features[str(node)] for node in entry["l2_ids"]]
        assert (one["status"], one["n_nodes"], one["n_missing"]) == ("ready", len(rows), 0)
        assert one["size_nm3"] == sum(row["size_nm3"] for row in rows) * VOXEL_NM3
        assert one["area_nm2"] == sum(row["area_nm2"] for row in rows)
        assert one["n_edges"] == len(pairs_of(entry["l2_edges"]))
        assert one["retired_at"] == millis(entry["retired_ms"])
        assert sorted(one["successors"]) == sorted(entry["successors"])


def test_graphs_and_skeletons_of_recorded_roots(client: FlaskClient, recordings: Recordings) -> None:
    recorded = roots_of_recording(recordings)
    by_size = sorted(recorded, key=lambda root: len(recorded[root]["l2_ids"]))
    retired = next(root for root in recorded if recorded[root]["retired_ms"])
    for root in (by_size[0], by_size[-1], retired):
        graph: Any = client.get(f"{TABLE}/root/{root}/graph").json
        assert graph["node_ids"] == sorted(recorded[root]["l2_ids"])
        assert sorted(map(tuple, graph["edges"])) == pairs_of(recorded[root]["l2_edges"])
        skeleton: Any = client.get(f"{TABLE}/root/{root}/skeleton").json
        assert set(skeleton["l2_ids"]) <= set(graph["node_ids"])
        nodes: Any = client.get(f"{TABLE}/root/{root}/nodes").json
        assert list(map(int, nodes)) == graph["node_ids"]


@pytest.mark.parametrize("when", ["t0", "tm", "t1"])
def test_an_export_has_the_roots_at_a_time(
    config: Path, recordings: Recordings, tmp_path: Path, when: str
) -> None:
    recording, file = recordings.json("roots.json"), tmp_path / "nodes.parquet"
    time_text = format_time(at(recording[f"{when}_ms"]))
    done = run("export", "sample", "--config", config, "--to", file, "--timestamp", time_text)
    assert (done.exit_code, "may lack nodes" in done.stderr) == (1, True)  # the chunks have no record
    table = pq.read_table(file).to_pylist()
    expected = {int(node): root for node, root in recording["l2_to_root"][when].items()}
    assert len(table) == len(recordings.json("features.json")["features"])
    assert {row["id"]: row["root_id"] for row in table if row["root_id"]} == expected
    bare = run("export", "sample", "--config", config, "--to", file, "--no-roots")
    assert "root_id" not in pq.read_table(file).column_names, bare.output


@pytest.mark.parametrize("config", ["server"], indirect=True)
@pytest.mark.parametrize("slow", [False, True])
def test_a_graph_that_is_down_affects_no_node(
    config: Path, monkeypatch: pytest.MonkeyPatch, server: RootServer, recordings: Recordings, slow: bool
) -> None:
    need_no_token(monkeypatch)
    client = client_of(config, root_timeout_s=TIMEOUT_S)
    root, entry = next(iter(roots_of_recording(recordings).items()))
    until = time.monotonic() + 60
    while client.get(f"{TABLE}/root/{root}").status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.1)
    ended = threading.Event()

    def fail(route: str) -> tuple[int, bytes]:
        ended.wait(30 if slow else 0)
        return 503, b"{}"

    server.fail = fail
    start = time.monotonic()
    answer: Any = client.get(f"{TABLE}/root/{root}")
    assert time.monotonic() - start < 20
    assert answer.status_code == 503
    assert answer.json["code"] in ("graph_unavailable", "too_slow")
    assert client.post(f"{TABLE}/attributes", json={"l2_ids": entry["l2_ids"]}).status_code == 200
    assert client.get(f"{TABLE}/chunk/0_0_0/nodes?partial=true").status_code == 200
    ended.set()
