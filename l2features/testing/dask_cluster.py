"""A Dask cluster on this machine, as users start it: the scheduler and each worker is a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .emulators import free_port, wait_for_port

LOOPBACK = "127.0.0.1"
START_S = 60.0


class DaskCluster:
    """A scheduler, and workers with one thread each; their logs are in ``folder``.

    Attributes:
        flags: the options with which a job runs on the cluster.
    """

    def __init__(self, folder: Path, workers: int = 0, environment: Mapping[str, str] | None = None) -> None:
        self.folder, self.environment = folder, environment
        port = free_port()
        self.address = f"tcp://{LOOPBACK}:{port}"
        self.flags = ["--runner=DaskRunner", f"--dask_client_address={self.address}"]
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", f"--host={LOOPBACK}", f"--port={port}")
        wait_for_port(port, START_S)
        for _ in range(workers):
            self.add_worker("--no-nanny")

    def add_worker(self, *flags: str) -> subprocess.Popen[bytes]:
        """Start a worker, and return its process; without ``--no-nanny``, return the nanny's process."""
        place = f"--local-directory={self.folder}"
        self.workers.append(self._start("worker", self.address, "--nthreads=1", place, *flags))
        return self.workers[-1]

    def stop_workers(self) -> None:
        """Kill all workers."""
        while self.workers:
            _kill(self.workers.pop())

    def stop_scheduler(self) -> None:
        """Kill the scheduler."""
        _kill(self.scheduler)

    def close(self) -> None:
        """Kill all processes."""
        self.stop_workers()
        self.stop_scheduler()

    def _start(self, what: str, *flags: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", what, *flags, "--no-dashboard"]
        with (self.folder / f"{what}.log").open("ab") as log:
            return subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
