"""Tests of the request log: one line when a response is closed, and no reference to the response."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder

from api.observe import observe
from l2features.testing.small_table import small_table
from tests.support.api_app import client_of

FILE = "/l2cache/static/page.css"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    return client_of(small_table(tmp_path_factory.mktemp("logged")))


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", FILE, {}, 200),
        ("HEAD", FILE, {}, 200),
        ("GET", FILE, {"Range": "bytes=0-9"}, 206),
        ("GET", FILE, {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}, 304),
        ("GET", "/l2cache/api/v1/table_mapping", {}, 302),
        ("HEAD", "/nowhere", {}, 404),
        ("OPTIONS", "/l2cache/api/v1/table_mapping", {}, 200),
    ],
)
def test_each_request_is_logged_once(
    client: FlaskClient,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
) -> None:
    with caplog.at_level(logging.INFO, logger="l2features.api.access"):
        answer = client.open(path, method=method, headers=headers, buffered=True)
    assert answer.status_code == status
    [line] = [record.__dict__ for record in caplog.records if record.message == "request"]
    assert (line["method"], line["status"]) == (method, status)
    assert line["request_id"] == answer.headers["X-Request-Id"]


def test_a_response_is_freed_once_it_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """A reference cycle would keep bodies of many MB until the next full garbage collection."""
    app, made = Flask(__name__), []
    observe(app, [])

    @app.get("/")
    def view() -> Response:
        response = Response([b"body"])
        made.append(weakref.ref(response))
        return response

    def start(*_: Any) -> Any: ...

    gc.disable()
    try:
        with caplog.at_level(logging.INFO, logger="l2features.api.access"):
            answer: Any = app.wsgi_app(EnvironBuilder("/").get_environ(), start)
            assert (b"".join(answer), len(caplog.records)) == (b"body", 0)
            answer.close()
            del answer
        assert len(caplog.records) == 1
        assert [reference() for reference in made] == [None]
    finally:
        gc.enable()
