"""Tests of ``l2features register`` against a fake auth service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import run
from tests.support.jobs import dataset_file
from tests.support.stub_service import Answer, Stub, serving

TOKEN = "0123456789abcdef" * 2
"""The token that `tests.support.fixtures` gives to all tests."""


def config_of(server: Stub, folder: Path) -> Path:
    path = f"graphene://{server.url}/segmentation/table/minnie3_v1"
    return dataset_file(folder, path, graph=None, chunk_size=None)


def test_the_table_of_the_graph_is_registered(tmp_path: Path) -> None:
    with serving(lambda _: Answer({"ok": True})) as server:
        config = config_of(server, tmp_path)
        ran = run("register", "sample", "--as", "minnie65 public", "--config", config)
        [asked] = server.asked
        named = run("register", "sample", "--config", config, "--service", "l2cache", "--server", server.url)
    path = "/sticky_auth/api/v1/service/pychunkedgraph/table/minnie3_v1/dataset/minnie65%20public"
    assert (asked.method, asked.path) == ("POST", path)
    assert asked.headers["Authorization"] == f"Bearer {TOKEN}"
    assert (ran.exit_code, ran.output) == (0, f"registered: POST {server.url}{path}\n")
    assert named.stdout.endswith("/service/l2cache/table/minnie3_v1/dataset/sample\n")


@pytest.mark.parametrize("status", [302, 401, 403, 404, 500])
def test_any_other_status_is_an_error_that_names_it(tmp_path: Path, status: int) -> None:
    with serving(lambda _: Answer("not\nyou", status, {"Location": "/"})) as server:
        ran = run("register", "sample", "--config", config_of(server, tmp_path))
    assert ran.exit_code == 1
    assert f"HTTP {status} " in ran.stderr
    assert ran.stderr.endswith(": not you\n")
    assert ("--server" in ran.stderr) == (status == 404)
    assert TOKEN not in ran.output
    assert len(server.asked) == 1


def test_a_web_page_is_not_printed(tmp_path: Path) -> None:
    with serving(lambda _: Answer("\n<html>no</html>", 404)) as server:
        ran = run("register", "sample", "--config", config_of(server, tmp_path))
    assert ran.stderr.endswith("HTTP 404 Not Found (the auth service may be on another server: --server)\n")


def test_mistakes(tmp_path: Path) -> None:
    flat = dataset_file(tmp_path, tmp_path / "seg")
    ran = run("register", "sample", "--config", flat)
    assert (ran.exit_code, ran.stderr) == (2, "error: data set 'sample' has no graph to register\n")
    content = json.loads(flat.read_text())
    content["sample"] |= {"graph": "bigtable://p/i/minnie"}
    flat.write_text(json.dumps(content))
    ran = run("register", "sample", "--config", flat)
    assert ran.exit_code == 2
    named = f"cv_path precomputed://file://{tmp_path}/seg names no server"
    assert ran.stderr == f"error: {named}: expected --server with a URL such as https://host\n"
    ran = run("register", "sample", "--config", flat, "--server", "auth.example.org")
    assert ran.stderr == (
        "error: server 'auth.example.org': expected --server with a URL such as https://host\n"
    )
    ran = run("register", "sample", "--config", flat, "--server", "http://auth.example.org")
    assert ran.exit_code == 2
    assert "expected https://…, since the token is sent to the server" in ran.stderr


def test_a_server_that_is_away(tmp_path: Path) -> None:
    with serving(lambda _: Answer({})) as server:
        config = config_of(server, tmp_path)
    ran = run("register", "sample", "--config", config)
    assert ran.exit_code == 1
    assert ran.stderr.startswith(f"error: POST {server.url}/sticky_auth/api/v1/service/pychunkedgraph/table/")
    assert "ConnectionError" in ran.stderr
