"""Tests of the server's pages: who may see them, and the commands they suggest."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
import requests

from l2features.testing.auth_server import NOBODY, VIEWER, AuthServer
from l2features.testing.server import Server
from l2features.testing.small_table import DATASET
from tests.support.busy_table import busy_table

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
TABLE = "fixture_v2"
"""A table that the fake authentication service knows."""


@pytest.fixture(scope="module")
def auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthServer]:
    auth = AuthServer(tmp_path_factory.mktemp("auth"))
    yield auth
    auth.stop()


@pytest.fixture(scope="module")
def server(auth: AuthServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server with authentication, one table that the auth service knows and one unknown table."""
    config = busy_table(tmp_path_factory.mktemp("served"))
    entry = json.loads(config.read_text())[DATASET]
    config.write_text(json.dumps({TABLE: entry, "private": entry}))
    with Server(config, {"AUTH_DISABLED": "false", **auth.environment}) as server:
        yield server


def bearer(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def get(server: Server, path: str, token: str | None = None, **headers: str) -> requests.Response:
    sent = {**headers, **bearer(token)}
    return requests.get(f"{server.url}/l2cache/{path}", headers=sent, allow_redirects=False, timeout=60)


ROUTES = (
    "table/{}",
    "api/v1/table/{}/dashboard",
    "api/v1/table/{}/dashboard/cell?plane=xy&column=0&row=0",
)
VISITORS: list[dict[str, str]] = [{}, BROWSER, {"X-Requested-With": "x"}]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("headers", VISITORS, ids=["curl", "browser", "program"])
@pytest.mark.parametrize("table", [TABLE, "private"])
def test_every_route_refuses_as_the_attributes_do(
    server: Server, table: str, headers: dict[str, str], route: str
) -> None:
    for token in (None, "unknown", NOBODY, VIEWER):
        ours = get(server, route.format(table), token, **headers)
        sent = {**headers, **bearer(token)}
        read = f"{server.api}/table/{table}/attributes"
        theirs = requests.post(read, json={"l2_ids": []}, headers=sent, allow_redirects=False, timeout=60)
        assert ours.status_code == theirs.status_code, token
        for name in ("Location", "WWW-Authenticate"):
            found, expected = (answer.headers.get(name, "").partition("?")[0] for answer in (ours, theirs))
            assert found == expected, token
        if ours.status_code != 200:
            assert ours.text == theirs.text or ours.status_code == 302


def test_the_landing_page_lists_what_the_visitor_may_view(server: Server, auth: AuthServer) -> None:
    login = f"https://localhost:{auth.port}/sticky_auth"
    for token in (None, "unknown"):
        page = get(server, "", token, **BROWSER)
        assert page.status_code == 200
        assert TABLE not in page.text
        assert "Get a token" in page.text
        assert login in page.text
        assert 'href="/l2cache/login"' in page.text
    nobody = get(server, "", NOBODY, **BROWSER).text
    assert TABLE not in nobody
    assert "does not permit you to view any data set" in nobody
    page_of_viewer = get(server, "", VIEWER, **BROWSER).text
    assert f">{TABLE}</h2>" in page_of_viewer
    assert "private" not in page_of_viewer
    assert "This server has more data sets" in page_of_viewer
    assert "Authorization: Bearer TOKEN" in page_of_viewer
    cookie = {"Cookie": f"middle_auth_token={VIEWER}", **BROWSER}
    assert f">{TABLE}</h2>" in get(server, "", **cookie).text


def test_login_sends_to_the_service_and_back(server: Server, auth: AuthServer) -> None:
    answer = get(server, "login", **BROWSER)
    authorize = f"https://localhost:{auth.port}/sticky_auth/api/v1/authorize"
    assert (answer.status_code, answer.headers["Location"].partition("?")[0]) == (302, authorize)
    again = get(server, "login", **{"Cookie": f"middle_auth_token={VIEWER}", **BROWSER})
    assert (again.status_code, again.headers["Location"]) == (302, "/l2cache/")


def test_files_of_pages_need_no_token(server: Server) -> None:
    assert "--card" in get(server, "static/page.css").text
    for path in ("static/../app.py", "static/%2e%2e/base.html", "static/uplot"):
        assert get(server, path).status_code == 404


def test_the_document_shows_ids_only_to_those_who_may_view_them(server: Server) -> None:
    def example(token: str) -> str:
        document = get(server, "api/v1/openapi.json", token).json()
        read = document["paths"]["/l2cache/api/v1/table/{dataset}/attributes"]["post"]
        found: str = read["requestBody"]["content"]["application/json"]["example"]["l2_ids"][0]
        return found

    assert get(server, "api/v1/openapi.json").status_code == 302
    assert example(VIEWER) != example(NOBODY)


def test_requests_are_summed_over_processes(tmp_path: Path) -> None:
    with Server(busy_table(tmp_path), {"L2CACHE_WORKERS": "2"}) as server:
        for _ in range(12):
            requests.post(f"{server.api}/table/{DATASET}/attributes", json={"l2_ids": []}, timeout=60)
        state = get(server, f"api/v1/table/{DATASET}/dashboard").json()
        assert state["requests"]["total"] == 12
        assert server.metric("l2cache_request_seconds_count", dataset=DATASET, status="200") >= 12


def test_the_first_commands_run(tmp_path: Path) -> None:
    with Server(busy_table(tmp_path)) as server:
        page = get(server, "", **BROWSER).text
        commands = [unescape(found) for found in re.findall(r"<pre [^>]*>(.*?)</pre>", page, re.S)]
        assert len(commands) == 3
        for command in commands[:2]:
            done = subprocess.run(
                [sys.executable, "-c", command], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert "size_nm3" in done.stdout
        done = subprocess.run(["bash", "-c", commands[2]], capture_output=True, text=True, check=True)
        (features,) = json.loads(done.stdout).values()
        assert features["size_nm3"] > 0
