"""Tests of nginx before two servers: slow clients, malformed requests, restarts, killed workers."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import requests
import yaml

from l2features.testing.server import ROOT, TOKEN, Server
from l2features.testing.small_table import DATASET, GEOMETRY, node_ids, small_table
from tests.support.attacks import (
    CHUNKED,
    GOOD,
    MAX_IDS,
    READ,
    connected,
    exchanged,
    head,
    is_error,
)
from tests.support.clients import CUT_OFF, Clients
from tests.support.intake import wait_for
from tests.support.jobs import need_program
from tests.support.nginx import HOW_TO_GET_IT, PROGRAM, Nginx

NODES, SLOW, KILLS = 2000, 100, 6
BODY_S, SEND_S = 4.0, 3.0
P99_S = 0.25
MIB = 1 << 20


class Pair:
    """Two servers of two workers each behind nginx."""

    def __init__(self, folder: Path) -> None:
        self.config, self.folder = small_table(folder, NODES), folder
        self.servers = [self.start(0), self.start(1)]
        times = {"L2CACHE_BODY_TIMEOUT_S": f"{BODY_S:g}", "L2CACHE_SEND_TIMEOUT_S": f"{SEND_S:g}"}
        self.nginx = Nginx(folder, [server.port for server in self.servers], times)

    def drain_file(self, number: int) -> Path:
        return self.folder / f"draining-{number}"

    def start(self, number: int, port: int | None = None) -> Server:
        env = {"L2CACHE_WORKERS": "2", "L2CACHE_DRAIN_FILE": str(self.drain_file(number))}
        return Server(self.config, env, log_file=self.folder / f"{time.monotonic_ns()}.log", port=port)

    def stop(self) -> None:
        self.nginx.stop()
        for server in self.servers:
            server.kill()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    need_program(PROGRAM, HOW_TO_GET_IT)
    pair = Pair(tmp_path_factory.mktemp("pair"))
    yield pair
    pair.stop()
    for log in pair.folder.glob("*.log"):
        assert "Traceback" not in log.read_text()


@pytest.fixture
def nginx(pair: Pair) -> Iterator[Nginx]:
    yield pair.nginx
    assert requests.post(f"{pair.nginx.url}{READ}", data=GOOD, timeout=20).status_code == 200


def p99(nginx: Nginx, reads: int = 200) -> float:
    """Return the 99th percentile, in seconds, of reads of a few ids by two clients."""

    def ask(session: requests.Session) -> list[float]:
        seconds = []
        for _ in range(reads // 2):
            begun = time.monotonic()
            assert session.post(f"{nginx.url}{READ}", data=GOOD, timeout=20).status_code == 200
            seconds.append(time.monotonic() - begun)
        return seconds

    with requests.Session() as one, requests.Session() as other, ThreadPoolExecutor(2) as pool:
        return float(np.percentile(np.concatenate(list(pool.map(ask, (one, other)))), 99))


# ------------------------------------------------------------------ slow clients
def slow_heads(nginx: Nginx) -> list[socket.socket]:
    starts = (b"", head()[:-2], head(method="GET", path="/live") + b"GET /li")
    return [connected(nginx, starts[i % 3]) for i in range(SLOW)]


def slow_bodies(nginx: Nginx) -> list[socket.socket]:
    starts = (head("Content-Length: 1000") + b"{", head(CHUNKED) + b"ff\r\n")
    return [connected(nginx, starts[i % 2]) for i in range(SLOW)]


def slow_readers(nginx: Nginx) -> list[socket.socket]:
    body = node_ids(NODES).tobytes()
    request = head("Content-Type: application/octet-stream", f"Content-Length: {len(body)}")
    clients = []
    for _ in range(SLOW):
        clients.append(connected(nginx, request, body, room=4096))
        assert clients[-1].recv(12) == b"HTTP/1.1 200"
    return clients


@pytest.mark.parametrize("slow", [slow_heads, slow_bodies, slow_readers])
def test_slow_clients_delay_no_other(nginx: Nginx, slow: Callable[[Nginx], list[socket.socket]]) -> None:
    """Take the least of three measurements, because load from other tests only adds to the time."""

    def p99_beside_them() -> float:
        with ExitStack() as stack:
            for client in slow(nginx):
                stack.enter_context(client)
            return p99(nginx)

    assert min(p99_beside_them() for _ in range(3)) <= P99_S


@pytest.mark.parametrize("slow", [slow_heads, slow_bodies])
def test_a_slow_sender_is_cut_off(nginx: Nginx, slow: Callable[[Nginx], list[socket.socket]]) -> None:
    begun = time.monotonic()
    for client in slow(nginx)[:6]:
        with client:
            received = b""
            while piece := client.recv(1000):
                received += piece
            assert received.count(b"HTTP/1.1 ") == received.count(b'"ok"')
    assert BODY_S - 0.5 < time.monotonic() - begun < 4 * BODY_S


def test_a_slow_reader_is_cut_off(pair: Pair, nginx: Nginx) -> None:
    first = np.uint64(GEOMETRY.layout.chunk_id(0, 0, 0))
    body = (first + np.arange(1, MAX_IDS + 1, dtype=np.uint64)).tobytes()
    path = f"{READ}?with_status=1"
    request = head("Content-Type: application/octet-stream", f"Content-Length: {len(body)}", path=path)
    with connected(nginx, request, body, room=4096) as client:
        start = client.recv(300)
        assert start.startswith(b"HTTP/1.1 200")
        length = int(re.findall(rb"(?i)content-length: (\d+)", start)[0])
        until = time.monotonic() + SEND_S
        while sum(server.metric("l2cache_requests_in_flight") for server in pair.servers) > 2:
            assert time.monotonic() < until, "a server is still sending"
        time.sleep(2 * SEND_S)
        received = 0
        while piece := client.recv(MIB):
            received += len(piece)
        assert received < length


# ------------------------------------------------------------------ malformed requests
@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        (["Content-Length: -5"], GOOD, 400, "bad_request"),
        (["Content-Length: 0x10"], GOOD, 400, "bad_request"),
        ([f"Content-Length: {10**30}"], GOOD, 400, "bad_request"),
        (["Content-Length: 5", f"Content-Length: {len(GOOD)}"], GOOD, 400, "bad_request"),
        ([f"Content-Length: {len(GOOD)}", CHUNKED], b"0\r\n\r\n", 400, "bad_request"),
        ([CHUNKED, CHUNKED], b"0\r\n\r\n", 400, "bad_request"),
        ([CHUNKED], b"zz\r\n", 400, "bad_request"),
        ([CHUNKED], b"2\r\n{}x\r\n0\r\n\r\n", 400, "bad_request"),
        (["X-Request-Id: a\r\n Set-Cookie: b"], b"", 400, "bad_request"),
        (["X-Request-Id: a\rSet-Cookie: b"], b"", 400, "bad_request"),
        (["X-Request-Id: a\0b"], b"", 400, "bad_request"),
        (["Transfer-Encoding: xchunked"], b"0\r\n\r\n", 501, "unsupported_transfer_coding"),
        (["Expect: something"], b"", 417, "expectation_failed"),
        ([f"Content-Length: {16 * MIB + 1}"], GOOD, 413, "body_too_large"),
        (["X: " + "a" * 9_000], b"", 431, "headers_too_large"),
        ([f"X-{i}: {'a' * 8_000}" for i in range(5)], b"", 431, "headers_too_large"),
    ],
)
def test_malformed_requests(nginx: Nginx, headers: list[str], body: bytes, status: int, code: str) -> None:
    is_error(exchanged(nginx, head(*headers), body), status, code)


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        (f"GET /live?middle_auth_token={TOKEN} HTTP/9.9", 400, "bad_request"),
        ("nonsense", 400, "bad_request"),
        ("TRACE /live HTTP/1.1", 405, "method_not_allowed"),
        (f"GET /{'a' * 4_080} HTTP/1.1", 404, "not_found"),
        (f"GET /{'a' * 4_081} HTTP/1.1", 414, "uri_too_long"),
        (f"GET /{'a' * 40_000} HTTP/1.1", 414, "uri_too_long"),
    ],
)
def test_request_lines(nginx: Nginx, line: str, status: int, code: str) -> None:
    is_error(exchanged(nginx, f"{line}\r\nHost: here\r\n\r\n".encode()), status, code)


def test_the_answer_reaches_a_client_that_is_still_sending(nginx: Nginx, tmp_path: Path) -> None:
    with (tmp_path / "body").open("wb") as body:
        body.truncate(80_000_000)
    for more in ([], ["-H", CHUNKED]):
        command = ["curl", "-sS", "-w", "%{http_code}", "--data-binary", f"@{body.name}", *more]
        ran = subprocess.run([*command, f"{nginx.url}{READ}"], capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout[-3:]) == (0, "413"), ran.stderr
        assert json.loads(ran.stdout[:-3])["limit"] == 16 * MIB


def test_a_session_continues_after_a_refused_request(nginx: Nginx) -> None:
    with requests.Session() as session:
        for size in (1000, 100_000, *[5 * MIB] * 20, 17 * MIB):
            for path in (READ, READ.replace(DATASET, "x")):
                answer = session.post(f"{nginx.url}{path}", data=b"x" * size, timeout=20)
                refused = 404 if path != READ else 400
                assert answer.status_code == (413 if size > 16 * MIB else refused)
                assert session.post(f"{nginx.url}{READ}", data=GOOD, timeout=20).status_code == 200


def test_a_request_id_is_passed_on(pair: Pair, nginx: Nginx) -> None:
    known = requests.get(f"{nginx.url}/nowhere", headers={"X-Request-Id": "my-request.1"}, timeout=20)
    assert known.headers["X-Request-Id"] == known.json()["request_id"] == "my-request.1"
    wait_for(lambda: any("my-request.1" in server.log for server in pair.servers))
    new = requests.get(f"{nginx.url}/nowhere", headers={"X-Request-Id": "no spaces"}, timeout=20)
    assert re.fullmatch("[0-9a-f]{32}", new.headers["X-Request-Id"])


# ------------------------------------------------------------------ restarts and killed workers
def drain(pair: Pair, number: int) -> None:
    """Run compose.yaml's preStop command; check that the server is not ready but still serves."""
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["api"]
    [step] = service["pre_stop"]
    command = [word.replace("$$", "$") for word in step["command"]]
    server = pair.servers[number]
    env = {**os.environ, "L2CACHE_DRAIN_FILE": str(pair.drain_file(number))}
    with subprocess.Popen(command, env=env) as draining:
        until = time.monotonic() + 2
        while (ready := requests.get(f"{server.url}/ready", timeout=20)).status_code != 503:
            assert time.monotonic() < until
        assert ready.json() == {"status": "draining", "datasets": {}}
        assert requests.get(f"{server.url}/live", timeout=20).ok
        assert requests.post(f"{server.url}{READ}", data=GOOD, timeout=20).ok
    assert draining.returncode == 0


