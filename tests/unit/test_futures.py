"""Tests of calls that threads share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from l2features.core.futures import Beside, SharedCalls
from tests.support.shared_calls import when_shared


class Calls:
    """A callable that counts its calls. Each waits for ``go_on``, if any; the first may raise ``failure``."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.count, self.failure, self.begun = 0, failure, threading.Event()
        self.go_on: threading.Event | None = None

    def __call__(self) -> int:
        self.count += 1
        number = self.count
        self.begun.set()
        assert self.go_on is None or self.go_on.wait(30)
        if self.failure is not None and number == 1:
            raise self.failure
        return number


def at_once(call: Calls, usable: Callable[[int], bool] = lambda _: True) -> tuple[object, int]:
    """Return the results of two calls with the same key. The first ends once the second waits for it."""
    shared = SharedCalls()
    with ThreadPoolExecutor(1) as pool, pytest.MonkeyPatch.context() as patch:
        call.go_on = when_shared(patch)
        first = pool.submit(shared.run, "key", call, usable)
        assert call.begun.wait(30)
        second = shared.run("key", call, usable)
        return first.exception() or first.result(), second


def test_a_call_in_progress_is_shared() -> None:
    assert at_once(call := Calls()) == (1, 1)
    assert call.count == 1


def test_an_unusable_result_is_not_shared() -> None:
    assert at_once(Calls(), usable=lambda number: number > 1) == (1, 2)


def test_a_failure_is_not_shared() -> None:
    failure = ValueError("once")
    assert at_once(Calls(failure)) == (failure, 2)


def test_only_calls_with_the_same_key_at_once_are_shared() -> None:
    shared, call = SharedCalls(), Calls(ValueError("once"))
    with pytest.raises(ValueError, match="once"):
        shared.run("a", call)
    assert [shared.run("a", call), shared.run("a", call)] == [2, 3]
    both = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda key: shared.run(key, lambda: both.wait(30)), ("b", "c"))
        assert sorted(found) == [0, 1]


def test_a_call_beside_its_caller() -> None:
    beside, go_on = Beside(1), threading.Event()
    first = beside.start(lambda: go_on.wait(10) and threading.get_ident())
    second = beside.start(threading.get_ident)
    assert second() == second() == threading.get_ident()  # no thread was free
    go_on.set()
    assert first() == first() != threading.get_ident()
    until = time.monotonic() + 10
    while (ran_in := beside.start(threading.get_ident)()) == threading.get_ident():
        assert time.monotonic() < until  # the thread is free soon after its result
    assert ran_in != threading.get_ident()


def test_a_call_for_which_the_system_has_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    beside = Beside(1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert beside.start(threading.get_ident)() == threading.get_ident()
    assert beside.start(threading.get_ident)() != threading.get_ident()


@pytest.mark.parametrize("busy", [False, True])
def test_an_error_beside_its_caller(busy: bool) -> None:
    beside, go_on = Beside(1), threading.Event()
    if busy:
        beside.start(lambda: go_on.wait(10))
    failing = beside.start(lambda: int("no number"))
    for _ in range(2):
        with pytest.raises(ValueError, match="no number"):
            failing()
    go_on.set()
