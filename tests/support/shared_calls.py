"""A hook on calls that threads share."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from typing import Any

import pytest


def when_shared(patch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event that is set when a call waits for the result of an equal call (see `SharedCalls`)."""
    waiting = threading.Event()

    def tell_and_wait(running: list[Future[Any]]) -> None:
        waiting.set()
        wait(running)

    patch.setattr("l2features.core.futures.wait", tell_and_wait)
    return waiting
