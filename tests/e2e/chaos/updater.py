"""The updater process of the chaos test, restarted whenever it is down."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from tests.e2e.chaos.world import ROOT

GROUP, SUPERVISOR, WORKER = "group", "supervisor", "worker"
KINDS = {GROUP: 0.6, SUPERVISOR: 0.2, WORKER: 0.2}
"""What is killed, and how often: all its processes, the supervisor alone, one worker alone."""
LOOK_S = 0.2
ORPHANS_S = 30.0
"""Workers whose supervisor was killed end by themselves, after their batch."""


class RestartedUpdater:
    """An updater in its own process group, which logs to ``log``; a context manager."""

    def __init__(self, arguments: Sequence[str], log: Path, kinds: Sequence[str]) -> None:
        self.command = [sys.executable, "-m", "beam_jobs.update", *arguments]
        self.log, self.kinds = log, list(kinds)
        self.starts = 0
        self.kills: Counter[str] = Counter()
        self.ends: list[int] = []
        """Exit statuses with which it ended by itself."""
        self.stops: list[int | None] = []
        """Exit statuses after SIGTERM; None if it did not exit."""
        self.peak_mb = 0.0
        self._groups: list[int] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.start()

    def start(self) -> None:
        """Start the updater, and restart it whenever it exits."""
        self._ended.clear()
        self._start()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._keeper.start()

    def __enter__(self) -> RestartedUpdater:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._keeper.join()
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self.process.wait()

    def kill(self, random: np.random.Generator) -> None:
        weights = np.array([KINDS[kind] for kind in self.kinds])
        kind = str(random.choice(self.kinds, p=weights / weights.sum()))
        with self._lock:
            if self.process.poll() is not None:
                self._start()
            if kind == WORKER and (workers := self._processes()[1:]):
                with contextlib.suppress(psutil.NoSuchProcess):
                    workers[random.integers(len(workers))].kill()
            elif kind == SUPERVISOR:
                self.process.kill()
            else:
                kind = GROUP
                os.killpg(self.process.pid, signal.SIGKILL)
            self.kills[kind] += 1
            if kind != WORKER:
                self.process.wait()

    def stop(self, seconds: float) -> None:
        self._ended.set()
        self._keeper.join()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.stops.append(self.process.wait(seconds))
        except subprocess.TimeoutExpired:
            self.stops.append(None)
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def orphans(self) -> list[int]:
        """Wait up to `ORPHANS_S` for the updater's processes to exit; return ids of those still running."""
        until = time.monotonic() + ORPHANS_S
        while (left := self._left()) and time.monotonic() < until:
            time.sleep(LOOK_S)
        return left

    def _start(self) -> None:
        with self.log.open("a") as out:
            out.write(f"---- start {self.starts}\n")
            out.flush()
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True
            )
        self.starts += 1
        self._groups.append(self.process.pid)

    def _keep(self) -> None:
        while not self._ended.wait(LOOK_S):
            with self._lock:
                status = self.process.poll()
                if status is not None:
                    if status != -signal.SIGKILL:
                        self.ends.append(status)
                    self._start()
            self._measure()

    def _processes(self) -> list[psutil.Process]:
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _measure(self) -> None:
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                self.peak_mb = max(self.peak_mb, process.memory_info().rss / 2**20)

    def _left(self) -> list[int]:
        left = []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and os.getpgid(process.pid) in self._groups:
                    left.append(process.pid)
        return left
