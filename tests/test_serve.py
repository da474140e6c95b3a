"""Starting the server: by one command, and as the image does."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import psutil
import pytest
import requests
from click.testing import CliRunner

from l2features.cli import main
from l2features.serve import check_port, greeting

from .conftest import ROOT
from .emulator import free_port
from .server import Server, nodes_of

SITE = "/usr/local/lib/python3.11/site-packages"


# ------------------------------------------------------------------ l2features serve
@pytest.fixture
def serving(undisturbed: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, when it has said what to try, and what it said."""
    environment = {**os.environ, "PCGL2CACHE_URL_PREFIX": "/my/cache/", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "l2features.cli", "serve", str(undisturbed)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--bind", f"127.0.0.1:{free_port()}", "--workers", "2"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert process.stdout
    guard = threading.Timer(60, process.kill)
    guard.start()
    said = ""
    for line in process.stdout:
        said += line
        if said.endswith("/attributes\n"):
            break
    guard.cancel()
    yield process, said
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_serve_says_what_to_try_and_ends_with_ctrl_c(
    serving: tuple[subprocess.Popen[str], str], undisturbed: Path, tmp_path: Path
) -> None:
    process, said = serving
    pages = re.findall(r"^  (http\S+)$", said, re.MULTILINE)
    assert [page.partition("/my/cache")[2] or page.rpartition("/")[2] for page in pages] == [
        "/api/v1/docs/",
        "/api/v1/table/sample",
        "ready",
        "metrics",
    ]
    for page in pages:
        assert requests.get(page, timeout=20).ok, page
    command = shlex.split(said[said.index("curl ") :])
    asked = json.loads(command[command.index("-d") + 1])["l2_ids"]
    assert asked[0] in nodes_of(undisturbed)
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(answer)[str(asked[0])]["size_nm3"] > 0
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert len(family) >= 3
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 0
    psutil.wait_procs(family, timeout=20)
    assert not any(p.is_running() for p in family)
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert all(json.loads(line)["time"] for line in log.splitlines())
    assert "authentication is disabled" in log


def test_serve_with_what_cannot_be_served(undisturbed: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("sample: {l2cache_id: x}\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases: list[tuple[list[Path | str], int, str]] = [
            ([wrong], 2, "data set 'sample': key 'cv_path' is missing: expected precomputed://"),
            ([tmp_path / "none.yml"], 2, "none.yml: No such file or directory"),
            ([undisturbed, "--bind", "somewhere"], 2, "'somewhere': expected HOST:PORT"),
            ([undisturbed, "--bind", "127.0.0.1:99999"], 2, "'127.0.0.1:99999': expected HOST:PORT"),
            ([undisturbed, "--bind", f"127.0.0.1:{port}"], 1, f"127.0.0.1:{port}: Address already in use"),
            ([undisturbed, "--bind", "192.0.2.1:80"], 1, "192.0.2.1:80: Cannot assign requested address"),
        ]
        for arguments, status, message in cases:
            result = CliRunner().invoke(main, ["serve", *map(str, arguments)])
            assert result.exit_code == status, result.output
            assert message in result.output
            assert result.output.startswith("error: ")


def test_addresses() -> None:
    for bind in ("127.0.0.1:0", "[::1]:0", "localhost:0", "0.0.0.0:0"):
        check_port(bind)


def test_greeting_with_authentication(tmp_path: Path) -> None:
    from l2features.config import load_datasets

    config = tmp_path / "datasets.yml"
    config.write_text("x: {cv_path: 'precomputed://file:///none', l2cache_id: none}\n")
    text = greeting("http://h:1", "/l2cache", list(load_datasets(config).values()), auth=True)
    assert "Authorization: Bearer TOKEN" in text
    assert "everyone" not in text
    assert "http://h:1/l2cache/api/v1/table/x/attributes" in text


# ------------------------------------------------------------------ Dockerfile.api
def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile.api").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_has_all_that_the_server_needs(undisturbed: Path, tmp_path: Path) -> None:
    """Its COPY lines are followed, the packages built from these files alone, and its command run."""
    steps = instructions()
    ignored = (ROOT / "Dockerfile.api.dockerignore").read_text().split()
    for word, rest in steps:
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                assert f"!{source.split('/')[0]}" in ignored
                place = tmp_path / target.strip("/") / ("" if not target.endswith("/") else source)
                if (ROOT / source).is_dir():
                    ignore = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(ROOT / source, place, ignore=ignore, dirs_exist_ok=True)
                else:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, place)
    site = tmp_path / SITE.strip("/")
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(site)]
    subprocess.run(build, cwd=tmp_path / "src", check=True, capture_output=True)
    (command,) = [json.loads(rest) for word, rest in steps if word == "CMD"]
    assert command[:2] == ["gunicorn", "-c"]
    assert command[2].startswith(f"{SITE}/")
    environment = {"PYTHONPATH": str(site)}
    where = [sys.executable, "-c", "import api, l2features; print(api.__file__, l2features.__file__)"]
    paths = subprocess.run(
        where, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    ).stdout.split()
    assert all(path.startswith(str(site)) for path in paths), paths
    with Server(undisturbed, environment, root=site, log_file=tmp_path / "log") as server:
        assert requests.get(f"{server.api}/table/sample", timeout=20).ok
        (check,) = [rest.partition(" CMD ")[2] for word, rest in steps if word == "HEALTHCHECK"]
        bind = {"L2CACHE_BIND": f"0.0.0.0:{server.port}"}
        probe = [sys.executable, *json.loads(check)[1:]]
        assert subprocess.run(probe, env=bind, check=False).returncode == 0
    assert subprocess.run(probe, env=bind, check=False, stderr=subprocess.DEVNULL).returncode != 0


def test_the_image_is_pinned_and_its_server_is_not_root() -> None:
    steps = instructions()
    assert [rest for word, rest in steps if word == "FROM"] == ["python:3.11-slim-bookworm"]
    assert ("STOPSIGNAL", "SIGTERM") in steps
    users = [rest for word, rest in steps if word == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    (environment,) = [rest for word, rest in steps if word == "ENV"]
    assert "L2CACHE_BIND=0.0.0.0:8080" in environment
    assert ("EXPOSE", "8080") in steps
    required = (ROOT / "api" / "requirements.txt").read_text()
    assert all("==" in line for line in required.splitlines() if line.strip())


NOT_IN_THE_IMAGE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)
sys.meta_path.insert(0, Absent())
"""


def test_the_image_installs_every_library_that_the_server_needs(undisturbed: Path) -> None:
    required = (ROOT / "api" / "requirements.txt").read_text()
    pinned = {normal(name) for name in re.findall(r"^([\w.-]+)==", required, re.MULTILINE)}
    modules = packages_distributions().items()
    absent = {name for name, packages in modules if not {normal(p) for p in packages} & pinned}
    absent -= {"l2features", "api", "beam_jobs", "_distutils_hack"}
    assert {"apache_beam", "kvdbclient", "caveclient"} <= absent
    code = (
        f"absent = {absent!r}{NOT_IN_THE_IMAGE}"
        "import api.worker, api.logs, l2features.store.decoded, l2features.store.bigtable, l2features.volume\n"
        "from api.app import create_app; create_app()"
    )
    environment = {**os.environ, "GRAPH_L2CACHE_CONFIG_PATH": str(undisturbed), "AUTH_DISABLED": "true"}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
