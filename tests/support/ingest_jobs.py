"""Helpers that start ingests of the sample and inspect their tables."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil

from beam_jobs.ingest import main
from l2features.core.errors import TableNotFound
from l2features.core.geometry import Geometry
from l2features.store.base import DONE, Store
from l2features.testing.stores import open_table
from tests.support.jobs import MANY, Ran, all_rows, run_job

N_CHUNKS = 12
N_MANY = math.prod(MANY)


def run_ingest(config: Path, *flags: str, dataset: str = "sample", processes: bool = False) -> Ran:
    """Run the ingest command, with one worker unless ``flags`` say otherwise."""
    argv = ("--config", config, "--dataset", dataset, "--workers", 1, *flags)
    return run_job(main, *argv, processes=processes)


def open_sample(config: Path) -> tuple[Store, Geometry]:
    store = open_table(config)
    meta = store.meta()
    assert meta is not None
    assert meta.geometry is not None
    return store, meta.geometry


def table_bytes(config: Path) -> bytes:
    """Return the features of all nodes in a table as bytes."""
    return all_rows(open_sample(config)[0]).features.tobytes()


def start(config: Path, *flags: str, **more: object) -> subprocess.Popen[str]:
    """Start the ingest command in the background, in its own process group."""
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


def workers_of(job: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(job.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def wait_until(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def done_chunks(config: Path) -> int:
    with closing(open_table(config)) as store:
        try:
            return sum(record.state == DONE for record in store.chunk_records())
        except TableNotFound:
            return 0
