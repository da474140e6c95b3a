"""Tests of launching updates: on any runner, the topic of dead letters must exist."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from beam_jobs import update
from l2features.testing.emulators import PubSubEmulator
from l2features.updates.recorder import Recorder
from tests.support.dataflow_service import FLAGS, Service
from tests.support.jobs import run_job
from tests.support.letters import Subscribed
from tests.support.update_replay import record
from tests.support.updates import EDIT, edit

MISSING = "projects/test-project/topics/not-there"
READS = "--subscriptions=projects/my-project/subscriptions/high"


def refused(ran: Any) -> bool:
    return bool(
        ran.returncode == 1
        and not ran.stdout
        and ran.stderr.splitlines()[-1].startswith(
            f"error: dead letters: topic {MISSING}: cannot publish: 404"
        )
    )


def test_no_job_on_dataflow_without_its_topic(
    pubsub: PubSubEmulator, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(monkeypatch)
    flags = [f"--config={undisturbed}", READS, *FLAGS]
    assert refused(run_job(update.main, *flags, f"--dead_letters={MISSING}"))
    assert not service.jobs
    done = run_job(update.main, *flags, f"--dead_letters={Subscribed().topic}")
    assert done.returncode == 0, done.stderr
    assert len(service.jobs) == 1


@pytest.mark.parametrize("runner", [[], ["--runner=FnApiRunner"]], ids=["local", "FnApiRunner"])
def test_no_replay_without_its_topic(
    pubsub: PubSubEmulator, config: Path, tmp_path: Path, runner: list[str]
) -> None:
    """The message needs no dead letter, so only the check at the launch finds that the topic is missing."""
    messages = tmp_path / "messages"
    record(messages, "nothing", edit(), EDIT)
    flags = [f"--config={config}", f"--messages={messages}", *runner]
    assert refused(run_job(update.main, *flags, f"--dead_letters={MISSING}"))
    done = run_job(update.main, *flags, f"--dead_letters={Subscribed().topic}")
    assert done.stdout.startswith("1 of 1 messages done"), done.stderr


def test_updaters_with_the_same_host_and_process_id_have_different_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Containers may share a host name, and their processes all have the id 1."""
    monkeypatch.setattr(socket, "gethostname", lambda: "h" * 64)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    names = {Recorder(pytest.fail).who for _ in range(20)}
    assert len(names) == 20
    assert max(map(len, names)) <= 100
    assert Recorder(pytest.fail, who="mine").who == "mine"
