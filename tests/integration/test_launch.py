"""Tests of Dataflow jobs from launch to end: names, output and Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import PermissionDenied

from beam_jobs import audit, ingest, update
from beam_jobs.dataflow import NAME_LENGTH, table_job_name, update_job_name
from l2features.config.datasets import Dataset, load_dataset
from tests.support.dataflow_service import FLAGS, STATES, Service
from tests.support.jobs import Ran, run_job

ID = "2026-11-28_01_02_03-1"
PAGE = f"https://console.cloud.google.com/dataflow/jobs/us-east1/{ID}?project=my-project"
CANCEL = f"gcloud dataflow jobs cancel {ID} --project=my-project --region=us-east1"
DRAIN = CANCEL.replace("cancel", "drain")
STREAM = [
    "--subscriptions=projects/my-project/subscriptions/high",
    "--dead_letters=projects/my-project/topics/dead",
]

pytestmark = pytest.mark.usefixtures("dead_topic")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    service = Service(monkeypatch)
    yield service
    service.close()


def run(main: Any, config: Path, *flags: str) -> Ran:
    dataset = [] if main is update.main else ["--dataset=sample"]
    more = STREAM if main is update.main else []
    return run_job(main, f"--config={config}", *dataset, *more, *FLAGS, *flags)


def name_of(config: Path, job: str = "ingest") -> str:
    return table_job_name(job, load_dataset("sample", config)).removeprefix("--job_name=")


def test_a_batch_job_is_waited_for(config: Path, service: Service) -> None:
    """Check that each printed counter is the sum over all steps."""
    service.counters = [("s1", "failed_chunks", 3), ("s2", "failed_chunks", 1), ("s3", "nodes", 7)]
    done = run(ingest.main, config)
    assert done.stdout.splitlines() == [
        f"started: job {ID} ({name_of(config)})",
        f"page: {PAGE}",
        f"cancel: {CANCEL}",
        "failed_chunks 4, nodes 7",
    ]
    assert done.returncode == 1
    assert "error: 4 chunks failed" in done.stderr


def test_a_streaming_job_is_left(config: Path, service: Service) -> None:
    service.asked = pytest.fail
    done = run(update.main, config)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        f"page: {PAGE}",
        f"drain: {DRAIN}",
        f"cancel: {CANCEL} (loses the messages in flight: audit --repair)",
    ]


@pytest.mark.parametrize(
    ("main", "flag"),
    [
        (audit.main, "--detach"),
        (ingest.main, "--detach"),
        (ingest.main, "--detach=true"),
        (ingest.main, "--wait=false"),
        (ingest.main, "--no_wait_until_finish"),
    ],
)
def test_a_batch_job_that_is_left(config: Path, service: Service, main: Any, flag: str) -> None:
    service.asked = pytest.fail
    done = run(main, config, flag)
    assert done.returncode == 0, done.stderr
    assert "cancel: gcloud dataflow jobs cancel" in done.stdout


@pytest.mark.parametrize(
    ("state", "status", "flag"),
    [
        ("DONE", 0, "--wait"),
        ("DRAINED", 0, "--detach=false"),
        ("UPDATED", 0, "--wait"),
        ("CANCELLED", 1, "--detach=false"),
        ("FAILED", 1, "--wait"),
    ],
)
def test_a_streaming_job_that_is_waited_for(
    config: Path, service: Service, state: str, status: int, flag: str
) -> None:
    service.ends = STATES[f"JOB_STATE_{state}"]
    done = run(update.main, config, flag)
    assert done.returncode == status, done.stderr
    if status:
        assert done.stderr.splitlines()[-1].startswith(f"error: job {ID}: {state}: ")


def test_a_job_that_fails_is_one_line(config: Path, service: Service) -> None:
    service.ends = STATES.JOB_STATE_FAILED
    service.error = 'Traceback (most recent call last):\n  File "a.py", line 1\nValueError: no such thing\n'
    done = run(ingest.main, config)
    assert done.returncode == 1
    assert f"error: job {ID}: FAILED: ValueError: no such thing; see {PAGE}" in done.stderr.splitlines()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_says_that_the_job_goes_on(config: Path, service: Service, number: int) -> None:
    def stop() -> None:
        """Send the signal once. The thread that polls the job outlives the command and would send another."""
        service.asked = lambda: None
        os.kill(os.getpid(), number)

    service.asked = stop
    service.ends = STATES.JOB_STATE_RUNNING
    done = run(ingest.main, config)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == f"stopped waiting; job {ID} continues: {PAGE}; cancel: {CANCEL}"


def test_ctrl_c_while_a_job_is_being_started(config: Path, service: Service) -> None:
    service.before = lambda: signal.raise_signal(signal.SIGINT)
    done = run(ingest.main, config)
    assert done.returncode == 130
    name = name_of(config)
    assert (
        f"stopped while job {name} was being started; to see whether it runs: gcloud dataflow" in done.stderr
    )
    assert f"--filter=name={name} --project=my-project --region=us-east1" in done.stderr


@pytest.mark.parametrize("main", [ingest.main, audit.main, update.main], ids=["ingest", "audit", "update"])
def test_a_second_job_for_the_same_table_is_refused(config: Path, service: Service, main: Any) -> None:
    assert run(main, config, "--detach").returncode == 0
    second = run(main, config, "--detach")
    assert second.returncode == 1
    assert not second.stdout
    error = second.stderr.splitlines()[-1]
    (name,) = service.jobs
    assert error.startswith(f"error: job {name} already runs as {ID}: {PAGE}; ")
    assert CANCEL in error
    assert run(main, config, "--detach", "--job_name=another").returncode == 0
    assert list(service.jobs) == [name, "another"]


def test_what_google_refuses_is_one_line(config: Path, service: Service) -> None:
    def refuse() -> None:
        raise PermissionDenied("dataflow.jobs.create is denied")

    service.before = refuse
    done = run(ingest.main, config)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: Dataflow: 403 dataflow.jobs.create is denied"


def test_who_else_may_be_left(config: Path) -> None:
    for flag in ("--detach", "--wait=false"):
        done = run_job(ingest.main, f"--config={config}", "--dataset=sample", flag)
        assert done.returncode == 2
        wanted = "expected --runner=DataflowRunner; a job on runner local cannot outlive this command"
        assert wanted in done.stderr


def table(name: str, store: str = "bigtable://p/i") -> Dataset:
    return Dataset(name="d", cv_path="precomputed://file:///s", graph="flat", l2cache_id=name, store=store)


def test_names_are_ones_that_dataflow_takes() -> None:
    """Check that names are valid, repeatable, and unique for each job and table."""
    tables = [table(name) for name in ("l2_a", "l2-a", "l2.a", "L2_A", "9", "__", "l" * 49, "l" * 50)]
    names = [table_job_name("ingest", dataset) for dataset in [*tables, table("l2_a", "bigtable://p/j")]]
    names += [table_job_name("audit", tables[0]), update_job_name(["projects/p/subscriptions/b%~"])]
    for name in names:
        assert re.fullmatch(r"--job_name=[a-z]([-a-z0-9]*[a-z0-9])?", name)
        assert len(name) <= len("--job_name=") + NAME_LENGTH
    assert len(set(names)) == len(names)
    assert table_job_name("ingest", table("l2_a")) == names[0]
    assert names[0].startswith("--job_name=l2features-ingest-l2-a-")


def test_an_update_is_named_after_its_subscriptions() -> None:
    a, b = "projects/p/subscriptions/a", "projects/p/subscriptions/b"
    assert update_job_name([a, b]) == update_job_name([b, a, a])
    assert update_job_name([a, b]) != update_job_name([a])
