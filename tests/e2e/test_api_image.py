"""Tests of the API's Dockerfile, whose steps run without Docker."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from l2features.testing.server import Server
from tests.support.dockerfile import (
    SITE,
    Step,
    build,
    environment,
    follow_copies,
    import_with_only,
    last,
    read_steps,
)
from tests.support.jobs import ROOT

DOCKERFILE = "Dockerfile.api"
LOCK = "api/requirements.txt"


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    return read_steps(DOCKERFILE)


def test_it_contains_what_the_server_needs(steps: list[Step], undisturbed: Path, tmp_path: Path) -> None:
    """Check the image's CMD and HEALTHCHECK, using only the files that its COPY steps take."""
    follow_copies(DOCKERFILE, steps, tmp_path)
    site = build(tmp_path)
    command = json.loads(last(steps, "CMD"))
    assert command[:2] == ["gunicorn", "-c"]
    assert command[2].startswith(f"{SITE}/")
    more = {"PYTHONPATH": str(site)}
    where = [sys.executable, "-c", "import api, l2features; print(api.__file__, l2features.__file__)"]
    paths = subprocess.run(
        where, cwd=tmp_path, env={**os.environ, **more}, capture_output=True, text=True, check=True
    ).stdout.split()
    assert all(path.startswith(str(site)) for path in paths), paths
    with Server(undisturbed, more, root=site, log_file=tmp_path / "log") as server:
        assert requests.get(f"{server.api}/table/sample", timeout=20).ok
        check = json.loads(last(steps, "HEALTHCHECK").partition(" CMD ")[2])
        bind = {"L2CACHE_BIND": f"0.0.0.0:{server.port}"}
        probe = [sys.executable, *check[1:]]
        assert subprocess.run(probe, env=bind, check=False).returncode == 0
    assert subprocess.run(probe, env=bind, check=False, stderr=subprocess.DEVNULL).returncode != 0


def test_what_is_compiled_when_it_is_built(steps: list[Step], tmp_path: Path) -> None:
    (compiling,) = [s.rest for s in steps if s.word == "RUN" and s.rest.startswith("python")]
    variables = {**os.environ, **environment(steps), "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, *shlex.split(compiling)[1:]], env=variables, check=True)
    assert list(tmp_path.rglob("*.nbc"))
    made = [step.rest for step in steps if "install -d -o l2cache" in step.rest]
    assert "$NUMBA_CACHE_DIR" in made[0]


def test_it_is_pinned_and_its_server_is_not_root(steps: list[Step]) -> None:
    assert [step.rest for step in steps if step.word == "FROM"] == ["python:3.11-slim-bookworm"]
    assert Step("STOPSIGNAL", "SIGTERM") in steps
    assert last(steps, "USER") == "l2cache"
    assert environment(steps)["L2CACHE_BIND"] == "0.0.0.0:8080"
    assert Step("EXPOSE", "8080") in steps
    required = (ROOT / LOCK).read_text()
    assert all("==" in line for line in required.splitlines() if line.strip())
    assert all(re.search(r"setuptools==\d", step.rest) for step in steps if "setuptools" in step.rest)


def test_its_lock_holds_every_library_that_the_server_needs(undisturbed: Path) -> None:
    variables = {"GRAPH_L2CACHE_CONFIG_PATH": str(undisturbed), "AUTH_DISABLED": "true"}
    code = (
        "import api.gunicorn_hooks, api.logs, l2features.store.bigtable.decoded\n"
        "import l2features.store.bigtable.bigtable_store, l2features.volume\n"
        "from api.app import create_app; create_app()"
    )
    absent = import_with_only(LOCK, code, variables)
    assert {"apache_beam", "kvdbclient", "caveclient"} <= absent
