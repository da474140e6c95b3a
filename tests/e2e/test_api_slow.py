"""Clients that are slow, and more of them than there are turns: the others are served meanwhile."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
import requests

from l2features.testing.server import Server
from l2features.testing.small_table import DATASET, GEOMETRY
from tests.support.attacks import (
    CHUNKED,
    GOOD,
    MAX_IDS,
    READ,
    answer_on,
    connected,
    exchanged,
    head,
    is_error,
    serves,
    started,
)

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


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has few turns and little patience."""
    yield from started(tmp_path_factory.mktemp("narrow"), **TIGHT)


@pytest.fixture
def tight(narrow: Server) -> Iterator[Server]:
    yield narrow
    serves(narrow)


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
