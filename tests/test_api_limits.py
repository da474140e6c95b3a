"""Attacks on the genuine server: each is answered rightly, in bounded memory, while others are served."""

from __future__ import annotations

import gzip
import http.client
import itertools
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import requests

from .conftest import need_program
from .server import ROOT, Server
from .table import DATASET, GEOMETRY, node_ids, small_table

MIB = 1 << 20
MAX_BODY, MAX_IDS = 16 * MIB, 250_000
ROOM = 100 * MIB
"""What an attack may add to the server's memory."""
READ = f"/l2cache/api/v1/table/{DATASET}/attributes"
BINARY = {"Content-Type": "application/octet-stream"}
GOOD = json.dumps({"l2_ids": node_ids(3).tolist()}).encode()
TURNS, THREADS, BODY_S, WAIT_S = 3, 8, 2.0, 4.0
TIGHT = {
    "L2CACHE_THREADS": str(THREADS),
    "L2CACHE_MAX_REQUESTS": str(TURNS),
    "L2CACHE_MAX_WAITING": "1",
    "L2CACHE_BODY_TIMEOUT_S": str(BODY_S),
    "L2CACHE_SEND_TIMEOUT_S": str(BODY_S),
    "L2CACHE_MAX_WAIT_S": str(WAIT_S),
    "L2CACHE_RETRY_AFTER_S": "3",
}


class Answer(NamedTuple):
    """What came back on a connection."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return json.loads(self.body)["code"]


def memory(server: Server) -> int:
    """Bytes that the server's workers hold (resident)."""
    return sum(worker.memory_info().rss for worker in server.workers)


def serves(server: Server) -> None:
    """A normal request is answered rightly, and at once."""
    answer = requests.post(f"{server.url}{READ}", data=GOOD, timeout=5)
    assert answer.status_code == 200
    assert list(answer.json()) == [str(i) for i in node_ids(3)]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_table(tmp_path_factory.mktemp("limits"))


def started(table: Path, log: Path, **env: str) -> Iterator[Server]:
    with Server(table, env, log_file=log) as server:
        serves(server)
        yield server
        assert not [record for record in server.records if "exc_info" in record]


