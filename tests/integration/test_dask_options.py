"""Tests of the options for Dask clusters, and of errors without the Dask extra or the scheduler."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from distributed.client import FutureCancelledError

from beam_jobs import audit, ingest, materialize, precomputed, update
from l2features.cli.commands import main
from l2features.jobs.dask_workers import DaskFailed, DaskWorkers
from tests.support.jobs import run_job

DASK, ADDRESS = "--runner=DaskRunner", "--dask_client_address=tcp://127.0.0.1:1"
MISSING = "error: the module 'distributed' is not installed: pip install 'l2features[dask]'\n"


OUTLIVES = "expected --runner=DataflowRunner; a job on runner DaskRunner cannot outlive this command"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([DASK], "--runner DaskRunner: expected --dask_client_address=tcp://HOST:PORT"),
        (["--runner=dask"], "--runner dask: expected --dask_client_address=tcp://HOST:PORT"),
        ([ADDRESS], "--dask_client_address tcp://127.0.0.1:1: expected --runner=DaskRunner"),
        ([DASK, ADDRESS, "--detach"], OUTLIVES),
    ],
)
def test_options_that_go_together(flags: list[str], message: str) -> None:
    done = run_job(ingest.main, "--dataset", "sample", *flags)
    assert done.returncode == 2
    assert done.stderr.endswith(f"{message}\n")
    if "--detach" not in flags:
        done = run_job(main, "ingest", "sample", *flags)
        assert done.returncode == 2
        assert done.stderr.endswith(f"{message}\n")


def test_updates_do_not_run_on_dask(tmp_path: Path) -> None:
    done = run_job(update.main, "--messages", tmp_path, DASK)
    assert done.returncode == 2
    assert done.stderr.endswith("--runner DaskRunner: this job does not run on Dask\n")


def test_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    done = run_job(ingest.main, "--dataset", "sample", DASK, ADDRESS)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", MISSING)
    ran = CliRunner().invoke(main, ["audit", "sample", DASK, ADDRESS])
    assert (ran.exit_code, ran.output) == (2, MISSING)


@pytest.mark.parametrize("job", [materialize, precomputed])
def test_a_bucket_needs_a_folder_that_workers_share(job: object, tmp_path: Path) -> None:
    (tmp_path / "datasets.yml").write_text(
        "sample: {cv_path: 'gs://b/s', l2cache_id: s, graph: flat, chunk_size: [8, 8, 8], store: 'sqlite:///x.db'}"
    )
    own = {materialize: ["--timestamp=today"], precomputed: ["--version=1"]}[job]  # type: ignore[index]
    config = ["--dataset=sample", f"--config={tmp_path / 'datasets.yml'}"]
    done = run_job(job.main, *config, "--output=gs://bucket/x", *own, DASK, ADDRESS)  # type: ignore[attr-defined]
    why = (
        "error: --output gs://bucket/x: expected --scratch FOLDER too, a folder that all Dask workers share\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", why)
    scratch = tmp_path / "nowhere"
    done = run_job(job.main, *config, "--output=gs://bucket/x", *own, f"--scratch={scratch}")  # type: ignore[attr-defined]
    why = f"error: --scratch {scratch}: expected a folder that exists and is writable\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", why)
    assert audit.parse([*config, DASK, ADDRESS])[0].dask_client_address == "tcp://127.0.0.1:1"


def test_an_error_of_several_lines_becomes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check Dask's error for a chunk that it cancels because the connection to the scheduler was lost."""

    def lost(*_: Any) -> None:
        raise FutureCancelledError("chunk-13", "scheduler-connection-lost", "Client lost the connection")

    client = SimpleNamespace(subscribe_topic=lost)
    monkeypatch.setattr("distributed.Client", lambda *_, **__: client)
    job: Any = SimpleNamespace(warm_up=dict, open_worker=dict)
    with pytest.raises(DaskFailed) as raised:
        DaskWorkers("tcp://host:1").start(job)
    assert str(raised.value) == (
        "scheduler tcp://host:1: chunk-13 cancelled for reason: scheduler-connection-lost. "
        "Client lost the connection"
    )
