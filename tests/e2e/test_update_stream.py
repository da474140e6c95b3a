"""Tests of recorded edits from Pub/Sub to Bigtable: ingest, updater and audit on emulators."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from l2features.cli.commands import main
from l2features.config.datasets import load_dataset
from l2features.core.ids import as_ids
from l2features.pubsub import letter_topic as box
from l2features.pubsub.subscription import Subscription
from l2features.store.base import open_store
from l2features.testing.emulators import PubSubEmulator
from l2features.testing.feed import Feed
from l2features.testing.stores import INSTANCE, PROJECT
from tests.support.audit_job import run_audit
from tests.support.ingest_jobs import run_ingest
from tests.support.intake import wait_for
from tests.support.jobs import ROOT, Recordings, dataset_file
from tests.support.recordings import check_values
from tests.support.update_replay import EDIT, T0, named, rep

LONGEST_S = 300.0
"""What the start of a few processes may take on a loaded machine."""


@pytest.fixture
def config(recordings: Recordings, tmp_path: Path) -> Path:
    """Ingest the recorded graph at T0; return its data sets file.

    The table is in a new Bigtable instance: the usual one has the recorded table, which has the same name.
    """
    keys = {
        "graph": f"bigtable://{PROJECT}/{INSTANCE}/fixture_v2",
        "store": f"bigtable://{PROJECT}/updates-{uuid.uuid4().hex[:8]}",
        "l2cache_id": "l2cache_fixture",
    }
    config = dataset_file(tmp_path, recordings.cv_path("fixture_v2"), chunk_size=None, **keys)
    config.write_text(json.dumps({"fixture_v2": json.loads(config.read_text())["sample"]}))
    done = run_ingest(config, "--create", "--timestamp", T0, dataset="fixture_v2")
    assert done.returncode == 0, done.stderr
    return config


class Updater:
    """An updater process with a subscription and a dead letter topic."""

    def __init__(self, config: Path, log: Path) -> None:
        self.edits, self.dead, self.log = Feed(), Feed("dead"), log
        command = [sys.executable, "-m", "beam_jobs.update", "--config", str(config)]
        command += ["--subscriptions", self.edits.subscription, "--dead_letters", self.dead.topic]
        command += ["--attempts", "2", "--workers", "1"]
        with log.open("w") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=file, env=dict(os.environ))

    def left(self) -> list[bytes]:
        """Return the messages left in the subscription."""
        subscribed = Subscription(self.edits.subscription)
        left = [message.data for message in subscribed.pull(100, 3)]
        subscribed.close()
        return left


@pytest.fixture
def updater(pubsub: PubSubEmulator, config: Path, tmp_path: Path) -> Iterator[Updater]:
    updater = Updater(config, tmp_path / "log")
    yield updater
    if updater.process.poll() is None:
        updater.process.terminate()
        try:
            updater.process.wait(30)
        except subprocess.TimeoutExpired:
            updater.process.kill()
            updater.process.wait()


def test_edits_from_pubsub_to_bigtable(
    recordings: Recordings, config: Path, updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that nodes named by edits get their recorded features, and that no message is left."""
    ids, features = named(recordings), recordings.json("features.json")["features"]
    dataset = load_dataset("fixture_v2", config)
    store = open_store(dataset.store, dataset.l2cache_id)
    assert not store.read(as_ids(ids)).found.any()
    wait_for(lambda: "is ready" in updater.log.read_text(), LONGEST_S)
    updater.edits.publish(b"poison", attributes=EDIT)
    files = sorted((recordings.folder / "pubsub").glob("*.bin"))
    assert len(files) == 19
    for file in files:
        attributes = json.loads(file.with_suffix(".json").read_text())["attributes"]
        updater.edits.publish(file.read_bytes(), attributes=attributes)

    wait_for(lambda: bool(store.read(as_ids(ids)).found.all()), LONGEST_S)
    rows = store.read(as_ids(ids))
    check_values(rows, {str(node): features[str(node)] for node in ids})
    assert sum(row["rep_coord_nm"].tolist() != rep(features, row) for row in rows.features) <= 1
    audited = run_audit(config, "--dataset", "fixture_v2")
    assert audited.returncode == 0, audited.stderr
    assert audited.stdout.endswith("0 missing\n0 superfluous rows\ncomplete\n")

    wait_for(lambda: updater.log.read_text().count(": refused: ") == 2, LONGEST_S)
    updater.process.send_signal(signal.SIGTERM)
    assert updater.process.wait(60) == 0, updater.log.read_text()
    assert updater.left() == []
    monkeypatch.setattr(box, "QUIET_S", 5.0)
    listed = CliRunner().invoke(main, ["deadletters", "list", updater.dead.subscription])
    assert sorted(line.split()[4:] for line in listed.stdout.splitlines()) == [
        ["fixture_v2", "bad_pickle", "0", "ids"],
        ["fixture_v2", "unknown_node", "2", "ids"],  # the recorded missing ids: the graph has neither
    ]
