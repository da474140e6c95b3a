"""Tests of the formats recorded in a SQLite file: unexpected ones, and one added during a read."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from l2features.core.errors import UnknownFormat
from l2features.core.ids import as_ids
from l2features.store.base import Store, open_store
from l2features.store.sqlite import tables
from l2features.testing.stores import FIRST, META, features_of


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite://{tmp_path}/store.db", "t")) as store:
        store.create(META)
        store.write(features_of([FIRST]))
        yield store


def change(store: Store, script: str) -> None:
    with closing(sqlite3.connect(store.url.removeprefix("sqlite://"))) as db:
        db.executescript(script)


@pytest.mark.parametrize("version", ["'3-beta'", "2.5", "x'03'", "''"])
def test_a_version_that_is_no_integer_is_refused_by_name(table: Store, version: str) -> None:
    change(table, f"UPDATE formats SET version = {version} WHERE part = 'nodes'")
    for use in (lambda: table.read([FIRST]), lambda: table.write(features_of([FIRST])), table.meta):
        with pytest.raises(UnknownFormat, match=r"table t in .*: nodes: format .*, expected 2 at most"):
            use()


def test_formats_with_other_columns_are_refused_by_name(table: Store) -> None:
    change(table, "DROP TABLE formats; CREATE TABLE formats (name TEXT, described TEXT)")
    for use in (lambda: table.read([FIRST]), lambda: table.write(features_of([FIRST])), table.meta):
        with pytest.raises(
            UnknownFormat,
            match=r"table t in .*: the description of its formats cannot .* newer version of l2features",
        ):
            use()


@pytest.mark.parametrize("described", [True, False])
def test_a_format_added_while_a_row_is_read_does_not_fail_the_read(
    table: Store, monkeypatch: pytest.MonkeyPatch, described: bool
) -> None:
    if not described:
        change(table, "DROP TABLE formats; ALTER TABLE 't.chunks' DROP COLUMN files")
        change(table, "ALTER TABLE 't.chunks' DROP COLUMN saturated")
    monkeypatch.setattr(tables, "own_format", lambda records: None)  # each write adds a record's format
    before = table.read([FIRST]).features.tobytes()
    writer = open_store(table.url, "t")
    write_between(monkeypatch, lambda: writer.write(features_of([FIRST], seed=9)))
    assert table.read([FIRST]).features.tobytes() == before
    assert table.read([FIRST]).features.tobytes() == features_of([FIRST], seed=9).tobytes() != before
    writer.close()


def write_between(monkeypatch: pytest.MonkeyPatch, write: Callable[[], None]) -> None:
    """Call ``write`` once during the next read, just after this read has loaded the formats."""
    genuine = tables.stored_formats

    def stored_formats(*args: Any) -> Any:
        rows = genuine(*args)
        monkeypatch.setattr(tables, "stored_formats", genuine)
        write()
        return rows

    monkeypatch.setattr(tables, "stored_formats", stored_formats)


def test_a_root_cell_of_a_newer_format_is_refused_by_name(table: Store) -> None:
    table.put_root_cells({7: {"a": b"1"}, 8: {"a": b"2"}})
    for stored, version in (("x'0231'", 2), ("x''", 0)):
        change(table, f"UPDATE 't.roots' SET value = {stored} WHERE root = 7")
        said = rf"table t in .*: cell 'a' of root 7: format {version}, expected 1 at most"
        with pytest.raises(UnknownFormat, match=said):
            table.root_cells(as_ids([7, 8]), ["a"])
    assert table.root_cells(as_ids([8]), ["a"]) == {8: {"a": b"2"}}
