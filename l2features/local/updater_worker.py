"""Worker processes of the local updater.

Each worker is a pebble pool of one process. In a larger pool the workers share a pipe, and a worker that is
killed while it holds the lock of that pipe stalls all others.
"""

from __future__ import annotations

import functools
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from pebble import ProcessExpired, ProcessPool
from threadpoolctl import threadpool_limits

from .. import kernel
from ..core.errors import L2FeaturesError
from ..messages.parts import Delivery
from ..pubsub.dead_letters import DeadLetters, open_dead_letters
from ..pubsub.intake import Leased
from ..store.bigtable import decoded
from ..updates.apply import MessageResult, apply_batch
from ..updates.updater import Update, Updater
from .processes import STOP_SIGNALS, blocked, exit_reason, follow

BATCH_TIMEOUT_S, PICKUP_TIMEOUT_S = 3_600.0, 30.0
"""A worker is killed after so long without progress, and if it has not received its batch after so long."""


@dataclass(frozen=True)
class Setup:
    """What every worker receives: how messages are applied, and where dead letters go."""

    update: Update
    dead_letters: str


class WorkerDied(L2FeaturesError):
    """A worker process ended before its task did."""


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
    """A process that applies one batch at a time; ``on_done`` is called, by any thread, when a task ended."""

    def __init__(self, setup: Setup, on_done: Callable[[], object]) -> None:
        self.setup, self.on_done = setup, on_done
        self.ready = False
        self._context = _Context()
        self._progress = self._context.Value("d", 0.0, lock=False)
        start = (os.getpid(), self._progress)
        self._pool = ProcessPool(1, initializer=_start, initargs=start, context=self._context)
        self._timed_out = ""
        self._future: Future[Any] | None = None
        self.apply((), ())  # which opens what it needs

    @property
    def is_idle(self) -> bool:
        return self.ready and self._future is None

    @property
    def is_over(self) -> bool:
        """Whether its task or its process has ended."""
        return bool(self._future and self._future.done()) or not self._pool.active

    def apply(self, batch: Sequence[Leased], deliveries: Iterable[Delivery]) -> None:
        """Start to apply a batch. A dead worker is detected later, by `is_over`."""
        self.batch, self._since, future = batch, time.monotonic(), Future[Any]()
        with suppress(RuntimeError):  # the process died while it was idle
            future = self._pool.schedule(_apply, (self.setup, list(deliveries)))
            future.add_done_callback(lambda _: self.on_done())
        self._future = future

    def result(self) -> tuple[list[MessageResult], str]:
        """Return the results of its task, or the message of its error. Raises WorkerDied."""
        future, self._future = self._future, None
        try:
            if future is None or not future.done():
                raise BrokenProcessPool
            results, error = future.result()
        except (ProcessExpired, BrokenProcessPool) as death:
            self._context.process.join(1)
            code = getattr(death, "exitcode", self._context.process.exitcode)
            raise WorkerDied(self._timed_out or f"a worker died ({exit_reason(code)})") from None
        self.ready = True
        return results, error

    def end_overdue(self) -> None:
        """Kill the worker if its batch makes no progress."""
        if not self.batch or not self._future:
            return
        now = time.monotonic()
        if now - max(self._since, self._progress.value) > BATCH_TIMEOUT_S:
            self._timed_out = f"a worker was killed after {BATCH_TIMEOUT_S:.0f} s without progress"
            self.kill()
        elif not self._future.running() and now - self._since > PICKUP_TIMEOUT_S:
            self._timed_out = f"a worker was killed that received no batch in {PICKUP_TIMEOUT_S:.0f} s"
            self.kill()

    @property
    def pid(self) -> int | None:
        return self._context.process.pid

    def kill(self) -> None:
        """Kill the process, and stop the pool from starting another."""
        self._pool.stop()
        self._context.process.kill()

    def close(self) -> None:
        """Kill the process, and wait for its end."""
        self.kill()
        self._pool.join()


# ------------------------------------------------------------------ in the worker process
_shared: dict[str, Any] = {}
"""``progress``: the time of the latest progress, in memory shared with the supervisor."""


def _start(parent: int, progress: Any) -> None:
    follow(parent)
    _shared["progress"] = progress
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


@functools.cache
def _opened(setup: Setup) -> tuple[Updater, DeadLetters]:
    """Load compiled code, and open stores and volumes, once for all batches."""
    kernel.warm_up()
    decoded.warm_up()
    threadpool_limits(1)
    return setup.update.open(), open_dead_letters(setup.dead_letters)


def _apply(setup: Setup, deliveries: Sequence[Delivery]) -> tuple[list[MessageResult], str]:
    """Return the results of a batch, or the message of an error: not every exception can be pickled."""

    def report_progress() -> None:
        _shared["progress"].value = time.monotonic()

    try:
        updater, letters = _opened(setup)
        return apply_batch(updater, deliveries, letters, report_progress), ""
    except L2FeaturesError as error:
        return [], str(error)
    except Exception:
        return [], traceback.format_exc()
