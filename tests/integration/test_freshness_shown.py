"""Tests of a table's freshness in the ``status`` command and the API."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import Result
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from api.background import BackgroundCache
from l2features.audit.chunk_audit import Audit
from l2features.audit.summary import AuditSummary, save_audit
from l2features.config.datasets import load_dataset
from l2features.core.chunks import parse_box
from l2features.store.notes import AUDIT, audit_text, last_audit
from l2features.testing.server import Server
from l2features.testing.small_table import DATASET, small_table
from l2features.testing.stores import open_table
from l2features.updates.freshness import NOTE, Updates, updates_text
from tests.support.command import run
from tests.support.freshness import BAD_NOTES, NOW, kept, recorder_of


# ------------------------------------------------------------------ the command
def run_status(config: Path, *options: str) -> Result:
    return run("status", DATASET, "--config", config, *options)


def record(config: Path) -> Updates:
    """Record an update, a backlog and an audit in the table. Return the update and backlog as stored."""
    entry = load_dataset(DATASET, config)
    with closing(open_table(config)) as store:
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


def test_an_audit_as_text(tmp_path: Path) -> None:
    config = small_table(tmp_path)
    record(config)
    with closing(open_table(config)) as store:
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
    with closing(open_table(config)) as store:
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
            with closing(open_table(config)) as store:
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

    slow = BackgroundCache(reading, age_s=60.0, share=1.0, first_s=0.05, later_s=20.0)
    assert [slow.get(), slow.get(), len(read)] == [None, None, 1]
    running = slow.refresh()
    assert running
    go_on.set()
    assert running.result(20) == 1
    assert [slow.get() for _ in range(100)] == [1] * 100
    young = BackgroundCache(reading, age_s=0.0, share=0.0, first_s=20.0, later_s=20.0)
    assert [young.get(), young.get()] == [2, 3]  # not the one that is too old
