"""Tests of Accept headers and the media types they select."""

from __future__ import annotations

import pytest

from api.accept import accepted
from api.error_responses import ApiError
from api.response_bodies import ARROW, FORMS, JSON, PARQUET
from tests.support.body import CHROME


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
