"""Tests of jobs on a Dask cluster with scheduler and workers as processes."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from l2features.jobs import dask_workers
from l2features.jobs.dask_workers import PER_THREAD, DaskWorkers
from l2features.store.base import FAILED
from l2features.testing.dask_cluster import DaskCluster
from l2features.testing.emulators import free_port
from tests.support.audit_job import run_audit
from tests.support.ingest_jobs import (
    N_CHUNKS,
    N_MANY,
    done_chunks,
    open_sample,
    run_ingest,
    start,
    table_bytes,
    wait_until,
)
from tests.support.jobs import ROOT, Ran, dataset_file
from tests.support.static_export import run_export
from tests.support.version_job import files_of, run_materialize

TIME = "2026-11-21T00:27:44Z"
KILLS, HANGS, BROKEN = "1056-1088_512-544_20-36", "1056-1088_544-*_36-", "1024-1056_512-544_20-36"
"""Files of the chunks 1,0,0 and 1,1,1 and 0,0,0."""
ENDS = """
import os, sys
def hook(event, arguments):
    if event == "open" and {name!r} in str(arguments[0]) and os.path.exists({deadly!r}):
        os._exit(9)
sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def deadly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a path. While a file exists there, workers exit when they open the file `KILLS`."""
    return tmp_path_factory.mktemp("deadly") / "file"


@pytest.fixture(scope="module")
def cluster(deadly: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Start two workers, one with a nanny and one without."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "sitecustomize.py").write_text(ENDS.format(name=KILLS, deadly=str(deadly)))
    variables = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    with closing(DaskCluster(folder, 1, {**os.environ, **variables})) as cluster:
        cluster.add_worker()
        yield cluster


def test_the_same_files_as_on_one_machine(
    cluster: DaskCluster, sample: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, in_flight = dataset_file(tmp_path, sample), []
    submit = DaskWorkers.submit

    def counted(self: DaskWorkers, chunk: object) -> None:
        submit(self, chunk)  # type: ignore[arg-type]
        in_flight.append(len(self._in_flight) + len(self._submitted))

    monkeypatch.setattr(DaskWorkers, "submit", counted)
    done = run_ingest(config, "--create", *cluster.flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{N_CHUNKS} of {N_CHUNKS} chunks done: ")
    assert max(in_flight) <= PER_THREAD * 2
    assert table_bytes(config) == table_bytes(undisturbed)
    audited = run_audit(config, *cluster.flags)
    assert (audited.returncode, audited.stderr) == (0, "")
    assert audited.stdout == run_audit(config).stdout
    places = [(tmp_path / "here", []), (tmp_path / "dask", cluster.flags)]
    for folder, flags in places:
        made = run_materialize(config, folder / "versions", TIME, *flags)
        assert (made.returncode, made.stderr) == (0, "")
    for folder, flags in places:
        exported = run_export(config, folder / "layers", 1, *flags)
        assert (exported.returncode, exported.stderr) == (0, "")
    here, dask = (files_of(folder) for folder, _ in places)
    assert len(here) > 10
    assert dask == here


def test_chunks_that_kill_hang_and_break(
    cluster: DaskCluster,
    deadly: Path,
    sample: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(sample, tmp_path / "segmentation")
    hangs, broken = (next(tmp_path.glob(f"segmentation/*/{name}*")) for name in (HANGS, BROKEN))
    deadly.touch()
    hangs.unlink()
    os.mkfifo(hangs)
    broken.write_bytes(b"junk")
    monkeypatch.setattr(dask_workers, "CHUNK_TIMEOUT_S", 2.0)
    config = dataset_file(tmp_path, tmp_path / "segmentation")
    done = run_ingest(config, "--create", *cluster.flags)
    deadly.unlink()
    assert done.returncode == 1
    assert f"{N_CHUNKS - 3} of {N_CHUNKS} chunks done" in done.stdout
    assert "Traceback" not in done.stderr
    store, geometry = open_sample(config)
    failed = {record.chunk_id: record.reason for record in store.chunk_records() if record.state == FAILED}
    reasons = [failed.pop(geometry.layout.chunk_id(*xyz)) for xyz in ((1, 0, 0), (1, 1, 1), (0, 0, 0))]
    assert reasons[0] == "a worker died (exit status 9) at this chunk, 3 times"
    assert reasons[1] == "a worker was ended after 2 s without progress at this chunk, 3 times"
    assert reasons[2].startswith("cannot read")
    assert not failed
    assert all(reason in done.stderr for reason in reasons)

    for file in (hangs, broken):
        file.unlink()
        shutil.copy(sample / file.relative_to(tmp_path / "segmentation"), file)
    again = run_ingest(config, *cluster.flags)
    assert (again.returncode, again.stderr) == (0, "")
    assert f"{N_CHUNKS} of {N_CHUNKS} chunks done, {N_CHUNKS - 3} of them before" in again.stdout
    assert table_bytes(config) == table_bytes(undisturbed)


def test_kill_9_of_a_worker(cluster: DaskCluster, slow_sample: Path) -> None:
    job = start(slow_sample, "--create", *cluster.flags)
    wait_until(lambda: done_chunks(slow_sample) > 20)
    worker = cluster.workers.pop(0)
    children = psutil.Process(worker.pid).children(recursive=True)
    assert children
    worker.kill()
    worker.wait()
    out, err = job.communicate(timeout=120)
    assert job.returncode == 0, err
    assert "error" not in err
    assert "Traceback" not in err
    assert f"{N_MANY} of {N_MANY} chunks done: " in out
    assert not psutil.wait_procs(children, timeout=10)[1]


def test_the_next_job_connects_again(cluster: DaskCluster) -> None:
    job: Any = SimpleNamespace(warm_up=int, open_worker=int)
    with closing(DaskWorkers(cluster.address)) as workers:
        for _ in range(2):
            workers.start(job)
            workers.close()


@contextmanager
def after(condition: Callable[[], bool], do: Callable[[], object]) -> Iterator[None]:
    """Call a function in a thread once a condition holds, while the block runs."""

    def wait() -> None:
        wait_until(condition, 60)
        do()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_workers_that_no_longer_answer(
    cluster: DaskCluster, slow_sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Suspend the only worker, kill all workers, kill the scheduler; check the ingest's error each time."""
    monkeypatch.setattr(dask_workers, "WITHOUT_WORKERS_S", 2.0)
    [nanny] = cluster.workers
    [worker] = [p for p in psutil.Process(nanny.pid).children() if "spawn_main" in " ".join(p.cmdline())]
    counts = [0]

    def goes_on() -> bool:
        return done_chunks(slow_sample) > counts[-1] + 10

    def ran(*flags: str) -> Ran:
        done = run_ingest(slow_sample, *flags, *cluster.flags)
        counts.append(done_chunks(slow_sample))
        assert counts[-2] < counts[-1] < N_MANY, done
        return done

    def pause() -> None:
        worker.suspend()
        patch.setattr(dask_workers, "SILENT_S", 2.0)

    with pytest.MonkeyPatch.context() as patch, after(goes_on, pause):
        silent = ran("--create")
    worker.resume()
    why = f"error: scheduler {cluster.address}: 2 chunks in flight, and no result or heartbeat for 2 s\n"
    assert (silent.returncode, silent.stdout, silent.stderr) == (1, "", why)

    with after(goes_on, cluster.stop_workers):
        gone = ran()
    why = f"error: scheduler {cluster.address}: no worker for 2 s\n"
    assert (gone.returncode, gone.stdout, gone.stderr) == (1, "", why)

    cluster.add_worker("--no-nanny")
    with after(goes_on, cluster.stop_scheduler):
        lost = ran()
    assert (lost.returncode, lost.stdout) == (1, "")
    assert lost.stderr.startswith(f"error: scheduler {cluster.address}: ")
    assert lost.stderr.count("\n") == 1


def test_no_scheduler(sample: Path, tmp_path: Path) -> None:
    """Check that the ingest fails within 20 s, with an error of one line."""
    address, begin = f"tcp://127.0.0.1:{free_port()}", time.monotonic()
    flags = ["--runner=DaskRunner", f"--dask_client_address={address}"]
    done = run_ingest(dataset_file(tmp_path, sample), "--create", *flags)
    assert time.monotonic() - begin < 20
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: scheduler {address}: ")
    assert done.stderr.endswith(
        "expected --dask_client_address with the tcp://HOST:PORT of a running scheduler\n"
    )
    assert done.stderr.count("\n") == 1
