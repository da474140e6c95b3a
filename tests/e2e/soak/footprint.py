"""Resource use of processes: memory, threads, open files and CPU time."""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil


class Footprint(NamedTuple):
    """Resource use of all processes together, at one time. PSS divides shared memory among its users."""

    seconds: float
    processes: int
    pss_mb: float
    threads: int
    files: int


def footprint(processes: Sequence[psutil.Process], began: float) -> Footprint:
    """Return the current use, with seconds since ``began``; ended processes are skipped."""
    count, memory, threads, files = 0, 0, 0, 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
            taken = process.memory_full_info().pss, process.num_threads(), process.num_fds()
            count, memory = count + 1, memory + taken[0]
            threads, files = threads + taken[1], files + taken[2]
    return Footprint(time.monotonic() - began, count, memory / 1e6, threads, files)


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Return the CPU time used so far, including ended children."""
    return sum(sum(process.cpu_times()[:4]) for process in processes)


def begin_peaks(processes: Sequence[psutil.Process]) -> dict[int, int]:
    """Reset the peak memory of processes; returns their current memory in bytes."""
    for process in processes:
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    return {process.pid: process.memory_info().rss for process in processes}


def peaks_mb(before: Mapping[int, int]) -> float:
    """Return the sum of each process's peak memory growth since `begin_peaks`, in MB."""
    grown = 0
    for pid, rss in before.items():
        with contextlib.suppress(OSError):
            peak = re.findall(r"^VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            grown += 1024 * int(peak[0]) - rss
    return grown / 1e6


class Growth(NamedTuple):
    """Use of a resource: ``before`` is from the second quarter of the samples, ``after`` from the last."""

    name: str
    before: float
    after: float

    @property
    def by(self) -> float:
        return self.after - self.before


def growths(samples: Sequence[Footprint]) -> list[Growth]:
    """Compare the second and last quarter of samples: median memory, minimum of threads and open files.

    Minimums are compared because work in progress adds threads and files.
    """
    quarter = len(samples) // 4
    before, after = samples[quarter : 2 * quarter], samples[-quarter:]
    kinds: dict[str, Callable[[Sequence[Footprint]], float]] = {
        "memory (median PSS)": lambda part: statistics.median(sample.pss_mb for sample in part),
        "threads (least)": lambda part: min(sample.threads for sample in part),
        "open files (least)": lambda part: min(sample.files for sample in part),
    }
    return [Growth(name, of(before), of(after)) for name, of in kinds.items()]
