"""What the processes of a program take: memory, threads, files, time of the processor."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import psutil


class Footprint(NamedTuple):
    """What a tree of processes takes at a time; ``pss_mb`` shares out what they have in common."""

    seconds: float
    processes: int
    pss_mb: float
    threads: int
    files: int


def footprint(processes: Sequence[psutil.Process], began: float) -> Footprint:
    """What processes take now; ``began`` is when the clock was 0. One that has ended is left out."""
    count, memory, threads, files = 0, 0, 0, 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
            taken = process.memory_full_info().pss, process.num_threads(), process.num_fds()
            count, memory = count + 1, memory + taken[0]
            threads, files = threads + taken[1], files + taken[2]
    return Footprint(time.monotonic() - began, count, memory / 1e6, threads, files)


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Time that processes have used so far, their ended children included."""
    return sum(sum(process.cpu_times()[:4]) for process in processes)


class Growth(NamedTuple):
    """Medians over the second and the last quarter of some samples."""

    name: str
    before: float
    after: float

    @property
    def by(self) -> float:
        return self.after - self.before


def growths(samples: Sequence[Footprint]) -> list[Growth]:
    """How memory, threads and files of the last quarter differ from those of the second."""
    quarter = len(samples) // 4
    before, after = samples[quarter : 2 * quarter], samples[-quarter:]
    kinds: dict[str, Callable[[Footprint], float]] = {
        "memory (PSS)": lambda sample: sample.pss_mb,
        "threads": lambda sample: sample.threads,
        "open files": lambda sample: sample.files,
    }
    return [
        Growth(name, statistics.median(map(of, before)), statistics.median(map(of, after)))
        for name, of in kinds.items()
    ]
