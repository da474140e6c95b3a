"""Child processes that exit when their parent does, and the signals that stop a process."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

_PR_SET_PDEATHSIG = 1
STOP_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def ending_with_parent(number: signal.Signals) -> Callable[[], object]:
    """Return a function; a child process that calls it gets signal ``number`` when its parent exits.

    The function does nothing on other systems than Linux.
    """
    if sys.platform != "linux":
        return lambda: None
    return partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, number)


def follow(parent: int) -> None:
    """Block `STOP_SIGNALS` and, on Linux, exit when the process ``parent`` exits."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    ending_with_parent(signal.SIGKILL)()
    if os.getppid() != parent:  # the parent exited before
        os._exit(1)


def exit_reason(code: int | None) -> str:
    """Return the name of the signal that ended a process, or its exit status."""
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"


def heeded(*signals: signal.Signals) -> list[signal.Signals]:
    """Return the given signals, without SIGHUP if this process ignores SIGHUP, as under ``nohup``."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in signals if not (ignored and number is signal.SIGHUP)]


@contextmanager
def handled(handler: Any, *signals: signal.Signals) -> Iterator[None]:
    """Handle signals with ``handler`` during the block. An ignored SIGHUP stays ignored."""
    before = {number: signal.signal(number, handler) for number in heeded(*signals)}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
