"""Tests of the freshness note, which updaters store in each table: contents, timing and failures."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from l2features.core.errors import StoreError
from l2features.store.base import Store, open_store
from l2features.store.notes import AUDIT, NewerNote, last_audit
from l2features.testing.emulators import Emulator
from l2features.testing.stores import META, STORE_URL
from l2features.updates import recorder as recorder_module
from l2features.updates.freshness import NOTE, Backlog, read_updates, updates_text
from l2features.updates.recorder import Recorder
from tests.support.freshness import BAD_NOTES, NOW, at, kept, recorder_of


# ------------------------------------------------------------------ what is kept
def test_the_note_of_a_table(store: Store) -> None:
    assert read_updates(store) is None
    with closing(recorder_of(store, "one")) as recorder:
        for i in range(100):
            recorder.applied(["d"], NOW - 101 + i, 7 if i == 40 else None, NOW - 100 + i * 2)
        recorder.backlog(3, NOW - 9)
        recorder.flush(NOW)
    found = kept(store)
    assert found.newest_operation
    assert (found.newest_operation.operation_id, found.newest_operation.published) == (7, at(NOW - 61))
    assert found.newest_message == at(NOW - 2)
    [own] = found.updaters
    assert (own.name, own.time, own.messages) == ("one", at(NOW), 100)
    assert own.lag
    assert own.lag.model_dump() == {"messages": 100, "median_s": 50.5, "p99_s": 99.01, "max_s": 100.0}
    assert own.backlog == Backlog(messages=3, oldest=at(NOW - 9))


def test_figures_never_go_back(store: Store) -> None:
    with closing(recorder_of(store, "one")) as recorder:
        recorder.applied(["d"], NOW - 5, 12, NOW)
        recorder.applied(["d"], NOW - 50, 11, NOW)
        recorder.applied(["d"], NOW - 1, None, NOW)
        recorder.flush(NOW)
    before = kept(store)
    with closing(recorder_of(store, "one")) as restarted:
        restarted.applied(["d"], NOW - 100, 3, NOW + 1)
        restarted.flush(NOW + 1)
        after = kept(store)
        assert after.newest_operation == before.newest_operation
        assert after.newest_message == before.newest_message == at(NOW - 1)
        assert [u.messages for u in after.updaters] == [1]
        restarted.applied(["d"], NOW + 2, 13, NOW + 3)
        restarted.flush(NOW + 10)
        restarted.applied(["d"], NOW, 2**63, NOW + 11)  # published before, whatever its number
        restarted.flush(NOW + 20)
    newest = kept(store).newest_operation
    assert newest
    assert (newest.operation_id, newest.published) == (13, at(NOW + 2))


def test_a_message_of_unknown_time_has_no_lag(store: Store) -> None:
    with closing(recorder_of(store)) as recorder:
        recorder.applied(["d"], 0.0, 5, NOW)
        recorder.flush(NOW)
    found = kept(store)
    assert found.newest_operation
    assert (found.newest_operation.published, found.newest_message) == (None, None)
    assert (found.updaters[0].messages, found.updaters[0].lag) == (1, None)
    assert "newest operation applied: 5, published at an unknown time" in updates_text(found)


def test_the_lag_covers_the_last_hour_and_the_latest_messages(store: Store) -> None:
    with closing(recorder_of(store)) as recorder:
        for i in range(recorder_module.LAG_MESSAGES + 500):
            recorder.applied(["d"], NOW - (1000 if i < 500 else 2), None, NOW)
        recorder.applied(["d"], NOW + 5, None, NOW + 1)  # by another clock
        recorder.flush(NOW + 1)
        lag = kept(store).updaters[0].lag
        assert lag
        assert (lag.messages, lag.median_s, lag.max_s) == (recorder_module.LAG_MESSAGES, 2, 2)
        recorder.flush(NOW + recorder_module.LAG_S + 2)
        assert kept(store).updaters[0].lag is None
        assert kept(store).updaters[0].messages == recorder_module.LAG_MESSAGES + 501


# ------------------------------------------------------------------ when it is written
def test_changes_are_written_soon_and_a_sign_of_life_once_a_minute(store: Store) -> None:
    with closing(recorder_of(store)) as recorder:

        def written_at(now: float, final: bool = False) -> datetime:
            recorder.flush(now, final)
            return kept(store).updaters[0].time

        assert written_at(NOW) == at(NOW)  # before there is a message
        assert written_at(NOW + 50) == at(NOW)
        assert written_at(NOW + 61) == at(NOW + 61)
        recorder.applied(["d"], NOW, None, NOW + 62)
        assert written_at(NOW + 62) == at(NOW + 61)
        assert written_at(NOW + 67) == at(NOW + 67)
        recorder.backlog(1)
        assert written_at(NOW + 73) == at(NOW + 73)
        recorder.backlog(1)
        assert written_at(NOW + 80) == at(NOW + 73)
        assert written_at(NOW + 81, final=True) == at(NOW + 81)


def test_several_updaters_of_a_table(store: Store) -> None:
    one, two, three = (recorder_of(store, name) for name in ("one", "two", "three"))
    one.applied(["d"], NOW - 3, 20, NOW)
    one.flush(NOW)
    two.applied(["d"], NOW - 4, 19, NOW)
    two.flush(NOW + 400)
    assert [u.name for u in kept(store).updaters] == ["two", "one"]
    three.flush(NOW + 700)
    found = kept(store)
    assert [u.name for u in found.updaters] == ["three", "two"]
    assert found.newest_operation
    assert found.newest_operation.operation_id == 20
    assert found.newest_message == at(NOW - 3)
    for recorder in (one, two, three):
        recorder.close()


def test_threads_may_record_while_it_is_written(store: Store) -> None:
    recorder = recorder_of(store)

    def record() -> None:
        for i in range(2000):
            recorder.applied(["d"], NOW - 1, i + 1, NOW)
            recorder.backlog(i)

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for i in range(5):
        recorder.flush(NOW + 10 * i)
    for thread in threads:
        thread.join()
    recorder.flush(NOW + 100, final=True)
    recorder.close()
    [own] = kept(store).updaters
    assert (own.messages, own.backlog) == (8000, Backlog(messages=1999, oldest=None))


# ------------------------------------------------------------------ what is wrong
def test_a_note_of_a_newer_format_is_kept(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    text = '{"format": 2, "newest_operation": "of another kind"}'
    store.put_note(NOTE, text)
    with pytest.raises(NewerNote, match=f"table {store.name}: the note 'updates': format 2, expected 1"):
        read_updates(store)
    with closing(recorder_of(store)) as recorder:
        recorder.flush(NOW)
    assert store.note(NOTE) == text
    assert "format 2, expected 1 at most" in caplog.text


@pytest.mark.parametrize("text", BAD_NOTES)
def test_an_invalid_note(store: Store, text: str, caplog: pytest.LogCaptureFixture) -> None:
    store.put_note(NOTE, text)
    store.put_note(AUDIT, text)
    with pytest.raises(StoreError, match=f"table {store.name}: the note 'updates' cannot be read: "):
        read_updates(store)
    with pytest.raises(StoreError, match=f"table {store.name}: the note 'audit' cannot be read: "):
        last_audit(store)
    with closing(recorder_of(store)) as recorder:
        recorder.flush(NOW)
    assert kept(store).updaters[0].time == at(NOW)
    assert "the note will be replaced" in caplog.text


def test_an_unreachable_store_is_retried(
    new_store: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    store = new_store()
    caplog.set_level(logging.WARNING)
    with closing(recorder_of(store)) as recorder:
        recorder.applied(["d"], NOW - 1, 4, NOW)
        recorder.flush(NOW)
        recorder.flush(NOW + 10)
        warnings = [r.getMessage() for r in caplog.records if r.name == recorder_module.__name__]
        assert len(warnings) == 1
        assert warnings[0].startswith("data set d: cannot record its freshness: ")
        store.create(META)
        recorder.flush(NOW + 20)
    found = kept(store)
    assert (found.updaters[0].messages, found.newest_message) == (1, at(NOW - 1))


def test_a_hanging_store_delays_only_the_flush(emulator: Emulator, tmp_path: Path) -> None:
    good, own = open_store(f"sqlite://{tmp_path}/store.db", "good"), Emulator()
    good.create(META)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(own.variable, own.host)
        hanging = open_store(STORE_URL, "hanging", deadline_s=1)
        hanging.create(META)
    own.pause()
    stores, begun = {"a": hanging, "b": good}, threading.Event()

    def opened(name: str) -> Store:
        begun.set()
        return stores[name]

    recorder = Recorder(opened, stores)
    thread = threading.Thread(target=recorder.flush)
    try:
        thread.start()
        assert begun.wait(20)
        recorder.applied(stores, NOW, 1)
        recorder.backlog(1)
        recorder.flush()  # returns, as another call is at work
        assert read_updates(good) is None
        thread.join(30)
        assert not thread.is_alive()
        assert kept(good).updaters[0].messages == 1
    finally:
        own.stop()
        recorder.close()
