"""Tests of the server process: how it starts and ends."""

from __future__ import annotations

import glob
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests

from l2features.config.datasets import load_dataset
from l2features.core.ids import Ids
from l2features.store.base import open_store
from l2features.testing.server import ROUTE, Server, nodes_of
from tests.support.clients import BINARY, Clients


@pytest.fixture(scope="module")
def node_ids(undisturbed: Path) -> Ids:
    return nodes_of(undisturbed)


@pytest.fixture(scope="module")
def server(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(undisturbed, log_file=tmp_path_factory.mktemp("log") / "server.log") as server:
        yield server


def test_the_server_ends_with_all_its_processes(undisturbed: Path, node_ids: Ids, tmp_path: Path) -> None:
    """Check this under load. Reads refused on shutdown do not count: a proxy retries them (test_nginx)."""
    env = {"L2CACHE_WORKERS": "2", "TMPDIR": str(tmp_path)}
    with Server(undisturbed, env, log_file=tmp_path / "log") as server:
        assert len(glob.glob(f"{tmp_path}/l2cache-metrics-*")) == 1
        processes = [psutil.Process(server.process.pid), *server.workers]
        clients = Clients(server.api, node_ids)
        clients.wait_for(50)
        server.terminate()
        assert server.process.wait(60) == 0
        clients.end()
    assert not any(process.is_running() for process in processes)
    assert not glob.glob(f"{tmp_path}/l2cache-metrics-*")
    assert "Traceback" not in server.log


def test_a_request_that_takes_long_is_finished(undisturbed: Path, tmp_path: Path) -> None:
    dataset = load_dataset("sample", undisturbed)
    store = open_store(dataset.store, dataset.l2cache_id)
    meta = store.meta()
    store.close()
    assert meta
    assert meta.geometry
    missing = meta.geometry.layout.chunk_id(0, 0, 0) + 4000
    with Server(undisturbed, log_file=tmp_path / "log") as server:
        statuses: list[int] = []

        def ask() -> None:
            url = f"{server.api}/table/sample/attributes?wait=3"
            statuses.append(requests.post(url, json={"l2_ids": [missing]}, timeout=60).status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        until = time.monotonic() + 20
        while server.metric("l2cache_requests_in_flight") < 2 and time.monotonic() < until:
            time.sleep(0.05)
        assert server.stop() == 0
        asking.join()
    assert statuses == [200]


def test_ctrl_c_ends_at_once(undisturbed: Path, tmp_path: Path) -> None:
    """The signal reaches each worker twice: from the terminal and from the master."""
    missing = nodes_of(undisturbed)[:1] + np.uint64(4000)
    for _ in range(3):
        with Server(undisturbed, {"L2CACHE_WORKERS": "2"}, log_file=tmp_path / "log") as server:
            url = f"{server.api}/table/sample/attributes?wait=30"
            with ThreadPoolExecutor() as pool:
                asked = pool.submit(requests.post, url, data=missing.tobytes(), headers=BINARY, timeout=60)
                until = time.monotonic() + 20
                while server.metric("l2cache_requests_in_flight") < 2 and time.monotonic() < until:
                    time.sleep(0.05)
                os.killpg(server.process.pid, signal.SIGINT)
                assert server.process.wait(20) == 0
                assert isinstance(asked.exception(), requests.ConnectionError)
            assert "SIGKILL" not in server.log


def test_ended_and_killed_workers_are_replaced_and_their_counts_stay(
    undisturbed: Path, node_ids: Ids, tmp_path: Path
) -> None:
    with Server(undisturbed, {"L2CACHE_WORKERS": "2"}, log_file=tmp_path / "log") as server:
        clients = Clients(server.api, node_ids)
        clients.wait_for(30)
        first = server.workers[0]
        first.terminate()
        first.wait(30)
        clients.wait_for(30)
        clients.end()
        assert set(clients.outcomes) == {"200"}, clients.outcomes
        total = clients.outcomes["200"]
        for worker in server.workers:
            worker.kill()
            worker.wait(30)
        server.wait_until_live()
        for _ in range(10):
            answer = requests.post(f"{server.api}/table/sample/attributes", json={"l2_ids": []}, timeout=20)
            assert answer.status_code == 200
        labels = {"route": ROUTE, "dataset": "sample", "status": "200"}
        seen = {server.metric("l2cache_request_seconds_count", **labels) for _ in range(10)}
        assert seen == {total + 10}
        assert server.metric("l2cache_ids_total", dataset="sample") == total * len(node_ids)
        assert server.metric("l2cache_requests_in_flight") == 1


def test_nothing_is_open_before_the_fork(server: Server) -> None:
    master = psutil.Process(server.process.pid)
    assert [connection.status for connection in master.net_connections()] == ["LISTEN"]
    folder = Path(f"/proc/{master.pid}/task")
    if folder.is_dir():
        names = [(thread / "comm").read_text().strip() for thread in folder.iterdir()]
        assert len([name for name in names if not name.startswith("jemalloc")]) == 1


def test_a_server_that_cannot_start_says_why(undisturbed: Path, tmp_path: Path) -> None:
    """More wrong settings are in `tests/unit/test_settings.py`."""
    broken = tmp_path / "broken.yml"
    broken.write_text("sample: {cv_path: somewhere, l2cache_id: x}\n")
    cases: list[tuple[Path, dict[str, str], str]] = [
        (undisturbed, {"L2CACHE_WORKERS": "many"}, "L2CACHE_WORKERS='many': "),
        (undisturbed, {"L2CACHE_EXCHANGE": "x"}, "L2CACHE_EXCHANGE='x': expected"),
        (broken, {}, "data set 'sample': key 'cv_path': expected"),
    ]
    for config, env, message in cases:
        log = tmp_path / "log"
        with pytest.raises(AssertionError, match="the server ended"):
            Server(config, env, log_file=log)
        records = [json.loads(line) for line in log.read_text().splitlines()]
        assert records[-1]["level"] == "critical"
        assert message in records[-1]["message"]
        assert "Traceback" not in log.read_text()
