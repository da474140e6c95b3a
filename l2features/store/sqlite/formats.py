"""The tables of a SQLite file, and what the file says of their formats.

Why a table and not SQLite's ``user_version``: that is one number for the whole file, in which tables of
several versions may lie.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ...core.errors import UnknownFormat
from ...core.schema import FEATURES
from ..stored import unknown_format
from .records import FIRST, Formats, describe, new_format, parse

TABLE, NODES, CHUNKS, NOTES = "table", "nodes", "chunks", "notes"
VERSIONS = {TABLE: 1, NODES: 2, CHUNKS: 2, NOTES: 1}
"""The newest version of each part that this code reads, which it writes. Version 1 is what a file has that
says nothing of its formats: records that are not described, chunks without ``files`` and ``saturated``."""
_FORMATS = """
CREATE TABLE IF NOT EXISTS formats (
    name TEXT NOT NULL COLLATE NOCASE, part TEXT NOT NULL, size INTEGER NOT NULL, version INTEGER NOT NULL,
    fields TEXT NOT NULL, PRIMARY KEY (name, part, size)
) WITHOUT ROWID
"""
_TABLES = """
CREATE TABLE IF NOT EXISTS tables (
    name TEXT PRIMARY KEY COLLATE NOCASE, graph_id TEXT NOT NULL, cv_path TEXT NOT NULL,
    timestamp TEXT NOT NULL, geometry TEXT
) WITHOUT ROWID
"""
_NODES = 'CREATE TABLE "{name}.nodes" (id INTEGER PRIMARY KEY, features BLOB NOT NULL)'
_CHUNKS = """
CREATE TABLE "{name}.chunks" (
    id INTEGER PRIMARY KEY, state TEXT NOT NULL, time TEXT NOT NULL, nodes INTEGER NOT NULL,
    orphans INTEGER NOT NULL, reason TEXT NOT NULL, segments BLOB, {new}
)
"""
_NEW_COLUMNS = ("files TEXT NOT NULL DEFAULT '{}'", "saturated TEXT NOT NULL DEFAULT '{}'")
_STATES = 'CREATE INDEX "{name}.states" ON "{name}.chunks" (state, time)'
_CREATE_NOTES = """
CREATE TABLE IF NOT EXISTS notes (
    name TEXT NOT NULL COLLATE NOCASE, note TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (name, note)
) WITHOUT ROWID
"""
_ADD = "INSERT OR REPLACE INTO formats VALUES (?, ?, ?, ?, ?)"
_READ = "SELECT part, size, version, fields FROM formats WHERE name = ?"
Row = tuple[str, int, int, str]


@dataclass(frozen=True)
class TableFormats:
    """The formats of one table: the records of its nodes, by length, and the version of its chunks."""

    records: Formats
    chunks: int
    described: bool


def stored_formats(db: sqlite3.Connection, name: str, where: str) -> list[Row]:
    """Return what the file says of a table; nothing in an older file.

    Raises UnknownFormat, which says ``where``.
    """
    if not exists(db, "formats"):
        return []
    try:
        return db.execute(_READ, (name,)).fetchall()
    except sqlite3.OperationalError as error:
        if "no such column" not in str(error):
            raise
        raise UnknownFormat(
            f"{where}: its formats are described in another way ({error}): "
            "a newer version of l2features wrote it and is needed to read it"
        ) from error


def parse_formats(rows: Iterable[Row], where: str) -> TableFormats:
    """Return the formats of a table. Raises UnknownFormat, which says ``where``."""
    records: dict[int, np.dtype] = {}
    chunks = 1
    for part, size, version, fields in rows:
        newest = VERSIONS.get(part, 0)
        if type(version) is not int or not 1 <= version <= newest:
            raise unknown_format(f"{where}: {part}", version, newest)
        if part == NODES:
            try:
                records[size] = parse(fields, size)
            except ValueError as error:
                raise UnknownFormat(
                    f"{where}: the record of its nodes: {error}: a newer version of l2features is needed"
                ) from error
        elif part == CHUNKS:
            chunks = version
    return TableFormats(records or {FIRST.itemsize: FIRST}, chunks, bool(records))


def create_tables(db: sqlite3.Connection, name: str) -> None:
    """Create what a table needs, of this version's formats; one that exists stays as it is."""
    db.execute(_TABLES)
    if exists(db, f"{name}.nodes"):
        return
    db.execute(_NODES.format(name=name))
    db.execute(_CHUNKS.format(name=name, new=", ".join(_NEW_COLUMNS)))
    db.execute(_STATES.format(name=name))
    _add_record(db, name, FEATURES)
    for part in (TABLE, CHUNKS, NOTES):
        _add_part(db, name, part)


def create_notes(db: sqlite3.Connection) -> None:
    """Create the table of notes if it is missing."""
    db.execute(_CREATE_NOTES)


def upgrade_chunks(db: sqlite3.Connection, name: str, formats: TableFormats) -> None:
    """Let a table's chunks have this version's columns."""
    if formats.chunks < VERSIONS[CHUNKS]:
        for column in _NEW_COLUMNS:
            db.execute(f'ALTER TABLE "{name}.chunks" ADD COLUMN {column}')
        _add_part(db, name, CHUNKS)


def add_own_record(db: sqlite3.Connection, name: str, formats: TableFormats) -> np.dtype:
    """Describe today's record beside those that the table has; returns it."""
    if not formats.described:
        _add_record(db, name, FIRST)
    record = new_format(formats.records)
    _add_record(db, name, record)
    return record


def exists(db: sqlite3.Connection, table: str) -> bool:
    """Return whether the file has an SQL table of this name."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
    return db.execute(query, (table,)).fetchone() is not None


def _add_part(db: sqlite3.Connection, name: str, part: str) -> None:
    db.execute(_FORMATS)
    db.execute(_ADD, (name, part, 0, VERSIONS[part], ""))


def _add_record(db: sqlite3.Connection, name: str, record: np.dtype) -> None:
    db.execute(_FORMATS)
    db.execute(_ADD, (name, NODES, record.itemsize, VERSIONS[NODES], describe(record)))
