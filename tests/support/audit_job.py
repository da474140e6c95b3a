"""Helpers that ingest a recorded graph and run the audit."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_jobs.audit import main
from l2features.testing.stores import INSTANCE, PROJECT, STORE_URL
from tests.support.ingest_jobs import run_ingest
from tests.support.jobs import Ran, Recordings, dataset_file, run_job

T0 = "2026-11-21 00:27:44"


def run_audit(config: Path, *flags: str, processes: bool = False) -> Ran:
    argv = ("--config", config, "--dataset", "sample", "--workers", 1, *flags)
    return run_job(main, *argv, processes=processes)


@pytest.fixture
def at_t0(recordings: Recordings, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return the data sets file of fixture_v2, ingested at T0 into Bigtable."""
    graph = f"bigtable://{PROJECT}/{INSTANCE}/fixture_v2"
    keys = {"store": STORE_URL, "l2cache_id": f"l2_audit_{request.node.name[:20].strip('_')}"}
    config = dataset_file(tmp_path, recordings.cv_path("fixture_v2"), graph=graph, chunk_size=None, **keys)
    done = run_ingest(config, "--create", "--timestamp", T0)
    assert done.returncode == 0, done.stderr
    return config
