"""Bodies that are too large, packed or of too many values: each is refused rightly, in bounded memory."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
import subprocess
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests

from l2features.testing.server import Server
from l2features.testing.small_table import DATASET, node_ids
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
from tests.support.jobs import need_program

__all__ = ["genuine", "server"]
MAX_BODY = 16 * MIB


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
        (["1e400"], 422),
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
