"""A worker process in a pebble pool of its own.

The workers of a larger pool share a pipe: one that is killed while it holds the lock of the pipe stalls the
others, and one that is killed before it acknowledged a task loses that task.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from pebble import ProcessExpired, ProcessPool

from ..core.errors import L2FeaturesError
from .processes import STOP_SIGNALS, blocked, exit_reason, follow


class WorkerDied(L2FeaturesError):
    """A worker process ended before its task did."""


class TaskFailed(L2FeaturesError):
    """A task raised an error; its process lives."""


class _Process(SpawnProcess):
    """A process that blocks the signals that stop a job: its parent decides when it stops."""

    def start(self) -> None:
        with blocked(*STOP_SIGNALS):
            super().start()

    def terminate(self) -> None:
        """Kill the process, as it blocks SIGTERM."""
        self.kill()


class _Context(SpawnContext):
    """Starts `_Process`es, and keeps the latest."""

    process: _Process

    def Process(self, *args: Any, **kwargs: Any) -> _Process:  # type: ignore[override]
        self.process = _Process(*args, **kwargs)
        return self.process


class Worker:
    """One process, which runs one task at a time and exits with its parent.

    ``context`` is that of `multiprocessing`; the process calls ``initializer`` first.
    """

    def __init__(self, initializer: Callable[..., object] | None = None, *initargs: Any) -> None:
        self.context = _Context()
        start = (os.getpid(), initializer, initargs)
        self._pool = ProcessPool(1, initializer=_start, initargs=start, context=self.context)
        self.future: Future[Any] = Future()

    @property
    def pid(self) -> int | None:
        return self.context.process.pid

    def run(self, task: Callable[..., Any], *args: Any, timeout: float | None = None) -> None:
        """Start a task, which is killed with its process after ``timeout`` seconds."""
        self.future, self._timeout = Future(), timeout
        with suppress(RuntimeError):  # the process died while it was idle: see `result`
            self.future = self._pool.schedule(_attempt, (task, *args), timeout=timeout)

    @property
    def is_over(self) -> bool:
        """Whether the task or the process has ended."""
        return self.future.done() or not self._pool.active

    def result(self) -> Any:
        """Return the result of a task that is over. Raises WorkerDied or TaskFailed."""
        try:
            if not self.future.done():
                raise BrokenProcessPool
            result, error = self.future.result()
        except TimeoutError:
            raise WorkerDied(f"a worker was ended after {self._timeout:.0f} s") from None
        except (ProcessExpired, BrokenProcessPool) as death:
            self.context.process.join(1)
            code = getattr(death, "exitcode", self.context.process.exitcode)
            raise WorkerDied(f"a worker died ({exit_reason(code)})") from None
        if error:
            raise TaskFailed(error)
        return result

    def kill(self) -> None:
        """Kill the process, and stop the pool from starting another."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self.context.process.kill()

    def close(self) -> None:
        """Kill the process, and wait for its end."""
        self.kill()
        self._pool.join()


def _start(parent: int, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    follow(parent)
    if initializer:
        initializer(*initargs)


def _attempt(task: Callable[..., Any], *args: Any) -> tuple[Any, str]:
    """Return a result, or the message of an error: not every exception can be pickled."""
    try:
        return task(*args), ""
    except L2FeaturesError as error:
        return None, str(error)
    except Exception:
        return None, traceback.format_exc()
