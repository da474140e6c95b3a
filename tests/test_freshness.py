"""How fresh a table is: what is recorded, kept with the table, and shown."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from api.kept import Kept
from l2features import freshness
from l2features.audit import Audit
from l2features.audit_summary import AuditSummary, save_audit
from l2features.chunks import parse_box
from l2features.cli import main
from l2features.config import load_dataset
from l2features.errors import StoreError
from l2features.freshness import NOTE, Backlog, Recorder, Updates, read_updates, updates_text
from l2features.notes import AUDIT, audit_text, last_audit
from l2features.store import Store, open_store

from .emulator import Emulator
from .server import Server
from .stores import META, STORE_URL
from .table import DATASET, small_table

NOW = 1_795_000_000.0
BAD_NOTES = [
    "",
    "nothing",
    "[]",
    "null",
    '{"updaters": 3}',
    '{"newest_operation": null, "newest_message": "0001-01-01T00:00:00+23:00", "updaters": []}',
]


def kept(store: Store) -> Updates:
    found = read_updates(store)
    assert found
    return found


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def recorder_of(store: Store, who: str = "") -> Recorder:
    return Recorder(lambda name: open_store(store.url, store.name, deadline_s=20), ["d"], who)


# ------------------------------------------------------------------ what is kept
def test_what_a_table_keeps_of_its_updates(store: Store) -> None:
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


def test_a_message_of_which_the_time_is_not_known_has_no_lag(store: Store) -> None:
    with closing(recorder_of(store)) as recorder:
        recorder.applied(["d"], 0.0, 5, NOW)
        recorder.flush(NOW)
    found = kept(store)
    assert found.newest_operation
    assert (found.newest_operation.published, found.newest_message) == (None, None)
    assert (found.updaters[0].messages, found.updaters[0].lag) == (1, None)
    assert "newest operation applied: 5, published at a time that is not known" in updates_text(found)


def test_lag_is_that_of_the_last_hour_and_the_last_messages(store: Store) -> None:
    with closing(recorder_of(store)) as recorder:
        for i in range(freshness.LAG_MESSAGES + 500):
            recorder.applied(["d"], NOW - (1000 if i < 500 else 2), None, NOW)
        recorder.applied(["d"], NOW + 5, None, NOW + 1)  # by another clock
        recorder.flush(NOW + 1)
        lag = kept(store).updaters[0].lag
        assert lag
        assert (lag.messages, lag.median_s, lag.max_s) == (freshness.LAG_MESSAGES, 2, 2)
        recorder.flush(NOW + freshness.LAG_S + 2)
        assert kept(store).updaters[0].lag is None
        assert kept(store).updaters[0].messages == freshness.LAG_MESSAGES + 501


# ------------------------------------------------------------------ when it is written
def test_it_is_written_where_something_changed_and_once_a_minute(store: Store) -> None:
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
@pytest.mark.parametrize("text", BAD_NOTES)
def test_a_note_that_is_something_else(store: Store, text: str, caplog: pytest.LogCaptureFixture) -> None:
    store.put_note(NOTE, text)
    store.put_note(AUDIT, text)
    with pytest.raises(StoreError, match=f"table {store.name}: the note 'updates' cannot be read: "):
        read_updates(store)
    with pytest.raises(StoreError, match=f"table {store.name}: the note 'audit' cannot be read: "):
        last_audit(store)
    with closing(recorder_of(store)) as recorder:
        recorder.flush(NOW)
    assert kept(store).updaters[0].time == at(NOW)
    assert "it is written anew" in caplog.text


def test_a_store_that_cannot_be_reached_is_tried_again(
    new_store: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    store = new_store()
    caplog.set_level(logging.WARNING)
    with closing(recorder_of(store)) as recorder:
        recorder.applied(["d"], NOW - 1, 4, NOW)
        recorder.flush(NOW)
        recorder.flush(NOW + 10)
        warnings = [r.getMessage() for r in caplog.records if r.name == freshness.__name__]
        assert len(warnings) == 1
        assert warnings[0].startswith("data set d: cannot keep how fresh it is: ")
        store.create(META)
        recorder.flush(NOW + 20)
    found = kept(store)
    assert (found.updaters[0].messages, found.newest_message) == (1, at(NOW - 1))


def test_a_store_that_hangs_holds_up_only_the_call_that_writes(emulator: Emulator, tmp_path: Path) -> None:
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


# ------------------------------------------------------------------ the command
def run_status(config: Path, *options: str) -> Any:
    return CliRunner().invoke(main, ["status", DATASET, "--config", str(config), *options])


def table_of(config: Path) -> Store:
    entry = load_dataset(DATASET, config)
    return open_store(entry.store, entry.l2cache_id)


def record(config: Path) -> Updates:
    """Keep an update and an audit with the table."""
    entry = load_dataset(DATASET, config)
    with closing(table_of(config)) as store:
        geometry = store.geometry()
        assert geometry
        recorder = recorder_of(store, "host-1")
        recorder.applied(["d"], NOW - 2, 17, NOW)
        recorder.backlog(2, NOW - 1)
        recorder.flush(NOW)
        recorder.close()
        audit = Audit(entry, geometry, parse_box("0:3,0:2,0:2", geometry.grid))
        save_audit(store, audit, AuditSummary(chunks=12, expected=9, present=7, missing=2, repaired=1), "run")
        return kept(store)


def test_status_shows_how_fresh_a_table_is(tmp_path: Path) -> None:
    config = small_table(tmp_path)
    found = record(config)
    shown = run_status(config).output.splitlines()
    assert shown[2:4] == [
        "newest operation applied: 17, published 2026-11-18 11:06:38 UTC",
        "newest message applied: published 2026-11-18 11:06:38 UTC",
    ]
    assert shown[4].startswith("updater host-1")
    assert ": 1 messages since 20" in shown[4]
    assert shown[5:7] == [
        "  lag of the last 1: median 2 s, p99 2 s, max 2 s",
        "  backlog: 2 messages, the oldest published 2026-11-18 11:06:39 UTC",
    ]
    assert shown[7].startswith("last audit at 20")
    assert shown[7].endswith(
        " UTC: incomplete: 9 nodes expected, 7 present, 2 missing, of which 1 were repaired"
    )
    state = json.loads(run_status(config, "--json").output)
    assert state["updates"] == found.model_dump(mode="json")
    assert (state["audit"]["complete"], state["audit"]["missing"]) == (False, 2)


def test_an_updater_that_is_silent() -> None:
    text = '{"newest_operation": null, "newest_message": null, "updaters": [{"name": "u", "messages": 0, '
    text += '"since": "2026-11-21T00:00:00Z", "time": "2026-11-21T01:00:00Z", "lag": null, '
    updates = Updates.model_validate_json(text + '"backlog": {"messages": 0, "oldest": null}}]}')
    alive = updates_text(updates, datetime(2026, 11, 21, 1, 2, tzinfo=UTC))
    assert alive.startswith("updater u: 0 messages")
    silent = updates_text(updates, datetime(2026, 11, 21, 1, 4, tzinfo=UTC))
    assert silent.startswith("updater u, silent since 2026-11-21 01:00:00 UTC: 0 messages")


def test_an_audit_in_words(tmp_path: Path) -> None:
    config = small_table(tmp_path)
    record(config)
    with closing(table_of(config)) as store:
        audit = last_audit(store)
    assert audit
    other = audit.model_copy(update={"timestamp": "2026-11-21 00:27:44", "unaudited": 3, "repaired": 0})
    assert audit_text(other).endswith(
        "9 nodes valid at 2026-11-21 00:27:44 expected, 7 present, 2 missing; "
        "3 of 12 chunks could not be audited"
    )


@pytest.mark.parametrize("text", BAD_NOTES)
def test_status_where_notes_are_something_else(tmp_path: Path, text: str) -> None:
    config = small_table(tmp_path)
    with closing(table_of(config)) as store:
        store.put_note(NOTE, text)
        store.put_note(AUDIT, text)
    result = run_status(config)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[-2].startswith("table l2cache_small: the note 'updates' cannot be read: ")
    assert lines[-1].startswith("table l2cache_small: the note 'audit' cannot be read: ")
    in_json = run_status(config, "--json")
    state = json.loads(in_json.stdout)
    assert (state["updates"], state["audit"], in_json.stderr.count("error: table l2cache_small")) == (
        None,
        None,
        2,
    )


# ------------------------------------------------------------------ the API
def info_of(server: Server) -> dict[str, Any]:
    answer = requests.get(f"{server.api}/table/{DATASET}", timeout=20)
    assert answer.status_code == 200
    return answer.json()


def described(server: Server, info: dict[str, Any]) -> bool:
    document = requests.get(f"{server.api}/openapi.json", timeout=20).json()
    schema = {"$ref": "#/components/schemas/TableInfo", "components": document["components"]}
    return Draft202012Validator(schema).is_valid(info)


def test_the_api_says_how_fresh_a_table_is(tmp_path: Path) -> None:
    config = small_table(tmp_path)
    found = record(config)
    with Server(config) as server:
        info = info_of(server)
        assert described(server, info)
        assert datetime.fromisoformat(info["updates"].pop("as_of")).tzinfo
        assert info["updates"] == found.model_dump(mode="json")
        figures = {"complete": False, "expected": 9, "present": 7, "missing": 2, "repaired": 1}
        assert figures.items() <= info["audit"].items()
        assert not {"missing_ids", "problems"} & set(info["audit"])
        assert server.metric("l2cache_newest_message_timestamp_seconds", dataset=DATASET) == NOW - 2
        assert server.metric("l2cache_updater_timestamp_seconds", dataset=DATASET) == NOW
        assert server.metric("l2cache_update_backlog_messages", dataset=DATASET) == 2


def test_the_api_where_nothing_is_kept_or_something_else(tmp_path: Path) -> None:
    config = small_table(tmp_path)
    for text in (None, '{"updaters": [{}]}'):
        if text:
            with closing(table_of(config)) as store:
                store.put_note(NOTE, text)
                store.put_note(AUDIT, text)
        with Server(config) as server:
            info = info_of(server)
            assert (info["updates"], info["audit"]) == (None, None)
            assert described(server, info)
            assert len([r for r in server.records if "the note" in r.get("error", "")]) == (2 if text else 0)


def test_notes_are_read_in_the_background_and_not_at_every_request() -> None:
    read, go_on = [], threading.Event()

    def reading() -> int:
        read.append(1)
        assert go_on.wait(20)
        return len(read)

    slow = Kept(reading, age_s=60.0, share=1.0, first_s=0.05, later_s=20.0)
    assert [slow.get(), slow.get(), len(read)] == [None, None, 1]
    running = slow.refresh()
    assert running
    go_on.set()
    assert running.result(20) == 1
    assert [slow.get() for _ in range(100)] == [1] * 100
    young = Kept(reading, age_s=0.0, share=0.0, first_s=20.0, later_s=20.0)
    assert [young.get(), young.get()] == [2, 3]  # not the one that is too old
