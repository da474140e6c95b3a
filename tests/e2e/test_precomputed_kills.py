"""Tests of static exports that are killed: a second run makes the same files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil

from l2features.store.base import Meta
from l2features.testing.stores import open_table
from tests.support.ingest_jobs import wait_until, workers_of
from tests.support.jobs import ROOT, dataset_file
from tests.support.known_roots import GEOMETRY
from tests.support.static_export import run_export
from tests.support.version_chains import write_chain
from tests.support.version_job import files_of


def test_kill_9_of_the_whole_group(tmp_path: Path) -> None:
    """Check that the workers exit, and that no lock blocks the next run."""
    write_chain(tmp_path / "versions", nodes=2_000)
    config = dataset_file(tmp_path, "precomputed://file:///nowhere", versions=str(tmp_path / "versions"))
    with closing(open_table(config)) as store:
        store.create(Meta("known", "", "2026-11-21 00:27:44", GEOMETRY))
    killed, flags = tmp_path / "killed", ("--shard_size", 1_500, "--cell_nodes", 100)
    options = ["--config", config, "--dataset", "sample", "--version", 3, "--output", killed, *flags]
    command = [sys.executable, "-m", "beam_jobs.precomputed", *map(str, options), "--workers=1"]
    job = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=-1, stderr=-1)
    wait_until(lambda: bool(list(killed.rglob("*.shard"))), 120)
    workers = workers_of(job)  # type: ignore[arg-type]
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    psutil.wait_procs(workers, timeout=30)
    assert not any(worker.is_running() for worker in workers)
    assert not list(killed.rglob("info"))
    for name in ("killed", "undisturbed"):
        done = run_export(config, tmp_path / name, 3, *flags)
        assert done.stdout.startswith("version 3: "), done.stderr
    assert files_of(killed) == files_of(tmp_path / "undisturbed")
