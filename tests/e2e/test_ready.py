"""Tests of /ready with a store that stops and returns, a missing table, or a silent graph."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import requests

from api.config import Settings
from api.error_responses import ApiError
from api.served_datasets import ServedDataset
from l2features.config.datasets import load_dataset
from l2features.core.geometry import Geometry
from l2features.core.ids import IdLayout
from l2features.core.schema import FEATURES
from l2features.store.base import Meta, open_store
from l2features.testing.emulators import HOW_TO_GET_IT, Emulator, find_emulator, free_port
from l2features.testing.server import Server
from l2features.testing.stores import STORE_URL
from tests.support.jobs import need_program, own_copy

GEOMETRY = Geometry((16, 16, 40), (0, 0, 0), (64, 64, 32), (64, 64, 32), IdLayout({2: 10}))
NODE = GEOMETRY.layout.chunk_id(0, 0, 0) + 1
LONGEST_S = 20.0
"""Far above the server's deadline of 1 s, and far below the clients' own."""


@pytest.fixture
def emulator_to_stop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    need_program(find_emulator(), HOW_TO_GET_IT)
    emulator = Emulator()
    monkeypatch.setenv(emulator.variable, emulator.host)
    yield emulator
    emulator.process.send_signal(signal.SIGCONT)
    emulator.stop()


def fill(config: Path) -> None:
    """Write two data sets, each with a table of one node. Their segmentation and graph do not exist."""
    cv_path = f"graphene://http://127.0.0.1:{free_port()}/segmentation/table/gone"
    entries = {name: {"cv_path": cv_path, "l2cache_id": name, "store": STORE_URL} for name in ("one", "two")}
    config.write_text(json.dumps(entries))
    rows = np.zeros(1, dtype=FEATURES)
    rows["label"], rows["size_nm3"] = NODE, 7
    for name in entries:
        store = open_store(STORE_URL, name)
        store.create(Meta("gone", cv_path, "2026-11-21 00:27:44", GEOMETRY))
        store.write(rows)
        store.close()


def wait_for(server: Server, status: int, but_not: str = "") -> requests.Response:
    """Return the first answer with this status in which no data set has the state ``but_not``."""
    until = time.monotonic() + 60
    while True:
        start = time.monotonic()
        answer = requests.get(f"{server.url}/ready", timeout=60)
        assert time.monotonic() - start < LONGEST_S
        if answer.status_code == status and but_not not in answer.json()["datasets"].values():
            return answer
        assert time.monotonic() < until, answer.text


def test_a_store_that_hangs_or_stops_and_returns(emulator_to_stop: Emulator, tmp_path: Path) -> None:
    emulator, config = emulator_to_stop, tmp_path / "datasets.yml"
    fill(config)
    with Server(config, {"L2CACHE_STORE_TIMEOUT_S": "1"}) as server:
        assert wait_for(server, 200).json() == {
            "status": "ready",
            "datasets": {"one": "ready", "two": "ready"},
        }
        emulator.process.send_signal(signal.SIGSTOP)
        answer = wait_for(server, 503, but_not="ready")  # of one while the emulator stops
        assert answer.json()["status"] == "not ready"
        assert set(answer.json()["datasets"].values()) == {"unreachable: its store does not answer"}
        assert requests.get(f"{server.url}/live", timeout=20).ok
        emulator.process.send_signal(signal.SIGCONT)
        wait_for(server, 200)
        emulator.stop()
        wait_for(server, 503)
        emulator.start()
        fill(config)
        wait_for(server, 200)
        url = f"{server.api}/table/two/attributes?attribute_names=size_nm3"
        assert requests.post(url, json={"l2_ids": [NODE]}, timeout=20).json() == {
            str(NODE): {"size_nm3": 7 * 16 * 16 * 40}
        }
        assert "Traceback" not in server.log


def test_a_missing_data_set_does_not_stop_the_others(undisturbed: Path, tmp_path: Path) -> None:
    entries = json.loads(undisturbed.read_text())
    entries["gone"] = {**entries["sample"], "l2cache_id": "gone"}
    entries["broken"] = {**entries["sample"], "store": f"sqlite://{tmp_path}/broken.db"}
    (tmp_path / "broken.db").write_text("no database\n" * 1000)
    (tmp_path / "newer").mkdir()
    newer = own_copy(undisturbed, tmp_path / "newer")
    entries["newer"] = json.loads(newer.read_text())["sample"]
    with closing(sqlite3.connect(newer.parent / "l2cache.db")) as db, db:
        db.execute("UPDATE formats SET version = 9 WHERE part = 'nodes'")
    config = tmp_path / "datasets.yml"
    config.write_text(json.dumps(entries))
    with Server(config) as server:
        answer = requests.get(f"{server.url}/ready", timeout=60)
        assert answer.status_code == 200
        assert answer.json()["datasets"] == {
            "sample": "ready",
            "gone": "its table is missing",
            "broken": "its table cannot be read",
            "newer": "its table is of a newer format than this server reads",
        }
        codes = {"gone": "table_not_found", "broken": "store_unavailable", "newer": "unknown_format"}
        for name, code in codes.items():
            refused = requests.get(f"{server.api}/table/{name}", timeout=60)
            assert (refused.status_code, refused.json()["code"]) == (503, code)
        assert "data set 'newer'" in refused.json()["message"]


def test_no_data_set_is_ready(undisturbed: Path, tmp_path: Path) -> None:
    entries = json.loads(undisturbed.read_text())
    entries["sample"]["l2cache_id"] = "gone"
    config = tmp_path / "datasets.yml"
    config.write_text(json.dumps(entries))
    with Server(config) as server:
        assert requests.get(f"{server.url}/ready", timeout=60).status_code == 503
        assert requests.get(f"{server.url}/live", timeout=60).status_code == 200


def test_a_graph_that_never_answers_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.background.PATIENCE_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        cv_path = f"graphene://http://127.0.0.1:{silent.getsockname()[1]}/segmentation/table/silent"
        entry = {"cv_path": cv_path, "l2cache_id": "one", "store": f"sqlite://{tmp_path}/one.db"}
        config = tmp_path / "datasets.yml"
        config.write_text(json.dumps({"one": entry}))
        served = ServedDataset(load_dataset("one", config), Settings(store_timeout_s=0.1))
        served.store.create(Meta("silent", cv_path, "2026-11-21 00:27:44"))
        with pytest.raises(ApiError, match="its graph does not answer") as error:
            served.opened()
        assert (error.value.status, error.value.body.code) == (503, "metadata_unavailable")
        served.store.put_geometry(GEOMETRY)
        until = time.monotonic() + 30
        while not served.opening().done() and time.monotonic() < until:
            time.sleep(0.05)
        assert served.opened().reader.geometry == GEOMETRY
        served.store.close()
