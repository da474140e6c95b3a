"""Helpers of the tests of audit job."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_jobs.audit import main
from l2features.testing.stores import INSTANCE, PROJECT, STORE_URL
from tests.support.jobs import Ran, Recordings, dataset_file, run_ingest, run_job

T0 = "2026-11-21 00:27:44"


def run_audit(config: Path, *flags: str, processes: bool = False) -> Ran:
    """The audit command."""
    argv = ("--config", config, "--dataset", "sample", "--workers", 1, *flags)
    return run_job(main, *argv, processes=processes)


@pytest.fixture
def at_t0(recordings: Recordings, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The data sets file of a recorded graph, of which the nodes of T0 are ingested."""
    graph = f"bigtable://{PROJECT}/{INSTANCE}/fixture_v2"
    keys = {"store": STORE_URL, "l2cache_id": f"l2_audit_{request.node.name[:20].strip('_')}"}
    config = dataset_file(tmp_path, recordings.cv_path("fixture_v2"), graph=graph, chunk_size=None, **keys)
    done = run_ingest(config, "--create", "--timestamp", T0)
    assert done.returncode == 0, done.stderr
    return config
