"""Tests of jobs through Beam's portability layer, with separate job service and workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NamedTuple

import pytest

from beam_jobs import portable
from l2features.testing.emulators import free_port
from tests.support.audit_job import run_audit
from tests.support.elsewhere import site_packages
from tests.support.ingest_jobs import (
    N_CHUNKS,
    N_MANY,
    done_chunks,
    run_ingest,
    start,
    table_bytes,
    wait_until,
)
from tests.support.jobs import ROOT, dataset_file
from tests.support.portable import Cluster, cluster, python  # noqa: F401 (fixtures)
from tests.support.recorder import IS_SENT, LOADS, READS


class Recorded(NamedTuple):
    """A line that `tests.support.recorder` wrote."""

    process: int
    parent: int
    folder: str
    event: str
    path: str


def recorded(file: Path) -> list[Recorded]:
    lines = (line.split("\t") for line in file.read_text().splitlines())
    return [Recorded(int(process), int(parent), *rest) for process, parent, *rest in lines]


def test_workers_apart_from_the_launcher(
    cluster: Cluster, sample: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Check that only workers read chunks, and that they run in their own folder, with the installed code."""
    config = dataset_file(tmp_path, sample)
    launcher = start(config, "--create", *cluster.flags, cwd=ROOT)
    out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, err
    assert err == ""
    assert out.startswith(f"chunks {N_CHUNKS}, chunks_done_before 0, empty_chunks 0, files_empty 0, "), out
    assert table_bytes(config) == table_bytes(undisturbed)
    assert done_chunks(config) == N_CHUNKS
    audited = run_audit(config, *cluster.flags)
    assert (audited.returncode, audited.stderr) == (0, "")
    assert audited.stdout.endswith("\ncomplete\n")

    lines = recorded(cluster.record)
    read = {Path(line.path) for line in lines if line.event == READS}
    assert {path for path in sample.rglob("*") if path.is_file() and "-" in path.name} <= read
    reading = {(line.process, line.parent, line.folder) for line in lines if line.event == READS}
    assert {parent for _, parent, _ in reading} == {cluster.pool.pid}
    assert {folder for *_, folder in reading} == {str(cluster.record.parent)}
    assert launcher.pid not in {process for process, *_ in reading}

    loaded = {line.path for line in lines if line.event == LOADS}
    packages = site_packages(cluster.python.parents[1])
    assert {str(packages / "beam_jobs" / "transforms.py")} <= loaded
    assert all(path.startswith(f"{packages}/") for path in loaded)
    assert str(packages / "beam_jobs" / "ingest.py") not in loaded
    assert [line.path for line in lines if line.event == IS_SENT] == []


def test_a_missing_worker_pool_or_job_service(
    cluster: Cluster, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataset_file(tmp_path, sample)
    nowhere = f"127.0.0.1:{free_port()}"
    no_pool = run_ingest(config, "--create", *cluster.flags[:-1], f"--environment_config={nowhere}")
    assert (no_pool.returncode, no_pool.stdout) == (1, "")
    assert no_pool.stderr.startswith(f"error: job service {cluster.endpoint}: failed to connect")
    assert nowhere in no_pool.stderr
    assert no_pool.stderr.count("\n") == 1

    monkeypatch.setattr(portable, "CONNECT_SECONDS", 1.0)
    no_service = run_ingest(config, *cluster.flags, f"--job_endpoint={nowhere}")
    assert (no_service.returncode, no_service.stdout) == (1, "")
    assert no_service.stderr.startswith(f"error: job service {nowhere}: no answer in 1 s; ")


def test_what_a_failure_ends_with() -> None:
    """Check that `reason` returns the worker's error, the last line of the job service's message."""
    inner = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    f()\n    ^^^\n'
    error = "l2features.core.errors.StoreError: table: gone: [Errno 2] [while running 'Write']"
    text = f"Pipeline job failed in state FAILED: Error.\n{inner}RuntimeError: {inner}{error}\n"
    assert portable.reason(text) == "StoreError: table: gone: [Errno 2] [while running 'Write']"
    assert portable.reason("unknown error") == "unknown error"


def test_a_worker_and_then_the_service_die(cluster: Cluster, slow_sample: Path) -> None:
    launcher = start(slow_sample, "--create", *cluster.flags)
    wait_until(lambda: done_chunks(slow_sample) > 20)
    (worker,) = cluster.workers
    worker.kill()
    lost = f"error: job service {cluster.endpoint}: RuntimeError: a worker is lost\n"
    assert (*launcher.communicate(timeout=60), launcher.returncode) == ("", lost, 1)
    done = done_chunks(slow_sample)
    assert 20 < done < N_MANY

    launcher = start(slow_sample, *cluster.flags)
    wait_until(lambda: done_chunks(slow_sample) > done + 20)
    os.killpg(cluster.service.pid, signal.SIGKILL)
    out, err = launcher.communicate(timeout=60)
    assert (launcher.returncode, out) == (1, "")
    assert err.startswith(f"error: job service {cluster.endpoint}: ")
    assert err.count("\n") == 1
