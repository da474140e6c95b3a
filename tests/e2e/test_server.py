"""The server as a process: how it starts and ends, and clients that do not behave."""

from __future__ import annotations

import glob
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
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
from l2features.testing.server import ROUTE, TOKEN, Server, nodes_of

BINARY = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def node_ids(undisturbed: Path) -> Ids:
    return nodes_of(undisturbed)


@pytest.fixture(scope="module")
def server(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One process whose clients have a second to send, and four threads."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    env = {"L2CACHE_THREADS": "4", "L2CACHE_BODY_TIMEOUT_S": "1"}
    with Server(undisturbed, env, log_file=log) as server:
        yield server


class Load:
    """Clients that ask without a pause, half of them on one connection each, half on a new one every time.

    ``outcomes`` counts statuses, and what became of requests without an answer. A client ends when it is
    refused.
    """

    def __init__(self, server: Server, ids: Ids, clients: int = 8) -> None:
        self.url, self.ids = f"{server.api}/table/sample/attributes", ids
        self.outcomes: Counter[str] = Counter()
        self.enough = threading.Event()
        self.threads = [threading.Thread(target=self._ask, args=(i % 2 == 0,)) for i in range(clients)]
        for thread in self.threads:
            thread.start()

    def wait_for(self, answers: int) -> None:
        goal = self.outcomes["200"] + answers
        until = time.monotonic() + 60
        while self.outcomes["200"] < goal:
            assert time.monotonic() < until, self.outcomes
            time.sleep(0.01)

    def end(self) -> None:
        self.enough.set()
        for thread in self.threads:
            thread.join()

    def _ask(self, keep: bool) -> None:
        session = requests.Session()
        while not self.enough.is_set():
            post = session.post if keep else requests.post
            try:
                answer = post(self.url, data=self.ids.tobytes(), headers=BINARY, timeout=60)
                outcome = str(answer.status_code)
                assert len(answer.json()) == len(self.ids)
            except requests.RequestException as error:
                outcome = "refused" if "Connection refused" in str(error) else repr(error)
            self.outcomes[outcome] += 1
            if outcome == "refused":
                return


# ------------------------------------------------------------------ beginning and ending
@pytest.mark.parametrize("workers", [1, 2])
def test_no_accepted_request_fails_when_the_server_ends(
    workers: int, undisturbed: Path, node_ids: Ids, tmp_path: Path
) -> None:
    env = {"L2CACHE_WORKERS": str(workers), "TMPDIR": str(tmp_path)}
    with Server(undisturbed, env, log_file=tmp_path / "log") as server:
        assert len(glob.glob(f"{tmp_path}/l2cache-metrics-*")) == 1
        processes = [psutil.Process(server.process.pid), *server.workers]
        load = Load(server, node_ids)
        load.wait_for(50)
        server.terminate()
        assert server.process.wait(60) == 0
        load.end()
    assert set(load.outcomes) == {"200", "refused"}, load.outcomes
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
    """It reaches all processes, and those of requests in work a second time from the master."""
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


def test_processes_that_end_or_die_are_replaced_and_what_they_counted_stays(
    undisturbed: Path, node_ids: Ids, tmp_path: Path
) -> None:
    with Server(undisturbed, {"L2CACHE_WORKERS": "2"}, log_file=tmp_path / "log") as server:
        load = Load(server, node_ids)
        load.wait_for(30)
        first = server.workers[0]
        first.terminate()
        first.wait(30)
        load.wait_for(30)
        load.end()
        assert set(load.outcomes) == {"200"}, load.outcomes
        total = load.outcomes["200"]
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
    broken = tmp_path / "broken.yml"
    broken.write_text("sample: {cv_path: somewhere, l2cache_id: x}\n")
    cases: list[tuple[Path, dict[str, str], str]] = [
        (undisturbed, {"L2CACHE_WORKERS": "many"}, "L2CACHE_WORKERS='many': "),
        (undisturbed, {"L2CACHE_BIND": "host"}, "L2CACHE_BIND='host': expected HOST:PORT"),
        (undisturbed, {"PCGL2CACHE_URL_PREFIX": "é"}, "PCGL2CACHE_URL_PREFIX='é': expected letters"),
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


# ------------------------------------------------------------------ clients that do not behave
def exchange(server: Server, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send bytes as they are, and give all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause_s)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (f"GET /live?middle_auth_token={TOKEN} HTTP/9.9\r\n\r\n", 400),
        (f"GET /live HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\x01\r\n\r\n", 400),
        (f"GET /{'a' * 5000} HTTP/1.1\r\n\r\n", 414),
        (f"GET /live HTTP/1.1\r\nX-Large: {'a' * 9000}\r\n\r\n", 431),
        ("GET /live HTTP/1.1\r\nTransfer-Encoding: unknown\r\n\r\n", 501),
        ("GET /live HTTP/1.1\r\nExpect: something\r\n\r\n", 417),
    ],
)
def test_what_is_not_http_is_answered_as_other_errors_are(server: Server, request_: str, status: int) -> None:
    head, _, body = exchange(server, request_.encode()).partition(b"\r\n\r\n")
    content = json.loads(body)
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert f"X-Request-Id: {content['request_id']}".encode() in head
    assert {"code", "message", "request_id"} == content.keys()
    (line,) = [record for record in server.records if record.get("request_id") == content["request_id"]]
    assert line["level"] == "warning"
    assert TOKEN not in server.log


def test_slow_clients_keep_nobody_waiting(server: Server) -> None:
    """More of them than there are threads, which send a little, or nothing, or do not take their answer."""
    slow = []
    for start in (b"", b"GET /li", b"POST /l2cache/api/v1/table/sample/attributes HTTP/1.1\r\n") * 4:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        connection.sendall(start)
        slow.append(connection)
    assert requests.get(f"{server.url}/live", timeout=30).ok
    for connection in slow:
        with connection:
            assert connection.recv(1024) == b""
