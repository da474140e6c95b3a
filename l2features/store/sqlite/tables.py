"""The SQL tables of a SQLite file; one of them stores the formats of each table of features.

SQLite's ``user_version`` cannot store the formats: it is one number for the whole file, and a file may have
tables of features in several formats.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
import orjson

from ...core.errors import UnknownFormat
from ...core.ids import Ids, as_ids, to_bytes
from ...core.schema import FEATURES
from ..base import ChunkRecord
from ..formats import check_version, chunk_content, chunk_record
from .records import FIRST, Formats, describe, new_format, own_format, parse

TABLE, NODES, CHUNKS, NOTES = "table", "nodes", "chunks", "notes"
VERSIONS = {TABLE: 1, NODES: 2, CHUNKS: 2, NOTES: 1}
"""For each part of a table, the format that this code writes, which is the newest that it reads.

A table without recorded formats has format 1: its records are not described, and its chunks have no ``files``
and ``saturated``.
"""
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
_RECORD = "id, state, time, nodes, orphans, reason, "
_NEW_COLUMNS = ("files TEXT NOT NULL DEFAULT '{}'", "saturated TEXT NOT NULL DEFAULT '{}'")
CREATE_NOTES = """
CREATE TABLE IF NOT EXISTS notes (
    name TEXT NOT NULL COLLATE NOCASE, note TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (name, note)
) WITHOUT ROWID
"""
_ATTEMPTS = """
CREATE TABLE IF NOT EXISTS "{name}.attempts" (
    chunk INTEGER NOT NULL, work TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (chunk, work)
) WITHOUT ROWID
"""
Row = tuple[str, int, int, str]


@dataclass(frozen=True)
class TableFormats:
    """The formats of one table.

    Attributes:
        records: dtypes of the nodes' records, by length in bytes.
        chunks: format of the chunk records.
        described: whether the file describes the dtypes of the nodes' records.
    """

    records: Formats
    chunks: int
    described: bool


def stored_formats(db: sqlite3.Connection, name: str, where: str) -> tuple[Row, ...]:
    """Return the rows that describe a table's formats, if any.

    Raises UnknownFormat if a newer version of l2features made the SQL table of formats.
    """
    if not exists(db, "formats"):
        return ()
    try:
        query = "SELECT part, size, version, fields FROM formats WHERE name = ?"
        return tuple(db.execute(query, (name,)))
    except sqlite3.OperationalError as error:
        if "no such column" not in str(error):
            raise
        raise UnknownFormat(
            f"{where}: the description of its formats cannot be read ({error}): "
            "a newer version of l2features wrote it and is needed to read it"
        ) from error


@lru_cache(1_000)
def parse_formats(rows: tuple[Row, ...], where: str) -> TableFormats:
    """Return the formats that `stored_formats` read. Raises UnknownFormat for a newer format."""
    records: dict[int, np.dtype] = {}
    chunks = 1
    for part, size, version, fields in rows:
        check_version(version, VERSIONS.get(part, 0), f"{where}: {part}")
        if part == NODES:
            try:
                records[size] = parse(fields, size)
            except ValueError as error:
                raise UnknownFormat(
                    f"{where}: the records of nodes cannot be read: {error}: "
                    "a newer version of l2features is needed"
                ) from error
        elif part == CHUNKS:
            chunks = version
    return TableFormats(records or {FIRST.itemsize: FIRST}, chunks, bool(records))


def create_tables(db: sqlite3.Connection, name: str) -> None:
    """Create a table in the newest formats. An existing table remains unchanged."""
    db.execute(_TABLES)
    if exists(db, f"{name}.nodes"):
        return
    db.execute(f'CREATE TABLE "{name}.nodes" (id INTEGER PRIMARY KEY, features BLOB NOT NULL)')
    db.execute(
        f'CREATE TABLE "{name}.chunks" ('
        "id INTEGER PRIMARY KEY, state TEXT NOT NULL, time TEXT NOT NULL, nodes INTEGER NOT NULL, "
        f"orphans INTEGER NOT NULL, reason TEXT NOT NULL, segments BLOB, {', '.join(_NEW_COLUMNS)})"
    )
    db.execute(f'CREATE INDEX "{name}.states" ON "{name}.chunks" (state, time, nodes)')
    _add_record(db, name, FEATURES)
    for part in (TABLE, CHUNKS, NOTES):
        _add_format(db, name, part)


def upgrade_chunks(db: sqlite3.Connection, name: str, formats: TableFormats) -> None:
    """Upgrade a table's chunk records to the newest format: add the missing columns, if any."""
    if formats.chunks < VERSIONS[CHUNKS]:
        for column in _NEW_COLUMNS:
            db.execute(f'ALTER TABLE "{name}.chunks" ADD COLUMN {column}')
        _add_format(db, name, CHUNKS)


