"""Tests of failures during the batch ingest: no data is lost, and records are correct."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from l2features.store.base import DONE, FAILED, open_store
from l2features.testing.emulators import Emulator
from l2features.testing.stores import STORE_URL
from tests.support.ingest_jobs import (
    N_CHUNKS,
    N_MANY,
    done_chunks,
    open_sample,
    run_ingest,
    start,
    table_bytes,
    wait_until,
    workers_of,
)
from tests.support.jobs import ROOT, dataset_file


def sabotage_chunk_1_0_0(folder: Path, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    """Make every worker run the statement ``action`` before it reads chunk 1,0,0."""
    (folder / "sitecustomize.py").write_text(
        "import os, time, l2features.volume as v\n"
        "read = v.Volume.slabs\n"
        "def sabotaged(self, chunk, geometry):\n"
        f"    if tuple(chunk) == (1, 0, 0): {action}\n"
        "    return read(self, chunk, geometry)\n"
        "v.Volume.slabs = sabotaged\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")


def test_a_corrupt_chunk_among_good_ones(tmp_path: Path, sample: Path, undisturbed: Path) -> None:
    segmentation = tmp_path / "segmentation"
    shutil.copytree(sample, segmentation)
    broken = next(segmentation.glob("*/1056-1088_544-*_36-*"))
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    config = dataset_file(tmp_path, segmentation)
    done = run_ingest(config, "--create")
    assert done.returncode == 1
    assert "error: chunk 1,1,1 failed: cannot read" in done.stderr
    assert "11 of 12 chunks done" in done.stdout
    assert "Traceback" not in done.stderr
    store, _ = open_sample(config)
    states = [record.state for record in store.chunk_records()]
    assert sorted(states) == [DONE] * 11 + [FAILED]
    status = subprocess.run(
        [sys.executable, "-m", "l2features.cli", "status", "sample", "--config", str(config)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert status.stdout.startswith("11/12 chunks done")
    assert "chunk 1,1,1: cannot read" in status.stdout
    broken.write_bytes(whole)
    assert "12 of 12 chunks done, 11 of them before; in this run: " in run_ingest(config).stdout
    assert table_bytes(config) == table_bytes(undisturbed)


def test_kill_9_of_the_whole_job_and_again(slow_sample: Path) -> None:
    job = start(slow_sample, "--create")
    wait_until(lambda: done_chunks(slow_sample) >= 5)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    before = {r.chunk_id: r.time for r in open_sample(slow_sample)[0].chunk_records()}
    assert 5 <= len(before) < N_MANY
    again = run_ingest(slow_sample, "--create")
    assert again.returncode == 0, again.stderr
    after = {r.chunk_id: r.time for r in open_sample(slow_sample)[0].chunk_records()}
    assert len(after) == N_MANY
    assert {chunk: after[chunk] for chunk in before} == before  # no done chunk was computed again
    interrupted = table_bytes(slow_sample)
    assert run_ingest(slow_sample, "--recompute").returncode == 0
    assert table_bytes(slow_sample) == interrupted


def test_kill_9_of_one_worker(slow_sample: Path) -> None:
    job = start(slow_sample, "--create", "--workers", "2")
    wait_until(lambda: done_chunks(slow_sample) >= 5)
    workers = workers_of(job)
    assert len(workers) == 2
    workers[0].kill()
    out, err = job.communicate(timeout=120)
    assert job.returncode == 0, err
    assert f"{N_MANY} of {N_MANY} chunks done" in out
    assert "a worker died (SIGKILL)" in err


def test_a_chunk_that_kills_its_workers_fails_and_the_others_complete(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataset_file(tmp_path, sample)
    sabotage_chunk_1_0_0(tmp_path, monkeypatch, "os.kill(os.getpid(), 9)")
    done = run_ingest(config, "--create", processes=True)
    assert done.returncode == 1
    assert "11 of 12 chunks done" in done.stdout
    assert "chunk 1,0,0 failed: a worker died (SIGKILL) at this chunk, 3 times" in done.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopping_is_clean(slow_sample: Path, stop: signal.Signals) -> None:
    job = start(slow_sample, "--create")
    wait_until(lambda: done_chunks(slow_sample) >= 5)
    children = psutil.Process(job.pid).children(recursive=True)
    os.kill(job.pid, stop)
    out, err = job.communicate(timeout=60)
    assert job.returncode == 130
    assert "stopped: run the command again to continue" in err
    assert "Traceback" not in err
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert f"{done_chunks(slow_sample)} of {N_MANY} chunks done" in out


def test_stopping_is_clean_on_a_beam_runner(slow_sample: Path) -> None:
    job = start(slow_sample, "--create", "--runner=DirectRunner")
    wait_until(lambda: done_chunks(slow_sample) >= 2)
    os.kill(job.pid, signal.SIGINT)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 130
    assert "stopped: run the command again to continue" in err
    assert "Traceback" not in err


def test_a_worker_whose_supervisor_is_gone_ends(slow_sample: Path) -> None:
    job = start(slow_sample, "--create")
    wait_until(lambda: done_chunks(slow_sample) >= 5)
    children = psutil.Process(job.pid).children(recursive=True)
    job.kill()
    job.wait()
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    assert gone


def test_an_emulator_that_comes_back_empty_is_an_error(tmp_path: Path, many_chunks: Path) -> None:
    emulator = Emulator()
    try:
        config = dataset_file(tmp_path, many_chunks, store=STORE_URL)
        environment = emulator.environment()
        job = start(config, "--create", env=environment)
        before = os.environ.get("BIGTABLE_EMULATOR_HOST")
        os.environ["BIGTABLE_EMULATOR_HOST"] = emulator.host
        try:
            wait_until(lambda: done_chunks(config) >= 5)
            emulator.stop()
            emulator.start()
            _, err = job.communicate(timeout=180)
            assert job.returncode == 1, err
            assert "error: bigtable://test-project/test-instance, table l2cache_sample: not found" in err
            assert "Traceback" not in err
            assert done_chunks(config) == 0
        finally:
            if before is None:
                del os.environ["BIGTABLE_EMULATOR_HOST"]
            else:
                os.environ["BIGTABLE_EMULATOR_HOST"] = before
    finally:
        emulator.stop()


def test_kill_9_of_a_worker_that_keeps_no_records(tmp_path: Path, sample: Path, emulator: Emulator) -> None:
    config = dataset_file(tmp_path, sample, store=STORE_URL, l2cache_id="l2_bigtableio_dies")
    job = start(config, "--create", "--sink", "bigtableio", "--workers", "1")
    wait_until(lambda: len(workers_of(job)) == 1)
    workers_of(job)[0].kill()
    out, err = job.communicate(timeout=120)
    assert job.returncode == 0, err
    assert "a worker died (SIGKILL)" in err
    assert f"{N_CHUNKS} of {N_CHUNKS} chunks done" in out


def test_a_locked_store_is_an_error_and_not_a_hang(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataset_file(tmp_path, sample)
    assert run_ingest(config, "--create", "--test").returncode == 0
    holder = sqlite3.connect(tmp_path / "l2cache.db")
    holder.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(open_store, "__defaults__", (0.5,))  # of this process, which opens the store first
    done = run_ingest(config, "--recompute", processes=True)
    assert done.returncode == 1
    assert "database is locked" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_chunk_that_hangs_is_given_up(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataset_file(tmp_path, sample)
    sabotage_chunk_1_0_0(tmp_path, monkeypatch, "time.sleep(600)")
    monkeypatch.setattr("l2features.local.pool.CHUNK_TIMEOUT_S", 8.0)
    done = run_ingest(config, "--create", "--chunks", "0:2,0:1,0:1", processes=True)
    assert done.returncode == 1
    assert "1 of 2 chunks done" in done.stdout
    ended = "a worker was ended after 8 s without progress at this chunk, 3 times"
    assert f"error: chunk 1,0,0 failed: {ended}" in done.stderr


def test_a_chunk_that_fails_later_keeps_what_is_known_of_its_segments(tmp_path: Path, sample: Path) -> None:
    segmentation = tmp_path / "segmentation"
    shutil.copytree(sample, segmentation)
    config = dataset_file(tmp_path, segmentation)
    assert run_ingest(config, "--create").returncode == 0
    store, geometry = open_sample(config)
    before = store.segments(geometry.layout.chunk_id(1, 1, 1))
    next(segmentation.glob("*/1056-1088_544-*_36-*")).write_bytes(b"junk")
    assert run_ingest(config, "--recompute", "--chunks", "1:2,1:2,1:2").returncode == 1
    assert before is not None
    np.testing.assert_array_equal(store.segments(geometry.layout.chunk_id(1, 1, 1)), before)
