"""The batch ingest as a command: complete, resumable, and honest when something fails."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from cloudvolume import CloudVolume
from google.cloud import bigtable

import l2features
from beam_jobs.ingest import main
from l2features.config import load_dataset
from l2features.errors import TableNotFound
from l2features.geometry import Geometry
from l2features.sample import Sample, make_sample
from l2features.store import DONE, FAILED, Store, open_store

from .conftest import INSTANCE, PROJECT, STORE_URL, Recordings, all_rows, dataset_file, run_ingest
from .emulator import Emulator

N_CHUNKS = 12
MANY = (12, 10, 6)
N_MANY = 720


def open_sample(config: Path) -> tuple[Store, Geometry]:
    entry = load_dataset("sample", config)
    store = open_store(entry.store, entry.l2cache_id)
    meta = store.meta()
    assert meta is not None
    assert meta.geometry is not None
    return store, meta.geometry


def table_bytes(config: Path) -> bytes:
    """Everything that a table holds of nodes, as bytes."""
    return all_rows(open_sample(config)[0]).features.tobytes()


@pytest.fixture(scope="session")
def undisturbed(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data sets file of a finished ingest of the sample."""
    config = dataset_file(tmp_path_factory.mktemp("undisturbed"), sample)
    done = run_ingest(config, "--create")
    assert done.returncode == 0, done.stderr
    return config


def start(config: Path, *flags: str, **more: object) -> subprocess.Popen[str]:
    """The command in the background, in a process group of its own."""
    command = [
        sys.executable,
        "-m",
        "beam_jobs.ingest",
        "--config",
        str(config),
        "--dataset",
        "sample",
        *flags,
    ]
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **more
    )


def wait_until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def done_chunks(config: Path) -> int:
    entry = load_dataset("sample", config)
    try:
        records = open_store(entry.store, entry.l2cache_id).chunk_records()
        return sum(record.state == DONE for record in records)
    except TableNotFound:
        return 0


@pytest.fixture(scope="session")
def many_chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    make_sample(folder, Sample(grid=MANY, chunk_size=(32, 32, 16)))
    return folder / "segmentation"


@pytest.fixture
def slow_sample(tmp_path: Path, many_chunks: Path) -> Path:
    """The data sets file of a sample of many chunks, so that there is time to disturb its ingest."""
    return dataset_file(tmp_path, many_chunks)


def test_the_store_holds_what_the_kernel_gives_for_every_chunk(undisturbed: Path, sample: Path) -> None:
    store, geometry = open_sample(undisturbed)
    volume = CloudVolume(f"precomputed://file://{sample}", progress=False)[:][..., 0]
    nodes = 0
    for xyz in np.ndindex(*geometry.grid):
        start = np.array(xyz) * geometry.chunk_size
        cutout = volume[tuple(slice(a, a + n) for a, n in zip(start, geometry.chunk_size, strict=True))]
        full = np.zeros(geometry.chunk_size, dtype=np.uint64)
        full[tuple(slice(0, n) for n in cutout.shape)] = cutout
        expected = l2features.compute_features(full, geometry.resolution)
        chunk_id = geometry.layout.chunk_id(*xyz)
        rows = store.scan_chunk(chunk_id, geometry.layout.last_id(chunk_id))
        segments = store.segments(chunk_id)
        assert segments is not None
        np.testing.assert_array_equal(segments, expected["label"])
        np.testing.assert_array_equal(rows.ids, chunk_id + np.arange(1, len(expected) + 1, dtype=np.uint64))
        for name in expected.dtype.names[1:]:
            np.testing.assert_array_equal(rows.features[name], expected[name])
        nodes += len(expected)
    assert nodes > 50
    assert done_chunks(undisturbed) == N_CHUNKS


