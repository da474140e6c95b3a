"""A Beam job service and a worker pool for the tests of the portable runner."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from l2features.testing.emulators import free_port, wait_for_port
from tests.support import recorder
from tests.support.dataflow_launch import NO_FREEZE
from tests.support.elsewhere import copy_kernels, environment, make_python, site_packages
from tests.support.jobs import ROOT

PORTABILITY = "apache_beam.runners"


class Cluster(NamedTuple):
    """A Beam job service, and a worker pool with installed packages and no checkout."""

    python: Path
    service: subprocess.Popen[bytes]
    pool: subprocess.Popen[bytes]
    flags: list[str]
    record: Path

    @property
    def endpoint(self) -> str:
        return self.flags[1].partition("=")[2]

    @property
    def deadly(self) -> Path:
        """Return a file that may hold a segmentation file's path. A worker that opens that path exits."""
        return self.record.with_name("deadly")

    @property
    def workers(self) -> list[psutil.Process]:
        return [p for p in psutil.Process(self.pool.pid).children() if p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the workers' Python, in which this repository's packages and `recorder` are installed."""
    folder = tmp_path_factory.mktemp("workers")
    python = make_python(folder)
    site = site_packages(folder)
    build = ["setup.py", "-q", "egg_info", "-e", folder, "build", "-b", folder / "b", "--build-lib", site]
    subprocess.run([sys.executable, *map(str, build)], cwd=ROOT, check=True, capture_output=True)
    copy_kernels(site)
    shutil.copy(recorder.__file__, site / "sitecustomize.py")
    return python


@pytest.fixture(scope="module")
def cluster(python: Path, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    ports, record = (free_port(), free_port()), folder / "record"
    recording = {"RECORD": record, "SEGMENTATION": sample, "DEADLY": folder / "deadly"}
    inside = environment(python, **{name: str(path) for name, path in recording.items()})
    service = [sys.executable, "-m", "tests.support.job_service", f"--port={ports[0]}"]
    pool = [str(python), "-m", f"{PORTABILITY}.worker.worker_pool_main", f"--service_port={ports[1]}"]
    with (folder / "log").open("w") as log:
        processes = (
            subprocess.Popen(service, cwd=ROOT, stdout=log, stderr=log, start_new_session=True),
            subprocess.Popen(pool, cwd=folder, env=inside, stdout=log, stderr=log, start_new_session=True),
        )
    try:
        for port in ports:
            wait_for_port(port, 90)
        flags = [
            "--runner=PortableRunner",
            f"--job_endpoint=127.0.0.1:{ports[0]}",
            "--environment_type=EXTERNAL",
            f"--environment_config=127.0.0.1:{ports[1]}",
            NO_FREEZE,
        ]
        yield Cluster(python, *processes, flags, record)
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
