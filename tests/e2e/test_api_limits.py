"""Tests of request bodies that are too large, compressed or have too many values."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests

from l2features.testing.server import Server
from l2features.testing.small_table import GEOMETRY, node_ids, small_table
from tests.support.attacks import (
    BINARY,
    GOOD,
    MAX_IDS,
    MIB,
    READ,
    exchanged,
    genuine,
    head,
    is_error,
    memory,
    server,
    serves,
)

__all__ = ["genuine", "server"]
MAX_BODY = 16 * MIB


def bomb(size: int) -> bytes:
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


@pytest.mark.parametrize("headers", [{}, BINARY], ids=["JSON", "buffer"])
@pytest.mark.parametrize("chunked", [False, True], ids=["by length", "in chunks"])
def test_a_body_over_the_limit(server: Server, headers: dict[str, str], chunked: bool) -> None:
    body = b"144185556820033537," * (MAX_BODY // 19 + 1)
    data: Any = (body[i : i + MIB] for i in range(0, len(body), MIB)) if chunked else body
    answer = requests.post(f"{server.url}{READ}", data=data, headers=headers, timeout=20)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


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
        (["1e400"], 422),
        (["NaN"], 400),
        (['"144185556820033537x"'], 422),
        (["[[{}]]"], 422),
        (["true"], 422),
    ],
)
def test_invalid_ids(server: Server, ids: list[str], status: int) -> None:
    body = f'{{"l2_ids":[{",".join(ids)}]}}'.encode()
    answer = exchanged(server, head(f"Content-Length: {len(body)}"), body)
    is_error(answer, status, "not_an_id" if status == 422 else "not_json")


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


def test_more_waiting_requests_than_permits(tmp_path: Path) -> None:
    body = {"l2_ids": [GEOMETRY.layout.chunk_id(0, 0, 0) + 9]}
    env = {"L2CACHE_MAX_WAITING": "1", "L2CACHE_RETRY_AFTER_S": "3"}
    with Server(small_table(tmp_path), env) as narrow:

        def ask(_number: int) -> requests.Response:
            return requests.post(f"{narrow.url}{READ}?wait=4", json=body, timeout=20)

        with ThreadPoolExecutor(2) as pool:
            answers = pool.map(ask, range(2))
            serves(narrow)
            by_status = {answer.status_code: answer for answer in answers}
    assert set(by_status) == {200, 429}
    assert by_status[429].headers["Retry-After"] == "3"
