"""Run a job as users do, and measure its time, core-seconds and memory."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.servers import ROOT


@dataclass
class Run:
    """One run of a job: seconds, core-seconds, peak MB of its largest process, MB read (0: not measured)."""

    seconds: float
    core_seconds: float
    memory_mb: float
    read_mb: float = 0.0


def run_job(
    module: str, arguments: Sequence[str], log: Path, variables: Mapping[str, str] | None = None
) -> Run:
    """Run ``python -m module``. Raises RuntimeError, with the end of the log, if the job fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("wb") as file:
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=file, stderr=file)
        with MemoryPeak(process.pid) as peak:
            status = process.wait()
    if status != 0:
        raise RuntimeError(f"{module} exited with {status}:\n{log.read_text()[-3000:]}")
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cores = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(seconds, cores, peak.mb)


class MemoryPeak:
    """Measures, every 0.5 s, the largest proportional set size (MB) among a process and its descendants."""

    def __init__(self, pid: int) -> None:
        self.mb, self._pid, self._done = 0.0, pid, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> MemoryPeak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.5):
            try:
                parent = psutil.Process(self._pid)
                for process in (parent, *parent.children(recursive=True)):
                    self.mb = max(self.mb, process.memory_full_info().pss / 1e6)
            except psutil.Error:
                continue