@pytest.fixture(scope="module")
def genuine(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the default limits."""
    yield from started(table, tmp_path_factory.mktemp("log") / "genuine.log")


@pytest.fixture(scope="module")
def narrow(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has few turns and little patience."""
    yield from started(table, tmp_path_factory.mktemp("log") / "narrow.log", **TIGHT)


@pytest.fixture
def server(genuine: Server) -> Iterator[Server]:
    """After an attack, the server answers, and has not grown."""
    before = memory(genuine)
    yield genuine
    serves(genuine)
    assert memory(genuine) < before + ROOM


@pytest.fixture
def tight(narrow: Server) -> Iterator[Server]:
    yield narrow
    serves(narrow)


def connected(server: Server, *parts: bytes, room: int | None = None) -> socket.socket:
    """A connection on which this was sent, as far as the server took it; it has room for so many bytes."""
    connection = socket.socket()
    connection.settimeout(20)
    if room is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    connection.connect(("127.0.0.1", server.port))
    with suppress(BrokenPipeError):
        for part in parts:
            connection.sendall(part)
    return connection


def answer_on(connection: socket.socket) -> Answer:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def head(*headers: str, method: str = "POST", path: str = READ) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: here", *headers, "", ""]).encode("latin-1")


def exchanged(server: Server, *parts: bytes) -> Answer:
    with connected(server, *parts) as connection:
        return answer_on(connection)


def is_error(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.code) == (status, code), answer
    assert answer.headers["x-request-id"] == json.loads(answer.body)["request_id"]
    assert str(ROOT).encode() not in answer.body
    assert b"Traceback" not in answer.body


# ------------------------------------------------------------------ size
def bomb(size: int) -> bytes:
    """A gzip file of so many zeros."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([packer.compress(b"\0" * MIB) for _ in range(size // MIB)] + [packer.flush()])


def test_a_bomb_of_a_gigabyte(server: Server) -> None:
    body = bomb(1 << 30)
    assert len(body) < 2 * MIB
    for headers in ({}, BINARY):
        answer = requests.post(
            f"{server.url}{READ}", body, headers={**headers, "Content-Encoding": "gzip"}, timeout=20
        )
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert answer.json()["limit"] == MAX_BODY


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (gzip.compress(bomb(64 * MIB)), 400, "not_json"),
        (gzip.compress(b"") * 500_000, 400, "not_gzip"),
        (gzip.compress(b" " * MIB) * 20, 413, "body_too_large"),
        (gzip.compress(GOOD)[:-4], 400, "not_gzip"),
        (GOOD, 400, "not_gzip"),
    ],
    ids=["bomb in a file", "members", "large members", "truncated", "not packed"],
)
def test_gzip(server: Server, body: bytes, status: int, code: str) -> None:
    is_error(
        exchanged(server, head(f"Content-Length: {len(body)}", "Content-Encoding: gzip"), body), status, code
    )


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd", "\xff"])
def test_other_encodings(server: Server, encoding: str) -> None:
    request = head(f"Content-Length: {len(GOOD)}", f"Content-Encoding: {encoding}")
    is_error(exchanged(server, request, GOOD), 415, "unsupported_encoding")


class Endless:
    """A body of a length that it does not have at hand, and what of it was taken."""

    def __init__(self, length: int) -> None:
        self.length, self.taken = length, 0
        self.piece = (b"144185556820033537," * (MIB // 19 + 1))[:MIB]

    def __len__(self) -> int:
        return self.length

    def read(self, size: int) -> bytes:
        piece = self.piece[: min(size, self.length - self.taken)]
        self.taken += len(piece)
        return piece

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(MIB):
            yield piece


@pytest.mark.parametrize(("size", "headers"), [(200 * MIB, {}), (80_000_000, BINARY)], ids=["JSON", "buffer"])
@pytest.mark.parametrize("chunked", [False, True], ids=["by length", "in chunks"])
def test_ten_million_ids(server: Server, size: int, headers: dict[str, str], chunked: bool) -> None:
    """The client gets the answer, though it is still sending."""
    body = Endless(size)
    data: Any = iter(body) if chunked else body
    answer = requests.post(f"{server.url}{READ}", data=data, headers=headers, timeout=20)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert answer.headers["Connection"] == "close"
    assert body.taken < size / 2


def test_curl_gets_the_answer_too(server: Server, tmp_path: Path) -> None:
    need_program(shutil.which("curl"), "curl is not installed: get it from the system's packages")
    with (tmp_path / "body").open("wb") as body:
        body.truncate(80_000_000)
    command = ["curl", "-sS", "-w", "%{http_code}", "--data-binary", f"@{body.name}", f"{server.url}{READ}"]
    command += ["-H", "Content-Type: application/json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stdout[-3:]) == (0, "413"), ran.stderr


def test_a_session_goes_on_after_a_request_that_was_not_read(server: Server) -> None:
    with requests.Session() as session:
        for size, path in itertools.product(
            (1000, 100_000, 5 * MIB, 17 * MIB), (READ, READ.replace(DATASET, "x"))
        ):
            answer = session.post(f"{server.url}{path}", data=b"x" * size, timeout=20)
            assert answer.status_code == (404 if path != READ else 413 if size > MAX_BODY else 400)
            assert session.post(f"{server.url}{READ}", data=GOOD, timeout=20).status_code == 200


def test_too_many_ids(server: Server) -> None:
    ids = np.full(MAX_IDS + 1, node_ids(1)[0])
    for data, headers in ((ids.tobytes(), BINARY), (json.dumps({"l2_ids": ids.tolist()}), {})):
        answer = requests.post(f"{server.url}{READ}", data=data, headers=headers, timeout=20)
        assert (answer.status_code, answer.json()["code"], answer.json()["limit"]) == (
            413,
            "too_many_ids",
            MAX_IDS,
        )


@pytest.mark.parametrize("item", [b"[],", b"{},", b'{"":{}},', b"[[[[]]]],", b'"",', b"0.5,", b"null,"])
def test_json_of_many_small_values(server: Server, item: bytes) -> None:
    body = b'{"l2_ids":[' + item * ((MAX_BODY - 20) // len(item)) + b"1]}"
    is_error(exchanged(server, head(f"Content-Length: {len(body)}"), body), 413, "too_many_ids")


@pytest.mark.parametrize(
    "body", [b"[" * 10**6, b'{"a":' * 10**6, b'{"l2_ids":' + b"[" * 10**5 + b"]" * 10**5 + b"}"]
)
def test_deep_json(server: Server, body: bytes) -> None:
    answer = exchanged(server, head(f"Content-Length: {len(body)}"), body)
    assert (answer.status, answer.code) in {(400, "not_json"), (413, "too_many_ids")}


@pytest.mark.parametrize(
    ("ids", "status"),
    [
        (["1.5"], 422),
        (["-1", "5"], 422),
        (["18446744073709551616"], 422),
        (["-9223372036854775809"], 422),
        (["1e400"], 400),
        (["NaN"], 400),
        (['"144185556820033537x"'], 422),
        (["[[{}]]"], 422),
        (["true"], 422),
    ],
)
def test_what_is_no_id(server: Server, ids: list[str], status: int) -> None:
    body = f'{{"l2_ids":[{",".join(ids)}]}}'.encode()
    answer = exchanged(server, head(f"Content-Length: {len(body)}"), body)
    is_error(answer, status, "not_an_id" if status == 422 else "not_json")


# ------------------------------------------------------------------ HTTP
CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        (["Content-Length: -5"], GOOD, 400, "bad_request"),
        (["Content-Length: +5"], GOOD, 400, "bad_request"),
        (["Content-Length: 0x10"], GOOD, 400, "bad_request"),
        (["Content-Length: 5", f"Content-Length: {len(GOOD)}"], GOOD, 400, "bad_request"),
        ([f"Content-Length: {len(GOOD)}", CHUNKED], b"0\r\n\r\n", 400, "bad_request"),
        ([CHUNKED, CHUNKED], b"0\r\n\r\n", 400, "bad_request"),
        (["Transfer-Encoding: xchunked"], b"0\r\n\r\n", 501, "unsupported_transfer_coding"),
        ([f"Content-Length: {10**30}"], GOOD, 413, "body_too_large"),
        ([f"Content-Length: {len(GOOD) - 5}"], GOOD, 400, "not_json"),
        ([CHUNKED], b"zz\r\n", 400, "bad_body"),
        ([CHUNKED], b"-1\r\n", 400, "bad_body"),
        ([CHUNKED], b"2\r\n{}x\r\n0\r\n\r\n", 400, "bad_body"),
        ([CHUNKED], b"1;" + b"a" * 20_000, 400, "bad_body"),
        (["X: " + "a" * 40_000], b"", 431, "headers_too_large"),
        ([f"X-{i}: 1" for i in range(100)], b"", 431, "headers_too_large"),
    ],
)
def test_lengths_that_lie(server: Server, headers: list[str], body: bytes, status: int, code: str) -> None:
    """Whatever follows on such a connection is not taken for a request."""
    with connected(server, head(*headers), body + head(method="GET", path="/live")) as connection:
        is_error(answer_on(connection), status, code)
        if status != 400 or code != "not_json":
            assert connection.recv(1) == b""


def test_a_body_in_chunks(server: Server) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (GOOD[:7], GOOD[7:])) + b"0\r\n\r\n"
    assert exchanged(server, head(CHUNKED), chunks).status == 200


def test_a_body_that_ends_too_early(server: Server) -> None:
    buffer = node_ids(3).tobytes()
    for request in (
        head("Content-Length: 24", "Content-Type: application/octet-stream"),
        head("Content-Length: 99"),
    ):
        with connected(server, request, buffer[:16]) as connection:
            connection.shutdown(socket.SHUT_WR)
            is_error(answer_on(connection), 400, "body_incomplete")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "HEAD", "GET"])
def test_methods(server: Server, method: str) -> None:
    answer = requests.request(method, f"{server.url}{READ}", timeout=20)
    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}
    assert method == "HEAD" or answer.json()["code"] == "method_not_allowed"


NAMES = [
    "..%2f..%2fetc%2fpasswd",
    "%00",
    f"{DATASET}%00",
    "a" * 3500,
    "%C3%BC",
    "%ff%fe",
    f"{DATASET};x",
    "%20",
]
NAMES += [
    f"{DATASET}%20",
    f"../{DATASET}",
    f"x/../{DATASET}",
    f"{DATASET}%0d%0aX:1",
    "{dataset}",
    "%",
    "%zz",
    "__class__",
]
NAMES += [
    DATASET.upper(),
    ".",
    "..",
    "%2e%2e",
    "'or'1'='1",
    "$(id)",
    "%E2%80%AE",
    "//",
    f"{DATASET}%2fattributes%2f",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_data_sets(server: Server, name: str) -> None:
    for method, path in (
        ("POST", f"/l2cache/api/v1/table/{name}/attributes"),
        ("GET", f"/l2cache/api/v1/table/{name}"),
    ):
        length = f"Content-Length: {len(GOOD)}" if method == "POST" else "X: x"
        answer = exchanged(server, head(length, method=method, path=path), GOOD if method == "POST" else b"")
        assert answer.status in (404, 405), answer
        assert answer.code in ("unknown_dataset", "not_found", "method_not_allowed")
        assert not re.search(rb"/(tmp|work|root|usr|home|etc/passwd\b.*:)", answer.body)
        assert len(answer.body) < 1000


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ("wait=1e9", 422, "wait"),
        ("wait=-1", 422, "wait"),
        ("wait=nan", 422, "wait"),
        ("wait=inf", 422, "wait"),
        ("wait=abc", 422, "wait"),
        ("wait=", 422, "wait"),
        ("attribute_names=%ff", 422, "attribute_names"),
        ("attribute_names=size_nm3%00", 422, "attribute_names"),
        ("attribute_names=size_nm3%0a", 422, "attribute_names"),
        ("attribute_names=,", 422, "attribute_names"),
        ("attribute_names=" + "%20" * 1000 + "x", 422, "attribute_names"),
        ("attribute_names=" + ",".join(["pca"] * 100_000), 431, None),
        ("attribute_names=" + ",".join(["pca"] * 2000), 414, None),
        ("attribute_names=" + ",".join(["pca"] * 900), 200, None),
        ("attribute_names=pca&attribute_names=x", 200, None),
        ("int64_as_str=%ff%00&update_cache=&with_status=maybe", 200, None),
        ("%ff=%fe&=&=&&&a=" + "&b=" * 1000, 200, None),
    ],
)
def test_parameters(server: Server, query: str, status: int, field: str | None) -> None:
    answer = exchanged(server, head(f"Content-Length: {len(GOOD)}", path=f"{READ}?{query}"), GOOD)
    assert answer.status == status, answer
    assert json.loads(answer.body).get("field") == field
    assert len(answer.body) < 2000


@pytest.mark.parametrize(
    "header", ["X-Request-Id: a\xff", "X-Request-Id: " + "a" * 500, "Accept: \xff/;;q=zz,,*"]
)
def test_headers_that_make_no_sense(server: Server, header: str) -> None:
    answer = exchanged(server, head(f"Content-Length: {len(GOOD)}", header), GOOD)
    assert answer.status == 200
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_a_request_id_does_not_make_a_header(server: Server) -> None:
    for trick in ("a\r\n Set-Cookie: b", "a\rSet-Cookie: b", "a\0b"):
        answer = exchanged(server, head(f"X-Request-Id: {trick}", method="GET", path="/live"))
        assert answer.status == 400
        assert "set-cookie" not in answer.headers


# ------------------------------------------------------------------ slow clients, and many
@pytest.fixture
def clients() -> Iterator[Callable[..., list[socket.socket]]]:
    """Opens connections that send a byte now and then, until the test ends."""
    ended = threading.Event()
    with ThreadPoolExecutor() as pool, ExitStack() as stack:
        stack.callback(ended.set)

        def drip(connections: list[socket.socket]) -> None:
            while not ended.wait(0.2):
                for connection in connections:
                    try:
                        connection.send(b"a")
                    except OSError:
                        continue

        def slow(server: Server, count: int, start: bytes) -> list[socket.socket]:
            connections = [stack.enter_context(connected(server, start)) for _ in range(count)]
            pool.submit(drip, connections)
            return connections

        yield slow


SLOW_BODY = head("Content-Length: 1000") + b"{"


def test_a_slow_body(tight: Server, clients: Callable[..., list[socket.socket]]) -> None:
    begun = time.monotonic()
    [in_length, in_chunks] = clients(tight, 1, SLOW_BODY) + clients(tight, 1, head(CHUNKED) + b"ff\r\n")
    serves(tight)
    for connection in (in_length, in_chunks):
        is_error(answer_on(connection), 408, "body_too_slow")
    assert BODY_S <= time.monotonic() - begun < 4 * BODY_S


def test_as_many_slow_bodies_as_turns(tight: Server, clients: Callable[..., list[socket.socket]]) -> None:
    """Reads are refused at once while they last, also where there are more of them than threads."""
    slow = clients(tight, 3 * THREADS, SLOW_BODY)
    begun = time.monotonic()
    refused = requests.post(f"{tight.url}{READ}", data=GOOD, timeout=20)
    assert requests.get(f"{tight.url}/live", timeout=20).ok
    assert requests.get(f"{tight.api}/table/{DATASET}", timeout=20).ok
    assert time.monotonic() - begun < BODY_S / 2
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    assert refused.headers["Retry-After"] == "3"
    statuses = Counter(answer_on(connection).status for connection in slow)
    assert statuses == {408: TURNS, 429: 3 * THREADS - TURNS}


@pytest.mark.parametrize("start", [b"", head()[:-2], head(method="GET", path="/live") + b"GET /li"])
def test_slow_heads(tight: Server, clients: Callable[..., list[socket.socket]], start: bytes) -> None:
    slow = clients(tight, 5 * THREADS, start)
    begun = time.monotonic()
    for _ in range(5):
        serves(tight)
    assert time.monotonic() - begun < BODY_S / 2
    for connection in slow:
        received = b""
        while piece := connection.recv(1000):
            received += piece
        assert received.count(b"HTTP/1.1") == start.endswith(b"/li")


def test_a_large_head_that_does_not_end(tight: Server) -> None:
    pieces = [head()[:-2]] + [b"X: " + b"a" * 8000 + b"\r\n"] * 5
    is_error(exchanged(tight, *pieces), 431, "headers_too_large")


def test_clients_that_do_not_take_their_answer(tight: Server) -> None:
    ids = (
        np.uint64(GEOMETRY.layout.chunk_id(0, 0, 0)) + np.arange(1, MAX_IDS + 1, dtype=np.uint64)
    ).tobytes()
    request = head(
        "Content-Type: application/octet-stream", f"Content-Length: {len(ids)}", path=f"{READ}?with_status=1"
    )
    with ExitStack() as stack:
        for _ in range(2 * TURNS):
            stack.enter_context(connected(tight, request, ids, room=4096))
        until = time.monotonic() + 8 * BODY_S
        while requests.post(f"{tight.url}{READ}", data=GOOD, timeout=20).status_code != 429:
            assert time.monotonic() < until, "their answers are not waited for"
        assert requests.get(f"{tight.url}/live", timeout=20).ok
        while requests.post(f"{tight.url}{READ}", data=GOOD, timeout=20).status_code != 200:
            assert time.monotonic() < until, "their turns do not end"
            time.sleep(0.1)


def test_more_who_wait_than_may(tight: Server) -> None:
    """One may wait; another is told to come again; a third, who does not wait, is served."""
    body = {"l2_ids": [GEOMETRY.layout.chunk_id(0, 0, 0) + 9]}
    url = f"{tight.url}{READ}?wait={WAIT_S / 2}"

    def ask(_number: int) -> requests.Response:
        return requests.post(url, json=body, timeout=20)

    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(ask, range(2))
        serves(tight)
        statuses = {answer.status_code: answer for answer in answers}
    assert set(statuses) == {200, 429}
    assert statuses[429].headers["Retry-After"] == "3"


def test_memory_is_bounded_under_many_attacks_at_once(server: Server) -> None:
    packed, small = bomb(128 * MIB), b'{"l2_ids":[' + b"[]," * (MAX_BODY // 3 - 10) + b"1]}"
    peak, ended = [memory(server)], threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            peak.append(memory(server))

    def attack(number: int) -> int:
        data, headers = (packed, {"Content-Encoding": "gzip"}) if number % 2 else (small, {})
        return requests.post(f"{server.url}{READ}", data=data, headers=headers, timeout=60).status_code

    with ThreadPoolExecutor(17) as pool:
        watching = pool.submit(watch)
        statuses = set(pool.map(attack, range(32)))
        serves(server)
        ended.set()
        watching.result()
    assert statuses == {413}
    assert max(peak) < peak[0] + 16 * 3 * MAX_BODY
    assert psutil.pid_exists(server.process.pid)