def current_record(db: sqlite3.Connection, name: str, formats: TableFormats) -> np.dtype:
    """Return the dtype for new records; if it is new in the table, store its description in the file."""
    record = own_format(formats.records)
    if record is None:
        if not formats.described:
            _add_record(db, name, FIRST)
        record = new_format(formats.records)
        _add_record(db, name, record)
    return record


def signed(ids: Any) -> list[int]:
    """Return ids as SQLite stores them: as signed integers of the same 64 bits."""
    return as_ids(ids).view(np.int64).tolist()


def listed(ids: Ids) -> str:
    """Return ids as a JSON list of signed integers, for SQLite's json_each (faster than a long IN list)."""
    return orjson.dumps(np.ascontiguousarray(ids).view(np.int64), option=orjson.OPT_SERIALIZE_NUMPY).decode()


def row_of(record: ChunkRecord, segments: Ids | None) -> tuple[Any, ...]:
    """Return the values of a chunk's row, in the order of the SQL table's columns."""
    content = chunk_content(record)
    return (
        *(*signed([record.chunk_id]), record.state, record.time.astimezone(UTC).isoformat()),
        *(content["nodes"], content["orphans"], content["reason"]),
        None if segments is None else to_bytes(as_ids(segments)),
        *(json.dumps(content["files"]), json.dumps(content["saturated"])),
    )


def record_columns(formats: TableFormats) -> str:
    """Return the SQL expression for the columns that `record_of` takes."""
    return _RECORD + ("files, saturated" if formats.chunks > 1 else "'{}', '{}'")


def record_of(row: Sequence[Any], where: str) -> ChunkRecord:
    """Return the chunk record in a row of `record_columns`. Raises StoreError for a malformed record."""
    key, state, time, nodes, orphans, reason, files, saturated = row

    def load() -> tuple[datetime, dict[str, Any]]:
        content = {"nodes": nodes, "orphans": orphans, "reason": reason}
        content |= {"files": json.loads(files), "saturated": json.loads(saturated)}
        return datetime.fromisoformat(time), content

    return chunk_record(key % (1 << 64), state, load, where)


def count_attempts(db: sqlite3.Connection, name: str, chunk: int, works: Sequence[str]) -> list[int]:
    """Add 1 to the attempt count of each task on a chunk; return the new counts.

    ``chunk`` is the signed form of the chunk's id.
    """
    db.execute(_ATTEMPTS.format(name=name))
    query = (
        f'INSERT INTO "{name}.attempts" VALUES (?, ?, 1) '
        "ON CONFLICT (chunk, work) DO UPDATE SET count = count + 1 RETURNING count"
    )
    return [int(db.execute(query, (chunk, work)).fetchone()[0]) for work in works]


def clear_attempts(db: sqlite3.Connection, name: str, chunk: int, works: Sequence[str]) -> None:
    """Set the attempt count of each task on a chunk to 0; ``chunk`` is the signed form of the chunk's id."""
    if exists(db, f"{name}.attempts"):
        query = f'DELETE FROM "{name}.attempts" WHERE chunk = ? AND work = ?'
        db.executemany(query, [(chunk, work) for work in works])


def exists(db: sqlite3.Connection, table: str) -> bool:
    """Return whether the file has an SQL table of this name."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
    return db.execute(query, (table,)).fetchone() is not None


def _add_record(db: sqlite3.Connection, name: str, record: np.dtype) -> None:
    _add_format(db, name, NODES, record.itemsize, describe(record))


def _add_format(db: sqlite3.Connection, name: str, part: str, size: int = 0, fields: str = "") -> None:
    db.execute(_FORMATS)
    row = (name, part, size, VERSIONS[part], fields)
    db.execute("INSERT OR REPLACE INTO formats VALUES (?, ?, ?, ?, ?)", row)
