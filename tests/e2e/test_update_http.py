"""Tests of the updater on recorded messages: graph server, SQLite store, no Google services."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import requests

from l2features.core.ids import as_ids
from l2features.testing.emulators import wait_for_port
from l2features.testing.stores import open_table
from tests.support.audit_job import run_audit
from tests.support.ingest_jobs import run_ingest
from tests.support.jobs import ROOT, Recordings, all_rows, dataset_file
from tests.support.recordings import check_values, valid_at_t0
from tests.support.update_replay import T0, named, rep, run_update

COMPLETE = "196 nodes expected: 196 present (0 of them marked empty), 0 missing"


@pytest.fixture(scope="module")
def recorded(shared: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recordings]:
    """Return the recordings, with a server of their graph running."""
    folder = shared("cave")
    recorded = Recordings(folder, tmp_path_factory.mktemp("layers"))
    command = [
        sys.executable,
        "-m",
        "l2features.testing.graph_server",
        str(recorded.graphene_port),
        str(recorded.layers),
    ]
    files = [str(folder / "graph_v2.json.gz"), str(folder / "watershed_v2.npz")]
    server = subprocess.Popen([*command, *files], cwd=ROOT)
    wait_for_port(recorded.graphene_port, 60)
    yield recorded
    server.kill()
    server.wait()


def test_the_server_answers_as_the_recorded_one(recorded: Recordings) -> None:
    """Compare answers with recorded ones. Only leaves and a chunk's nodes may come in another order."""
    compared = 0
    for line in (recorded.folder / "graphene.jsonl").read_text().splitlines():
        exchange = json.loads(line)
        request, response = exchange["request"], exchange["response"]
        path = request["path"]
        if path.endswith(("/info", "/roots_binary")) or ("/leaves" in path and "stop_layer" in path):
            continue  # the info names other folders; roots, and their leaves, are not asked for
        want = base64.b64decode(response["body_base64"])
        if ["Content-Encoding", "gzip"] in response["headers"]:
            want = gzip.decompress(want)
        headers = {name: value for name, value in request["headers"] if name == "Content-Encoding"}
        got = requests.request(
            request["method"],
            f"http://127.0.0.1:{recorded.graphene_port}{path}",
            data=base64.b64decode(request["body_base64"]),
            headers=headers,
            timeout=20,
        )
        assert got.status_code == 200, path
        if "roots_binary" in path:
            assert got.content == want
        elif "/leaves" in path:
            assert sorted(got.json()["leaf_ids"]) == sorted(json.loads(want)["leaf_ids"])
        else:
            pairs = [np.frombuffer(answer, "<u8").reshape(-1, 2).tolist() for answer in (got.content, want)]
            assert sorted(pairs[0]) == sorted(pairs[1])
        compared += 1
    assert compared == 11


FORMS = (
    "table/fixture_v2",
    "table/fixture_v2/?key=value#part",
    "1.0/fixture_v2/",
    "api/v1/fixture_v2",
    "api/v1/table/fixture_v2/",
)
"""Forms of a graph server's path. The server answers only ``table/…/info`` and ``api/v1/table/…``."""


@pytest.mark.parametrize("form", FORMS)
def test_replay_without_any_google_process(
    recorded: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Check that nodes named by the 18 edits get their recorded features, and the audit is complete."""
    for service in ("BIGTABLE", "PUBSUB"):
        monkeypatch.delenv(f"{service}_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nothing.json"))
    cv_path = recorded.cv_path("fixture_v2").replace("table/fixture_v2", form)
    config = dataset_file(tmp_path, cv_path, graph="graphene", chunk_size=None)
    ingested = run_ingest(config, "--create", "--timestamp", T0)
    assert ingested.returncode == 0, ingested.stderr
    check_values(all_rows(open_table(config)), valid_at_t0(recorded, "fixture_v2"))
    assert run_audit(config, "--timestamp", T0).returncode == 0
    missing = run_audit(config)
    assert (missing.returncode, ", 37 missing" in missing.stdout) == (1, True)

    ids, features = named(recorded), recorded.json("features.json")["features"]
    messages = tmp_path / "messages"
    messages.mkdir()
    for file in (recorded.folder / "pubsub").glob("[0-9]*"):
        (messages / file.name).write_bytes(file.read_bytes())
    done = run_update(config, messages)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("18 of 18 messages done")
    rows = open_table(config).read(as_ids(ids))
    check_values(rows, {str(node): features[str(node)] for node in ids})
    assert sum(row["rep_coord_nm"].tolist() != rep(features, row) for row in rows.features) <= 1
    audited = run_audit(config)
    assert audited.returncode == 0, audited.stderr
    assert COMPLETE in audited.stdout
    assert audited.stdout.endswith("complete\n")
