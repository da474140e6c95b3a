"""A worker process of a local run.

Each worker is a pebble pool of one process. In a larger pool, the workers share a pipe: a worker that is
killed while it holds the pipe's lock stalls all other workers.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from pebble import ProcessExpired, ProcessPool
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ..core.errors import L2FeaturesError
from . import log_lines
from .processes import STOP_SIGNALS, exit_reason, follow

PICKUP_TIMEOUT_S = 30.0
"""Seconds within which a process must receive each task after its first. Otherwise, it is killed."""
START_TIMEOUT_S = 1_200.0
"""Maximum seconds without progress in a process's first task, which imports, compiles and connects."""


class WorkerDied(L2FeaturesError):
    """A worker process exited during its task."""


class _Process(SpawnProcess):
    """A process that blocks `STOP_SIGNALS`: only its parent stops it."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def terminate(self) -> None:
        """Kill the process; SIGTERM would have no effect."""
        self.kill()


class _Context(SpawnContext):
    """A spawn context whose attribute ``process`` is the process that it started last."""

    process: _Process

    def Process(self, *args: Any, **kwargs: Any) -> _Process:  # type: ignore[override]
        self.process = _Process(*args, **kwargs)
        return self.process


class Worker:
    """A process that runs one task at a time; ``on_done`` is called, by any thread, when a task ends.

    Attributes:
        future: the current task; None if the worker is idle.
        work: the ``work`` that was passed to `schedule` for the latest task.
        ready: whether the process has survived a task. The task may have raised an error.
    """

    def __init__(self, on_done: Callable[[], object] = lambda: None) -> None:
        self.future: Future[tuple[Any, str]] | None = None
        self.work: Any = None
        self.ready = False
        self._on_done, self._timed_out, self._since = on_done, "", 0.0
        self._context = _Context()
        self._progress = self._context.Value("d", 0.0, lock=False)
        start = (os.getpid(), self._progress)
        self._pool = ProcessPool(1, initializer=_start, initargs=start, context=self._context)

    def schedule(self, task: Callable[..., Any], *arguments: object, work: Any = None) -> None:
        """Run a task in the process; ``work`` becomes the attribute of that name."""
        self.work, self._since, future = work, time.monotonic(), Future[tuple[Any, str]]()
        with suppress(RuntimeError):  # the process died while it was idle: `result` raises
            future = self._pool.schedule(_attempt, (task, *arguments))
            future.add_done_callback(lambda _: self._on_done())
        self.future = future

    @property
    def is_over(self) -> bool:
        """Whether the current task or the process has ended."""
        return bool(self.future and self.future.done()) or not self._pool.active

    def result(self) -> tuple[Any, str]:
        """Return a tuple: the result of the ended task; the task's error message, or "".

        Raises WorkerDied if the process died.
        """
        future, self.future = self.future, None
        try:
            if future is None or not future.done():
                raise BrokenProcessPool
            result, error = future.result()
        except (ProcessExpired, BrokenProcessPool) as death:
            code = getattr(death, "exitcode", self._context.process.exitcode)
            raise WorkerDied(self._timed_out or f"a worker died ({exit_reason(code)})") from None
        self.ready = True
        return result, error

    def end_overdue(self, timeout_s: float) -> None:
        """Kill the process if its task makes no progress for ``timeout_s``.

        For the first task, the limit is `START_TIMEOUT_S`. A later task must also start within
        `PICKUP_TIMEOUT_S` after it was scheduled; otherwise, the process is killed.
        """
        if self.future is None:
            return
        now, limit = time.monotonic(), timeout_s if self.ready else START_TIMEOUT_S
        if now - max(self._since, self._progress.value) > limit:
            self._timed_out = f"a worker was ended after {limit:.0f} s without progress"
        elif self.ready and not self.future.running() and now - self._since > PICKUP_TIMEOUT_S:
            self._timed_out = f"a worker was ended: it received no task within {PICKUP_TIMEOUT_S:.0f} s"
        if self._timed_out:
            self.kill()

    @property
    def pid(self) -> int | None:
        return self._context.process.pid

    def kill(self) -> None:
        """Kill the process, and stop the pool from starting another."""
        self._pool.stop()
        if self.pid is not None:  # else it is being started, and `close` ends it
            self._context.process.kill()

    def close(self) -> None:
        """Kill the process; wait until it exits."""
        self.kill()
        self._pool.join()


def close_all(workers: Sequence[Worker]) -> None:
    """Kill all processes, then wait until they exit."""
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.close()


# ------------------------------------------------------------------ in the worker process
_shared: dict[str, Any] = {}
"""The key ``progress`` has the time of the latest progress, in memory shared with the parent."""


def _start(parent: int, progress: Any) -> None:
    follow(parent)
    threadpool_limits(1)
    log_lines.configure()
    tqdm.set_lock(threading.RLock())  # its default is a semaphore, which a killed process leaves behind
    _shared["progress"] = progress


def report_progress() -> None:
    """Reset the timeout of the current task."""
    _shared["progress"].value = time.monotonic()


def _attempt(task: Callable[..., Any], *arguments: object) -> tuple[Any, str]:
    """Return (result, "") or (None, error message). The exception itself may not be picklable."""
    try:
        return task(*arguments), ""
    except L2FeaturesError as error:
        return None, str(error)
    except Exception:
        return None, traceback.format_exc()
