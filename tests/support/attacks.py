"""Helpers that send hostile requests over sockets and check the answers."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import requests

from l2features.testing.server import ROOT, Server
from l2features.testing.small_table import DATASET, node_ids, small_table
from tests.support.nginx import Nginx

MIB = 1 << 20
MAX_IDS = 250_000
"""The default limit on a request's ids."""
READ = f"/l2cache/api/v1/table/{DATASET}/attributes"
BINARY = {"Content-Type": "application/octet-stream"}
GOOD = json.dumps({"l2_ids": node_ids(3).tolist()}).encode()
CHUNKED = "Transfer-Encoding: chunked"
ROOM = 100 * MIB
"""Memory that an attack may add to the server."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return json.loads(self.body)["code"]


def memory(server: Server) -> int:
    """Return the resident memory of the server's workers, in bytes."""
    return sum(worker.memory_info().rss for worker in server.workers)


def serves(server: Server) -> None:
    """Assert that a normal request is answered correctly within 5 s."""
    answer = requests.post(f"{server.url}{READ}", data=GOOD, timeout=5)
    assert answer.status_code == 200
    assert list(answer.json()) == [str(i) for i in node_ids(3)]


def started(folder: Path, **env: str) -> Iterator[Server]:
    """Yield a server of a small table in ``folder``; it must log no traceback."""
    with Server(small_table(folder), env) as server:
        serves(server)
        yield server
        assert not [record for record in server.records if "exc_info" in record]


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the default limits."""
    yield from started(tmp_path_factory.mktemp("genuine"))


@pytest.fixture
def server(genuine: Server) -> Iterator[Server]:
    """Yield the server; after the test, check that it answers and that its memory is bounded."""
    before = memory(genuine)
    yield genuine
    serves(genuine)
    assert memory(genuine) < before + ROOM


def connected(server: Server | Nginx, *parts: bytes, room: int | None = None) -> socket.socket:
    """Connect, and send parts until the server closes. ``room`` is the receive buffer's size in bytes."""
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


def exchanged(server: Server | Nginx, *parts: bytes) -> Answer:
    with connected(server, *parts) as connection:
        return answer_on(connection)


def is_error(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.code) == (status, code), answer
    assert answer.headers["x-request-id"] == json.loads(answer.body)["request_id"]
    assert str(ROOT).encode() not in answer.body
    assert b"Traceback" not in answer.body