def test_a_rolling_restart_fails_no_read(pair: Pair, nginx: Nginx) -> None:
    clients = Clients(nginx.api, node_ids(20), 4)
    for number in (0, 1):
        clients.wait_for(50)
        drain(pair, number)
        assert pair.servers[number].stop() == 0
        clients.wait_for(50)
        with clients.paced():
            pair.servers[number] = pair.start(number, pair.servers[number].port)
        assert requests.get(f"{pair.servers[number].url}/ready", timeout=20).status_code == 200
    clients.wait_for(50)
    clients.end()
    assert set(clients.outcomes) == {"200"}, clients.outcomes


def test_killed_workers_fail_no_read_whose_answer_had_not_begun(pair: Pair, nginx: Nginx) -> None:
    clients = Clients(nginx.api, node_ids(500), 4)
    for number in range(KILLS):
        clients.wait_for(20)
        victim = pair.servers[number % 2].workers[0]
        victim.kill()
        victim.wait(30)
    clients.wait_for(20)
    clients.end()
    assert set(clients.outcomes) <= {"200", CUT_OFF}, clients.outcomes
    assert clients.outcomes[CUT_OFF] < KILLS


def test_no_server_answers(tmp_path: Path) -> None:
    need_program(PROGRAM, HOW_TO_GET_IT)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # it does not listen
        alone = Nginx(tmp_path, [unused.getsockname()[1]])
        try:
            is_error(exchanged(alone, head(f"Content-Length: {len(GOOD)}"), GOOD), 502, "bad_gateway")
        finally:
            alone.stop()
