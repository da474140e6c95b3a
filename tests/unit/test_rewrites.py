"""Tests of a table's generation, an id that changes whenever rows are replaced."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from l2features.core.errors import StoreUnavailable, UnknownFormat
from l2features.core.geometry import Chunk
from l2features.ingest.chunk_results import failed_chunk, save_result
from l2features.store import rewrites
from l2features.store.base import Store, open_store
from l2features.store.rewrites import NOTE, Rewriting, end_rewrites, read_generation
from l2features.testing.stores import FIRST, GEOMETRY, META, features_of

CHUNK = Chunk(1, 0, 1)


@pytest.fixture
def table(tmp_path: Path) -> Store:
    store = open_store(f"sqlite://{tmp_path}/store.db", "rewritten")
    store.create(META)
    return store


def test_no_generation_is_known_while_rows_are_replaced(table: Store) -> None:
    first = read_generation(table)
    assert first == bytes(16)
    with Rewriting(table).open():
        assert read_generation(table) is None
    assert read_generation(table) is None  # the process may write more
    end_rewrites(table)
    second = read_generation(table)
    end_rewrites(table)
    assert None not in (second, read_generation(table))
    assert len({first, second, read_generation(table)}) == 3


def test_the_window_of_a_killed_process_ends(table: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=rewrites.OPEN_S)

    with Rewriting(table).open():
        assert read_generation(table) is None
        monkeypatch.setattr(rewrites, "datetime", Later)
        assert read_generation(table) not in (None, bytes(16))
        monkeypatch.undo()


def test_a_window_is_renewed_before_and_after_a_slow_write(
    table: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewriting, seen = Rewriting(table), []
    for pause in (0.0, 0.0, 0.1):
        with rewriting.open():
            seen.append(table.note(NOTE))
            time.sleep(pause)
    assert len(set(seen)) == 1
    monkeypatch.setattr(rewrites, "RENEW_S", 0.05)
    with rewriting.open():
        seen.append(table.note(NOTE))
        time.sleep(0.1)
    assert len({*seen, table.note(NOTE)}) == 3


def test_a_malformed_note_keeps_nothing_and_is_replaced(
    table: Store, caplog: pytest.LogCaptureFixture
) -> None:
    table.put_note(NOTE, '{"format": 1, "generation": "x"}')
    with caplog.at_level(logging.WARNING):
        assert read_generation(table) is None
    assert "the note 'rewrites' cannot be read: generation" in caplog.text
    end_rewrites(table)
    assert read_generation(table)


def test_a_newer_note_is_refused(table: Store) -> None:
    text = json.dumps({"format": 99})
    table.put_note(NOTE, text)
    for use in (read_generation, end_rewrites, lambda notes: Rewriting(notes).open().__enter__()):
        with pytest.raises(UnknownFormat, match="table rewritten: the note 'rewrites': format 99"):
            use(table)
    assert table.note(NOTE) == text


def test_rows_are_not_written_without_a_window(table: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreUnavailable("down")

    monkeypatch.setattr(table, "put_note", fail)
    result = replace(failed_chunk(CHUNK, ""), features=features_of([FIRST]), failure="")
    with pytest.raises(StoreUnavailable):
        save_result(table, GEOMETRY, result)
    assert not table.read([FIRST]).found.any()


def test_an_ingest_replaces_rows_and_a_failed_chunk_none(table: Store) -> None:
    save_result(table, GEOMETRY, failed_chunk(CHUNK, "cannot read it"))
    assert read_generation(table) == bytes(16)
    save_result(table, GEOMETRY, replace(failed_chunk(CHUNK, ""), features=features_of([FIRST]), failure=""))
    assert table.read([FIRST]).found.all()
    assert read_generation(table) is None