@pytest.mark.parametrize("runner", ["FnApiRunner", "DirectRunner"])
def test_beams_own_runners_give_the_same_table(
    tmp_path: Path, sample: Path, undisturbed: Path, runner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataset_file(tmp_path, sample)
    assert main(["--config", str(config), "--dataset", "sample", "--create", f"--runner={runner}"]) == 0
    assert "chunks 12" in capsys.readouterr().out
    assert table_bytes(config) == table_bytes(undisturbed)
    assert main(["--config", str(config), "--dataset", "sample", f"--runner={runner}"]) == 0
    assert "chunks_done_before 12" in capsys.readouterr().out


def test_a_second_run_computes_nothing_and_recompute_computes_all(tmp_path: Path, sample: Path) -> None:
    config = dataset_file(tmp_path, sample)
    assert "12 of 12 chunks done" in run_ingest(config, "--create").stdout
    before = table_bytes(config)
    again = run_ingest(config, "--create")
    assert again.returncode == 0
    assert "0 of 12 chunks done (12 were done before): 0 nodes" in again.stdout
    assert "12 of 12 chunks done:" in run_ingest(config, "--recompute").stdout
    assert table_bytes(config) == before


@pytest.mark.parametrize(
    ("flags", "chunks"), [(["--test"], 8), (["--chunks", "0:1,0:2,1:2"], 2), (["--chunks", "2:3,1:2,0:2"], 2)]
)
def test_a_part_of_the_grid(tmp_path: Path, sample: Path, flags: list[str], chunks: int) -> None:
    config = dataset_file(tmp_path, sample)
    done = run_ingest(config, "--create", *flags)
    assert f"{chunks} of {chunks} chunks done" in done.stdout
    assert done_chunks(config) == chunks


@pytest.mark.parametrize(
    ("flags", "keys", "message"),
    [
        ([], {}, "table l2cache_sample is not in sqlite"),
        (
            ["--create", "--timestamp", "yesterday"],
            {},
            "timestamp 'yesterday': expected \"YYYY-MM-DD HH:MM:SS\"",
        ),
        (["--create", "--chunks", "0:9,0:1,0:1"], {}, "expected a part of the grid, which is 0:3,0:2,0:2"),
        (["--create", "--chunks", "1,2"], {}, "expected x0:x1,y0:y1,z0:z1"),
        (["--create", "--no_such_option"], {}, "unknown option --no_such_option"),
        (["--create", "--workers", "0"], {}, "--workers 0: expected 1 or more"),
        (["--create", "--test", "--chunks", "0:1,0:1,0:1"], {}, "not allowed with"),
        (["--create", "--sink", "bigtableio"], {}, "sink bigtableio: the data set's store is sqlite"),
        (["--create"], {"chunk_size": None}, "key 'chunk_size' is missing"),
        (
            ["--create"],
            {"cv_path": "precomputed://file:///no/such/place"},
            "cannot open precomputed://file:///no",
        ),
        (["--create"], {"graph": "bigtable://p"}, "key 'graph': expected flat, graphene or bigtable://"),
    ],
)
def test_a_users_mistake_is_told_before_anything_is_computed(
    tmp_path: Path, sample: Path, flags: list[str], keys: dict[str, object], message: str
) -> None:
    config = dataset_file(tmp_path, sample, **keys)
    done = run_ingest(config, *flags)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode in (1, 2)
    assert not (tmp_path / "l2cache.db").exists()


def test_a_data_set_that_is_not_in_the_file(tmp_path: Path, sample: Path) -> None:
    done = run_ingest(dataset_file(tmp_path, sample), dataset="other")
    assert done.returncode == 2
    assert "'other' is not in the data sets file: expected one of sample" in done.stderr


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
    assert "1 of 12 chunks done (11 were done before)" in run_ingest(config).stdout
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
    workers = [p for p in psutil.Process(job.pid).children() if "beam_jobs.worker" in " ".join(p.cmdline())]
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
    deadly = tmp_path / "sitecustomize.py"
    deadly.write_text(
        "import os, l2features.volume as v\n"
        "read = v.Volume.read\n"
        "def deadly(self, chunk, geometry):\n"
        "    if tuple(chunk) == (1, 0, 0): os.kill(os.getpid(), 9)\n"
        "    return read(self, chunk, geometry)\n"
        "v.Volume.read = deadly\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run_ingest(config, "--create")
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
    assert "the same command goes on from here" in err
    assert "Traceback" not in err
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert f"{done_chunks(slow_sample)} of {N_MANY} chunks done" in out


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


def test_beams_connector_writes_the_same_rows(
    tmp_path: Path, sample: Path, undisturbed: Path, emulator: Emulator
) -> None:
    config = dataset_file(tmp_path, sample, store=STORE_URL, l2cache_id="l2_bigtableio")
    done = run_ingest(config, "--create", "--sink", "bigtableio")
    assert done.returncode == 0, done.stderr
    assert "12 of 12 chunks done" in done.stdout
    assert table_bytes(config) == table_bytes(undisturbed)
    assert done_chunks(config) == 0


def test_a_worker_that_dies_before_beams_connector_has_written_ends_the_job(
    tmp_path: Path, many_chunks: Path, emulator: Emulator
) -> None:
    config = dataset_file(tmp_path, many_chunks, store=STORE_URL, l2cache_id="l2_bigtableio_dies")
    job = start(config, "--create", "--sink", "bigtableio", "--workers", "1")
    wait_until(
        lambda: any("beam_jobs.worker" in " ".join(p.cmdline()) for p in psutil.Process(job.pid).children())
    )
    psutil.Process(job.pid).children()[0].kill()
    _, err = job.communicate(timeout=60)
    assert job.returncode == 1
    assert "error: a worker died (SIGKILL): rows that it had sent may not be written" in err


def test_an_empty_segmentation(tmp_path: Path) -> None:
    info = CloudVolume.create_new_info(
        1, "segmentation", "uint64", "raw", (16, 16, 40), (0, 0, 0), (64, 32, 16)
    )
    volume = CloudVolume(f"precomputed://file://{tmp_path}/empty", info=info, progress=False)
    volume.commit_info()
    config = dataset_file(tmp_path, tmp_path / "empty")
    done = run_ingest(config, "--create")
    assert done.returncode == 0
    assert "2 of 2 chunks done: 0 nodes" in done.stdout


def test_a_locked_store_is_an_error_and_not_a_hang(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataset_file(tmp_path, sample)
    assert run_ingest(config, "--create", "--test").returncode == 0
    holder = sqlite3.connect(tmp_path / "l2cache.db")
    holder.execute("BEGIN EXCLUSIVE")
    short = tmp_path / "sitecustomize.py"
    short.write_text("import l2features.store.sqlite as s\ns.BUSY_TIMEOUT_S = 0.5\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run_ingest(config, "--recompute")
    assert done.returncode == 1
    assert "database is locked" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_older_table_without_meta_is_filled_and_stamped(
    tmp_path: Path, sample: Path, undisturbed: Path, emulator: Emulator
) -> None:
    client = bigtable.Client(project=PROJECT, admin=True)
    client.instance(INSTANCE).table("l2_older").create(column_families={"0": None})
    config = dataset_file(tmp_path, sample, store=STORE_URL, l2cache_id="l2_older")
    assert open_store(STORE_URL, "l2_older").meta() is None
    done = run_ingest(config, "--timestamp", "2020-02-02 02:02:02")
    assert done.returncode == 0
    meta = open_store(STORE_URL, "l2_older").meta()
    assert meta is not None
    assert (meta.graph_id, meta.timestamp) == ("flat", "2020-02-02 02:02:02")
    assert table_bytes(config) == table_bytes(undisturbed)
    refused = run_ingest(config, "--timestamp", "2021-02-02 02:02:02")
    assert "is of timestamp 2020-02-02 02:02:02: 2021-02-02 02:02:02 is refused" in refused.stderr


def test_a_genuine_table_is_ingested_onto(tmp_path: Path, recordings: Recordings) -> None:
    client = bigtable.Client(project=PROJECT, admin=True)
    dump = recordings.dump("cache.json.gz")
    recordings.loader.load(client.instance(INSTANCE), dump, "l2_genuine")
    graph = f"bigtable://{PROJECT}/{INSTANCE}/fixture_v2"
    keys = {"store": STORE_URL, "l2cache_id": "l2_genuine", "graph": graph, "chunk_size": None}
    config = dataset_file(tmp_path, recordings.cv_path("fixture_v2"), **keys)
    done = run_ingest(config)
    assert "12 of 12 chunks done" in done.stdout
    for row in client.instance(INSTANCE).table("l2_genuine").read_rows():
        for family in row.cells.values():
            assert {len(cells) for cells in family.values()} == {1}
    meta = open_store(STORE_URL, "l2_genuine").meta()
    assert meta is not None
    assert meta.timestamp == "2026-11-21 00:27:44"
    assert meta.geometry is not None
    assert len(all_rows(open_store(STORE_URL, "l2_genuine"))) == 159


def test_another_segmentation_does_not_mix_into_a_table(
    tmp_path: Path, sample: Path, many_chunks: Path
) -> None:
    config = dataset_file(tmp_path, sample)
    assert run_ingest(config, "--create", "--test").returncode == 0
    copy = tmp_path / "copy"
    shutil.copytree(sample, copy)
    done = run_ingest(dataset_file(tmp_path, copy), "--create")
    assert done.returncode == 1
    assert f"is of precomputed://file://{sample}, the data set's cv_path is" in done.stderr


@pytest.mark.parametrize("store", ["sqlite", "bigtable"])
def test_recompute_leaves_no_rows_of_segments_that_are_gone(
    tmp_path: Path, sample: Path, undisturbed: Path, emulator: Emulator, store: str
) -> None:
    segmentation = tmp_path / "segmentation"
    shutil.copytree(sample, segmentation)
    keys = {"store": STORE_URL, "l2cache_id": "l2_recompute"} if store == "bigtable" else {}
    config = dataset_file(tmp_path, segmentation, **keys)
    volume = CloudVolume(f"precomputed://file://{segmentation}", progress=False)
    before = volume[:]
    volume[:] = np.where(
        before == 0, 0, np.arange(before.size, dtype=np.uint64).reshape(before.shape) % 50 + 1
    )
    assert run_ingest(config, "--create").returncode == 0
    assert len(table_bytes(config)) > len(table_bytes(undisturbed))
    volume[:] = before
    assert run_ingest(config, "--recompute").returncode == 0
    assert table_bytes(config) == table_bytes(undisturbed)


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


def test_a_graph_that_is_not_there_is_told_before_a_table_is_made(
    tmp_path: Path, sample: Path, recordings: Recordings
) -> None:
    graph = f"bigtable://{PROJECT}/{INSTANCE}/no_such_graph"
    config = dataset_file(tmp_path, recordings.cv_path("fixture_v2"), graph=graph, chunk_size=None)
    done = run_ingest(config, "--create", "--timestamp", "2026-11-21 00:27:44")
    assert done.returncode == 1
    assert f"error: {graph}: there is no such table" in done.stderr
    assert not (tmp_path / "l2cache.db").exists()


def test_a_runner_that_there_is_not(tmp_path: Path, sample: Path) -> None:
    done = run_ingest(dataset_file(tmp_path, sample), "--create", "--runner", "Nonsense")
    assert done.returncode == 2
    assert "error: runner Nonsense: " in done.stderr


def test_a_chunk_that_hangs_is_given_up(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataset_file(tmp_path, sample)
    (tmp_path / "sitecustomize.py").write_text(
        "import time, l2features.volume as v\n"
        "read = v.Volume.read\n"
        "def hanging(self, chunk, geometry):\n"
        "    if tuple(chunk) == (1, 0, 0): time.sleep(600)\n"
        "    return read(self, chunk, geometry)\n"
        "v.Volume.read = hanging\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("beam_jobs.local.CHUNK_TIMEOUT_S", 2.0)
    done = run_ingest(config, "--create", "--chunks", "0:2,0:1,0:1")
    assert done.returncode == 1
    assert "1 of 2 chunks done" in done.stdout
    assert "error: chunk 1,0,0 failed: a worker was ended after 2 s at this chunk, 3 times" in done.stderr
