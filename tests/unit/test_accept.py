"""The Accept header: what clients send, and what they get."""

from __future__ import annotations

import pytest

from api.accept import accepted
from api.answers import ARROW, FORMS, JSON, PARQUET
from api.errors import ApiError
from l2features.testing.server import Server
from l2features.testing.small_table import DATASET
from tests.support.attacks import GOOD, READ, exchanged, genuine, head, is_error, server

__all__ = ["genuine", "server"]
API = "/l2cache/api/v1"
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize("header", [None, "", " ", ",", "*/*", "*", CHROME, "*; q=.2, text/html"])
@pytest.mark.parametrize("offered", [FORMS, (JSON,)])
def test_json_is_the_default(header: str | None, offered: tuple[str, ...]) -> None:
    assert accepted(header, offered) == JSON


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (JSON, JSON),
        (f"{JSON}; charset=utf-8", JSON),
        ("APPLICATION/Json", JSON),
        ("application/json, text/plain, */*", JSON),
        ("application/json, text/javascript, */*; q=0.01", JSON),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", JSON),
        ("application/*", JSON),
        ("application/*;q=0.1, text/csv", JSON),
        (ARROW, ARROW),
        (PARQUET, PARQUET),
        (f"{ARROW}, */*", ARROW),
        (f"*/*, {PARQUET}", PARQUET),
        (f"{ARROW}, {JSON}", JSON),
        (f"{JSON};q=0.5, {ARROW}", ARROW),
        (f"{JSON};q=0.5, {ARROW};q=0.4, {PARQUET};q=0.6", PARQUET),
        (f"{JSON};q=0, */*", ARROW),
        (f"{JSON};q=0, {ARROW};q=0.0, */*;q=0.1", PARQUET),
        (f"*/*;q=0, {ARROW}", ARROW),
        (f"application/*;q=0, {JSON} ; Q = 0.2", JSON),
        (f"{JSON};q=zz", JSON),
        (f"{JSON};q=", JSON),
    ],
)
def test_the_preferred_media_type(header: str, expected: str) -> None:
    assert accepted(header, FORMS) == expected


@pytest.mark.parametrize(
    "header",
    [
        *("text/html", "text/*", "text/csv, image/png", "application/vnd.apache.arrow.file", "nonsense"),
        *("*/*;q=0", "application/*;q=0", f"{JSON};q=0", f"{JSON};q=0.000", "json", "text/html,*/*;q=0"),
    ],
)
def test_not_acceptable(header: str) -> None:
    with pytest.raises(ApiError) as caught:
        accepted(header, FORMS)
    body = caught.value.body
    assert (caught.value.status, body.code, body.field, body.value) == (
        406,
        "not_acceptable",
        "Accept",
        header,
    )
    assert all(form in body.message for form in FORMS)


def test_a_long_header_is_shown_shortened() -> None:
    with pytest.raises(ApiError) as caught:
        accepted("text/html," * 5_000, FORMS)
    assert len(caught.value.body.message) < 500


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
