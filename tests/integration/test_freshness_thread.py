"""Tests of the thread that writes the freshness of tables."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from beam_jobs.update_transforms import _RecordFn
from l2features.store.base import Store
from l2features.testing.stores import open_table
from l2features.updates.apply import MessageResult
from l2features.updates.freshness import read_updates
from l2features.updates.recorder import Flusher, Recorder
from l2features.updates.updater import Update
from tests.support.freshness import NOW, kept

WAIT_S = 30.0


@contextmanager
def hanging(store: Store, patch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Make `store.put_note` hang: it sets the first event, then waits until the second one is set."""
    hangs, release, put_note = threading.Event(), threading.Event(), store.put_note

    def put(name: str, text: str) -> None:
        hangs.set()
        assert release.wait(WAIT_S)
        put_note(name, text)

    patch.setattr(store, "put_note", put)
    yield hangs, release
    release.set()


def recording(flusher: Flusher) -> _RecordFn:
    fn = _RecordFn(Update(()))
    fn.flusher = flusher
    return fn


def test_a_hanging_store_delays_no_bundle(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_table(config)
    with hanging(store, monkeypatch) as (hangs, release):
        fn = recording(Flusher(Recorder(lambda _: store, ["sample"])))
        fn.finish_bundle()
        assert hangs.wait(WAIT_S)
        for key in "ab":
            fn.process(MessageResult(key, "done", {}, "", ("sample",), NOW, 7))
            fn.finish_bundle()
        fn.teardown()  # gives up after a second
        assert read_updates(store) is None
        release.set()
        assert fn.flusher.finish(WAIT_S)
    assert [updater.messages for updater in kept(store).updaters] == [2]


def test_figures_are_written_after_a_defect(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, recorder = open_table(config), Recorder(lambda _: open_table(config), ["sample"])
    flush, calls = recorder.flush, list[Any]()

    def flush_later(*arguments: Any, **named: Any) -> None:
        calls.append(named)
        if len(calls) == 1:
            raise ZeroDivisionError
        flush(*arguments, **named)

    monkeypatch.setattr(recorder, "flush", flush_later)
    flusher = Flusher(recorder)
    flusher.finish(WAIT_S)
    recorder.applied(["sample"], NOW, 7)
    assert flusher.finish(WAIT_S)
    assert [updater.messages for updater in kept(store).updaters] == [1]
