"""Tests of unreachable hosts: an error names them within five seconds, before any work."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from beam_jobs.audit import main as audit_main
from beam_jobs.ingest import main as ingest_main
from beam_jobs.update import main as update_main
from l2features.config.reach import REACH_S, check_bigtable
from l2features.core.errors import StoreUnavailable
from tests.support.command import run
from tests.support.jobs import dataset_file, run_job

STORE, GRAPH = "bigtable://my-project/my-instance", "bigtable://my-project/graphs/minnie"
SECONDS = 5.0
ATTEMPTS = 3
Result = TypeVar("Result")


def in_time(call: Callable[[], Result]) -> Result:
    """Make a call up to `ATTEMPTS` times, and return the first result that took less than `SECONDS`."""
    for _ in range(ATTEMPTS):
        start = time.monotonic()
        result = call()
        took = time.monotonic() - start
        if took < SECONDS:
            return result
    pytest.fail(f"took {took:.1f} s, expected less than {SECONDS} s in one of {ATTEMPTS} attempts")


@pytest.fixture(params=["closed", "silent", "unknown"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield an address that refuses connections, never answers, or has an unknown host."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listener.listen()
        port = listener.getsockname()[1]
        yield "no-such-host.invalid:8086" if request.param == "unknown" else f"127.0.0.1:{port}"


@pytest.fixture
def unreachable(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("BIGTABLE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST"):
        monkeypatch.setenv(name, address)
    return address


def test_the_store_of_every_command(unreachable: str, tmp_path: Path, sample: Path) -> None:
    config = dataset_file(tmp_path, sample, store=STORE)
    jobs = {ingest_main: ("--create",), audit_main: ()}
    commands = [("status", "sample"), ("get", "sample", "5"), ("chunk", "sample", "0,0,0")]
    said = f"error: {STORE}: cannot reach {unreachable} ($BIGTABLE_EMULATOR_HOST): no connection within 3 s\n"
    for command in commands:
        result = in_time(partial(run, *command, "--config", config))
        assert (result.exit_code, result.output) == (1, said)
    for main, flags in jobs.items():
        done = in_time(partial(run_job, main, "--config", config, "--dataset", "sample", *flags))
        assert (done.returncode, done.stderr) == (1, said)


def test_the_graph(unreachable: str, tmp_path: Path, sample: Path) -> None:
    config = dataset_file(tmp_path, sample, graph=GRAPH)
    flags = ("--dataset", "sample", "--create", "--timestamp", "2026-01-01T00:00:00Z")
    done = run_job(ingest_main, "--config", config, *flags)
    assert (done.returncode, f"error: {GRAPH}: cannot reach {unreachable} " in done.stderr) == (1, True)
    edited = run("sample-edit", "sample", "--config", config)
    assert (edited.exit_code, f"error: {GRAPH}: cannot reach {unreachable} " in edited.output) == (1, True)


def test_pubsub(unreachable: str, tmp_path: Path) -> None:
    made = run("sample", tmp_path / "s", "--grid", "1,1,1", "--chunk-size", "8,8,8", "--topics", "local")
    assert made.exit_code == 1
    assert f"error: project 'local': cannot reach {unreachable} ($PUBSUB_EMULATOR_HOST)" in made.output
    assert run("sample", tmp_path / "s", "--graph", GRAPH).exit_code == 1
    assert not (tmp_path / "s").exists()


def test_the_subscriptions(unreachable: str, tmp_path: Path, sample: Path) -> None:
    path, dead = "projects/my-project/subscriptions/edits", "projects/my-project/topics/dead"
    config = dataset_file(tmp_path, sample)
    said = f"error: {path}: cannot reach {unreachable} ($PUBSUB_EMULATOR_HOST): no connection within 3 s\n"
    flags = ("--config", config, "--subscriptions", path, "--dead_letters", dead)
    done = in_time(partial(run_job, update_main, *flags))
    assert (done.returncode, done.stderr) == (1, said)
    listed = run("deadletters", "list", path)
    assert (listed.exit_code, listed.output) == (1, said)


def test_bigtable_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the error for Bigtable without an emulator. A closed local port replaces Google's host."""
    monkeypatch.delenv("BIGTABLE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr("l2features.config.reach.BIGTABLE_HOST", "127.0.0.1:1")
    with pytest.raises(
        StoreUnavailable, match=rf"cannot reach 127.0.0.1:1: no connection within {REACH_S:g} s"
    ):
        check_bigtable(STORE)
    check_bigtable("sqlite:///any/file.db")
    check_bigtable("flat")
