"""Processes that end with the one that started them, and the signals that end a process."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable
from functools import partial

_PR_SET_PDEATHSIG = 1


def ending_with_parent(number: signal.Signals) -> Callable[[], object]:
    """What a new process calls, to be sent a signal when the one that started it ends (on Linux)."""
    if sys.platform != "linux":
        return lambda: None
    return partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, number)


def heeded(*signals: signal.Signals) -> list[signal.Signals]:
    """Signals without SIGHUP where that is ignored, as under ``nohup``."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in signals if not (ignored and number is signal.SIGHUP)]
