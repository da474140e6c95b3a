"""The task of a Dask worker for one chunk: a child process computes the chunk, and the worker waits.

So the chunk's imports and Python code do not block the worker's event loop. If a chunk kills or hangs its
child process, only the child ends, and is replaced within seconds. The Dask worker does not unpickle the
job's functions and results.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from distributed import get_worker

from ..core.geometry import Chunk
from ..local.worker import Worker, WorkerDied

IDLE_S = 60.0
"""Seconds that an idle child process waits for its next chunk before it is ended."""
BEAT_S = 60.0
"""Seconds between two heartbeats while a chunk is computed."""


class RunKey(NamedTuple):
    """A run: its unique name, and the seconds that a chunk may take without progress."""

    name: str
    timeout_s: float


class Attempt(NamedTuple):
    """The end of an attempt at a chunk: a pickled result, an error, or how the child process died.

    ``opened`` tells whether the child process had received the chunk before it died.
    """

    result: bytes = b""
    error: str = ""
    died: str = ""
    opened: bool = True


class _Child(Worker):
    """A child process, the run whose chunks it can process, and the timer that ends it when idle."""

    run = ""
    timer: threading.Timer


_idle: list[_Child] = []
_lock = threading.Lock()


def attempt(run: RunKey, work: bytes, chunk: Chunk) -> Attempt:
    """Process a chunk in a child process; return how the attempt ended.

    ``work`` is the pickled pair (``warm_up``, ``open_worker``) of the run's `ChunkJob`.
    """
    child, opened = _take(run.name), False
    try:
        opened = child.run == run.name
        if not opened:
            _, error = _finish(child, run, _open, work)
            if error:
                child.close()
                return Attempt(error=error)
            child.run, opened = run.name, True
        result, error = _finish(child, run, _do, chunk)
    except WorkerDied as death:
        child.close()
        return Attempt(died=str(death), opened=opened)
    if error:
        child.close()
        return Attempt(error=error)
    _put(child)
    return Attempt(result)


def _finish(child: _Child, run: RunKey, task: Callable[..., Any], argument: object) -> tuple[Any, str]:
    """Run a task in a child process; return its result, and its error or "". Raises WorkerDied."""
    child.schedule(task, argument)
    beat = time.monotonic() + BEAT_S
    while not child.is_over:
        wait([child.future] if child.future else [], 1.0)
        child.end_overdue(run.timeout_s)
        if time.monotonic() > beat:
            beat += BEAT_S
            get_worker().log_event(run.name, "chunk still running")
    return child.result()


def _take(run: str) -> _Child:
    """Return an idle child process, preferably one that this run has used; a new one if none is idle."""
    with _lock:
        if _idle:
            child = min(_idle, key=lambda child: child.run != run)
            child.timer.cancel()
            _idle.remove(child)
            return child
    multiprocessing.current_process().daemon = False  # else it may have no children, as below a nanny
    return _Child()


def _put(child: _Child) -> None:
    child.timer = threading.Timer(IDLE_S, _end, [child])
    child.timer.daemon = True
    with _lock:
        _idle.append(child)
    child.timer.start()


def _end(child: _Child) -> None:
    with _lock:
        if child not in _idle:
            return
        _idle.remove(child)
    child.close()


# ------------------------------------------------------------------ in the child
_opened: dict[str, Callable[[Chunk], Any]] = {}


def _open(work: bytes) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])  # which a Dask worker sends when it exits
    warm_up, open_worker = pickle.loads(work)
    with _alone():
        warm_up()
    _opened.clear()  # what an ended run has open
    _opened["run"] = open_worker()


def _do(chunk: Chunk) -> bytes:
    return pickle.dumps(_opened["run"](chunk))


@contextmanager
def _alone() -> Iterator[None]:
    """Let one child process of this machine at a time run the ``with`` block.

    Children that compile at the same time would overwrite each other's cached code.
    """
    with Path(tempfile.gettempdir(), f"l2features-{os.getuid()}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
