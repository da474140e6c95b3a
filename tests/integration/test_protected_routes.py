"""Tests of the routes that need a token, and of tokens in the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Flask, url_for

from api import cave
from api.app import create_app
from api.auth import log_who_may_ask, protect, without_secrets
from l2features.core.errors import ConfigError
from tests.support.jobs import dataset_file

API = "/l2cache/api/v1"


def test_all_routes_but_the_open_ones_need_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPH_L2CACHE_CONFIG_PATH", str(dataset_file(tmp_path, tmp_path / "segmentation")))
    app = create_app()

    def values(arguments: set[str]) -> dict[str, Any]:
        return dict.fromkeys(arguments, "nope")

    with app.test_request_context():
        requests_ = [
            (url_for(rule.endpoint, **values(rule.arguments)), method)
            for rule in app.url_map.iter_rules()
            for method in (rule.methods or set()) - {"OPTIONS"}
        ]
    open_: set[str] = set()
    asked: set[str] = set()
    for url, method in requests_:
        answer = app.test_client().open(url, method=method, headers={"X-Requested-With": "x"})
        (asked if answer.status_code == 401 else open_).add(url)
    health = {"/live", "/ready", "/metrics"}
    pages = {"/", "/l2cache/", "/l2cache/index", "/l2cache/static/nope", "/viewer/", "/viewer/assets/nope"}
    assert open_ == {*health, "/auth_info", *(API + path for path in health), *pages}
    below = {"/", "/index", "/attribute_metadata", "/table_mapping", "/openapi.json", "/table/nope"}
    assert {API + path for path in {*below, "/docs/", "/table/nope/attributes"}} <= asked


def test_the_log_says_who_checks_tokens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("middle_auth_client.decorators.AUTH_DISABLED", False)
    monkeypatch.setattr("middle_auth_client.decorators.AUTH_URL", "localhost:5000/auth")
    log_who_may_ask()
    assert caplog.messages == ["AUTH_URL is not set: tokens are checked by https://localhost:5000/auth"]


def test_cave_needs_disabled_authentication(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cave, "auth_disabled", lambda: False)
    with pytest.raises(ConfigError, match="expected AUTH_DISABLED=true"):
        cave.create_app()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/a?x=1&middle_auth_token=abc", "/a?x=1&middle_auth_token=…"),
        ("middle_auth_token=abc&x=token", "middle_auth_token=…&x=token"),
        ("http://h/a?token=abc&y=#z", "http://h/a?token=…&y=#z"),
        ("/a?middle%5Fauth%5Ftoken=abc", "/a?middle%5Fauth%5Ftoken=…"),
        ("GET /a?token=a=b%20c HTTP/1.1", "GET /a?token=… HTTP/1.1"),
        ("/table/token/attributes?token", "/table/token/attributes?token"),
    ],
)
def test_without_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_routes_registered_later_are_protected_too() -> None:
    app = Flask(__name__)
    app.add_url_rule("/open", "open", lambda: "open")
    protect(app, open_endpoints=["open"])
    app.add_url_rule("/later", "later", lambda: "later")
    client, program = app.test_client(), {"X-Requested-With": "x"}
    assert client.get("/open", headers=program).text == "open"
    assert client.get("/later", headers=program).status_code == 401
    assert client.options("/later", headers=program).status_code == 200
    assert client.get("/nowhere", headers=program).status_code == 404


def test_what_cannot_be_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'typo'"):
        protect(Flask(__name__), open_endpoints=["typo"])
    monkeypatch.setattr("middle_auth_client.decorators.AUTH_URL", "https://auth.example.org")
    with pytest.raises(ConfigError, match="without https://"):
        protect(Flask(__name__), open_endpoints=[])
