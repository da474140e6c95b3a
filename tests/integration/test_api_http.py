"""Tests of invalid requests to gunicorn without nginx: lengths, methods, names and parameters."""

from __future__ import annotations

import json
import re
import socket

import pytest
import requests

from api.response_bodies import ARROW, JSON, PARQUET
from l2features.testing.server import Server
from l2features.testing.small_table import DATASET, node_ids
from tests.support.attacks import (
    CHUNKED,
    GOOD,
    READ,
    answer_on,
    connected,
    exchanged,
    genuine,
    head,
    is_error,
    server,
)
from tests.support.body import CHROME

__all__ = ["genuine", "server"]
API = "/l2cache/api/v1"


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        (["Content-Length: -5"], GOOD, 400, None),
        (["Content-Length: +5"], GOOD, 400, None),
        (["Content-Length: 0x10"], GOOD, 400, None),
        (["Content-Length: 5", f"Content-Length: {len(GOOD)}"], GOOD, 400, None),
        ([f"Content-Length: {len(GOOD)}", CHUNKED], b"0\r\n\r\n", 400, None),
        ([CHUNKED, CHUNKED], b"0\r\n\r\n", 400, None),
        (["Transfer-Encoding: xchunked"], b"0\r\n\r\n", 501, None),
        ([f"Content-Length: {10**30}"], GOOD, 413, "body_too_large"),
        ([f"Content-Length: {len(GOOD) - 5}"], GOOD, 400, "not_json"),
        ([CHUNKED], b"zz\r\n", 400, "bad_body"),
        ([CHUNKED], b"-1\r\n", 400, "bad_body"),
        ([CHUNKED], b"2\r\n{}x\r\n0\r\n\r\n", 400, "bad_body"),
        ([CHUNKED], b"1;" + b"a" * 20_000, 400, "bad_body"),
        (["X: " + "a" * 40_000], b"", 431, None),
        ([f"X-{i}: 1" for i in range(100)], b"", 431, None),
    ],
)
def test_false_lengths(
    server: Server, headers: list[str], body: bytes, status: int, code: str | None
) -> None:
    """Only a too small Content-Length may leave the connection open. gunicorn's errors have no ``code``."""
    with connected(server, head(*headers), body + head(method="GET", path="/live")) as connection:
        answer = answer_on(connection)
        if code is None:
            assert answer.status == status
        else:
            is_error(answer, status, code)
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
        ("attribute_names=" + ",".join(["pca"] * 900), 200, None),
        ("attribute_names=pca&attribute_names=x", 422, "attribute_names"),
        ("attribute_names=pca&attribute_names=", 422, "attribute_names"),
        ("attributes=pca", 422, "attributes"),
        ("attribute=pca", 422, "attribute"),
        ("attribute_name=pca", 422, "attribute_name"),
        ("with-status=true", 422, "with-status"),
        ("attribute_names=pca&attribute_name=pca", 422, "attribute_name"),
        ("with-status=true&attribute_names=x", 422, "with-status"),
        ("withstatus=true&Attributes=x&attributs=x&names=x&is_binary=true", 200, None),
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


# ------------------------------------------------------------------ the Accept header
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", READ),
        ("GET", f"{API}/table/{DATASET}"),
        ("GET", f"{API}/attribute_metadata"),
        ("GET", f"{API}/table_mapping"),
    ],
)
def test_the_server_answers_406_in_json(server: Server, method: str, path: str) -> None:
    length, body = (f"Content-Length: {len(GOOD)}", GOOD) if method == "POST" else ("X: x", b"")
    refused = exchanged(server, head(length, "Accept: text/html", method=method, path=path), body)
    is_error(refused, 406, "not_acceptable")
    assert refused.headers["content-type"] == JSON
    for accept in (CHROME, "*/*", JSON, "text/html", "application/*"):
        answer = exchanged(server, head(length, f"Accept: {accept}", method=method, path=path), body)
        assert answer.status == (406 if accept == "text/html" else 200)


def test_a_description_has_no_columnar_form(server: Server) -> None:
    for form in (ARROW, PARQUET):
        path = f"{API}/table/{DATASET}"
        is_error(
            exchanged(server, head(f"Accept: {form}", method="GET", path=path), b""), 406, "not_acceptable"
        )
