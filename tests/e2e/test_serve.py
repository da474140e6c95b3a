"""Tests of `l2features serve`."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from click.testing import CliRunner

from api.viewer_routes import is_built
from l2features.cli.commands import main
from l2features.config.datasets import load_datasets
from l2features.local.serve import check_port, greeting, some_node, table_problem
from l2features.testing.bucket import bucket_of
from l2features.testing.emulators import free_port
from l2features.testing.server import nodes_of
from tests.support.ingest_jobs import run_ingest
from tests.support.jobs import dataset_file

SERVE = [sys.executable, "-m", "l2features.cli", "serve", "gs://my-bucket/l2/datasets.yml"]


# ------------------------------------------------------------------ l2features serve
@pytest.fixture
def serving(undisturbed: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yield the process of a running `l2features serve`, and the text that it printed at its start."""
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


def test_serve_prints_what_to_try_and_ends_with_ctrl_c(
    serving: tuple[subprocess.Popen[str], str], undisturbed: Path, tmp_path: Path
) -> None:
    process, said = serving
    pages = re.findall(r"^  (http\S+)$", said, re.MULTILINE)
    assert [urlsplit(page).path.removeprefix("/my/cache") for page in pages] == [
        "/",
        "/api/v1/docs/",
        "/api/v1/table/sample",
        "/viewer/",
        "/ready",
        "/metrics",
    ]
    for page in pages:
        expected = 200 if is_built() or not page.endswith("/viewer/") else 404
        assert requests.get(page, timeout=20).status_code == expected, page
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


def test_serve_refuses_invalid_arguments(undisturbed: Path, tmp_path: Path) -> None:
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


def test_serve_a_file_in_a_bucket(undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = in_a_bucket(undisturbed)
    with bucket_of({"l2/datasets.yml": file}.get) as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        bind = f"127.0.0.1:{free_port()}"
        with subprocess.Popen([*SERVE, "--bind", bind], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            guard = threading.Timer(60, process.kill)
            guard.start()
            said = process.stdout.readline()
            assert said.startswith(f"Serving sample at http://{bind} ")
            known = requests.get(f"http://{bind}/l2cache/api/v1/table/sample", timeout=20)
            process.send_signal(signal.SIGINT)
            assert process.wait() == 0
            guard.cancel()
    assert known.ok, known.text


def test_serve_a_file_that_disappears_before_the_server_reads_it(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command finds the file; the server that replaces the command does not. No process is left."""
    files = {"l2/datasets.yml": in_a_bucket(undisturbed)}
    with bucket_of(lambda name: files.pop(name, None)) as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        command = [*SERVE, "--bind", f"127.0.0.1:{free_port()}"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not files
    assert ran.returncode == 1
    assert not ran.stdout
    [line] = map(json.loads, ran.stderr.splitlines())
    assert line["level"] == "critical"
    assert line["message"].startswith("data sets file gs://my-bucket/l2/datasets.yml: 404 ")


def in_a_bucket(config: Path) -> bytes:
    """Return the data sets file with an explicit store in each entry: a file in a bucket has no default."""
    entries = {name: dataset.model_dump(exclude={"name"}) for name, dataset in load_datasets(config).items()}
    return json.dumps(entries).encode()


def test_addresses() -> None:
    for bind in ("127.0.0.1:0", "[::1]:0", "localhost:0", "0.0.0.0:0"):
        check_port(bind)


def test_greeting_with_authentication(tmp_path: Path) -> None:
    config = tmp_path / "datasets.yml"
    config.write_text("x: {cv_path: 'precomputed://file:///none', l2cache_id: none}\n")
    datasets = list(load_datasets(config).values())
    text = greeting("http://h:1", "/l2cache", datasets, auth=True, found=(datasets[0], 77))
    assert "Authorization: Bearer TOKEN" in text
    assert "[77]" in text
    assert "everyone" not in text
    assert "http://h:1/l2cache/api/v1/table/x/attributes" in text


# ------------------------------------------------------------------ tables that are missing
def test_a_missing_table_is_named_and_no_node_is_invented(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = dataset_file(tmp_path / "empty", "precomputed://file:///none")
    (missing,) = load_datasets(config).values()
    (present,) = load_datasets(undisturbed).values()
    assert table_problem(present) is None
    assert table_problem(missing) == (
        f"data set 'sample': table l2cache_sample is not in {missing.store}: "
        "l2features ingest sample --create makes it"
    )
    assert some_node([missing]) is None
    assert "curl" not in greeting("http://h:1", "/l2cache", [missing], auth=False, found=None)
    found = some_node([missing, present])
    assert found
    assert (found[0], found[1] in nodes_of(undisturbed)) == (present, True)


def test_the_node_named_is_one_of_few(tmp_path: Path, many_chunks: Path) -> None:
    """Check the example node of a table in which only a few chunks are ingested."""
    config = dataset_file(tmp_path, many_chunks)
    assert run_ingest(config, "--create", "--chunks", "1:2,7:8,0:3").returncode == 0
    found = some_node(list(load_datasets(config).values()))
    assert found
    assert found[1] in nodes_of(config)


def test_serve_names_what_is_missing_and_serves_the_others(undisturbed: Path, tmp_path: Path) -> None:
    entries = json.loads(undisturbed.read_text())
    bad = {"cv_path": "nonsense", "l2cache_id": "t"}
    entries |= {"absent": entries["sample"] | {"l2cache_id": "l2cache_absent"}, "bad": bad}
    config = tmp_path / "datasets.yml"
    config.write_text(json.dumps(entries))
    bind = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "l2features.cli", "serve", str(config), "--bind", bind]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
    guard = threading.Timer(90, process.kill)
    guard.start()
    try:
        assert process.stdout
        assert process.stdout.readline().startswith(f"Serving sample, absent at http://{bind} ")
        answer = requests.get(f"http://{bind}/l2cache/api/v1/table/sample", timeout=20)
    finally:
        guard.cancel()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert answer.ok
    plain = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("error: ")]
    assert len(plain) == 2
    assert f"error: data sets file {config}: data set 'bad': key 'cv_path': expected" in plain[0]
    assert "error: data set 'absent': table l2cache_absent is not in sqlite://" in plain[1]
