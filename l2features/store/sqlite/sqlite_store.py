"""The embedded store: one SQLite file, for any number of tables.

A row's value is one record (`records`), so that reading needs no work per attribute. Ids are
stored as the signed integers of the same 64 bits. The table ``formats`` says how to read the rest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ...core.errors import StoreError, TableExists
from ...core.geometry import Geometry
from ...core.ids import Ids, as_ids
from ...core.rows import Rows
from ...core.schema import FEATURES, NAMES
from ..base import DEADLINE_S, DONE, FAILED, ChunkRecord, Coverage, Meta, check_note_name
from ..stored import geometry_text, parse_geometry, parse_segments
from .attempt_rows import clear_attempts, count_attempts
from .chunk_rows import INCOMPLETE, INSERT, SCAN_ROWS, chunk_of, chunk_values, listed, page_query, signed
from .connections import Connections
from .database_file import path_of, store_error
from .formats import (
    Row,
    TableFormats,
    add_own_record,
    create_notes,
    create_tables,
    exists,
    parse_formats,
    stored_formats,
    upgrade_chunks,
)
from .records import decode, encode, own_format

T = TypeVar("T")


class SqliteStore:
    """See `l2features.store.Store`."""

    def __init__(self, url: str, name: str, deadline_s: float = DEADLINE_S) -> None:
        self.url, self.name, self.path, self.deadline_s = url, name, path_of(url), deadline_s
        self._connections = Connections(self.path, deadline_s)
        self._known: tuple[list[Row], TableFormats] | None = None

    def create(self, meta: Meta) -> None:
        with self._errors(create=True), self._connections.transaction(create=True) as db:
            self._formats(db)
            create_tables(db, self.name)
        there = self.meta()
        if there is None:
            self.stamp(meta)
        elif there != meta:
            raise TableExists(f"table {self.name} is in {self.url} already, with another meta: {there}")

    def meta(self) -> Meta | None:
        row = self._table_row()
        if row is None or not row[2]:
            return None
        graph_id, cv_path, timestamp, geometry = row
        return Meta(graph_id, cv_path, timestamp, parse_geometry(geometry, self.name))

    def geometry(self) -> Geometry | None:
        row = self._table_row()
        return None if row is None else parse_geometry(row[3], self.name)

    def put_geometry(self, geometry: Geometry) -> None:
        """Keep the geometry, in a table without a meta in a row of its own, without a timestamp."""
        with self._transaction() as (db, _):
            db.execute(
                "INSERT INTO tables VALUES (?, '', '', '', ?) "
                "ON CONFLICT (name) DO UPDATE SET geometry = excluded.geometry",
                (self.name, geometry_text(geometry)),
            )

    def stamp(self, meta: Meta) -> None:
        geometry = geometry_text(meta.geometry) if meta.geometry else None
        with self._transaction() as (db, _):
            db.execute(
                "INSERT INTO tables VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "graph_id = excluded.graph_id, cv_path = excluded.cv_path, timestamp = excluded.timestamp, "
                "geometry = COALESCE(excluded.geometry, geometry)",
                (self.name, meta.graph_id, meta.cv_path, meta.timestamp, geometry),
            )

    def write(self, features: np.ndarray) -> None:
        features = np.ascontiguousarray(features, dtype=FEATURES)
        with self._transaction() as (db, formats):
            record = own_format(formats.records) or add_own_record(db, self.name, formats)
            db.executemany(
                f'INSERT OR REPLACE INTO "{self.name}.nodes" VALUES (?, ?)',
                zip(signed(features["label"]), encode(features, record), strict=True),
            )

    def read(self, ids: Any, names: Sequence[str] = NAMES) -> Rows:
        unique, inverse = np.unique(as_ids(ids), return_inverse=True)
        stored = self._rows(
            f'SELECT features FROM json_each(?) AS wanted CROSS JOIN "{self.name}.nodes" AS nodes '
            "ON nodes.id = wanted.value",
            (listed(unique),),
        )
        rows, at = Rows.empty(unique), np.searchsorted(unique, stored.ids)
        if len(stored) and not np.array_equal(unique.take(at, mode="clip"), stored.ids):
            raise StoreError(f"{self._where}: a row holds the record of another id")
        rows.put(at, stored)
        return _select(rows.take(inverse), names)

    def scan_chunk(self, chunk_id: int, last_id: int, names: Sequence[str] = NAMES) -> Rows:
        bounds = signed(np.array([chunk_id, last_id], dtype=np.uint64))
        query = f'SELECT features FROM "{self.name}.nodes" WHERE id BETWEEN ? AND ? ORDER BY id'
        return _select(self._rows(query, bounds), names)

    def _rows(self, query: str, parameters: Sequence[Any]) -> Rows:
        """The rows that a query for records finds."""
        found, formats = self._read(lambda db, formats: (db.execute(query, parameters).fetchall(), formats))
        try:
            return decode([record for (record,) in found], formats.records)
        except ValueError as error:
            raise StoreError(f"{self._where}: {error}") from error

    def delete(self, first_id: int, last_id: int) -> None:
        bounds = signed(np.array([first_id, last_id], dtype=np.uint64))
        with self._transaction() as (db, _):
            db.execute(f'DELETE FROM "{self.name}.nodes" WHERE id BETWEEN ? AND ?', bounds)

    def put_chunk(self, record: ChunkRecord, segments: Ids | None = None) -> None:
        values = chunk_values(record, segments)
        with self._transaction() as (db, formats):
            upgrade_chunks(db, self.name, formats)
            db.execute(INSERT.format(name=self.name), values)
            clear_attempts(db, self.name, values[0], ("",))

    def count_attempts(self, chunk_id: int, works: Sequence[str] = ("",)) -> list[int]:
        [chunk] = signed(as_ids([chunk_id]))
        with self._transaction() as (db, _):
            return count_attempts(db, self.name, chunk, works)

    def clear_attempts(self, chunk_id: int, works: Sequence[str] = ("",)) -> None:
        [chunk] = signed(as_ids([chunk_id]))
        with self._transaction() as (db, _):
            clear_attempts(db, self.name, chunk, works)

    def chunk_states(self, chunk_ids: Ids) -> npt.NDArray[np.str_]:
        states = self._of_chunks(chunk_ids, "state")
        return np.array([states.get(i, "") for i in as_ids(chunk_ids).tolist()], dtype="U6")

    def incomplete_chunks(self, chunk_ids: Ids) -> npt.NDArray[np.bool_]:
        incomplete = self._of_chunks(chunk_ids, "1", INCOMPLETE, since=2)
        return np.isin(as_ids(chunk_ids), as_ids(list(incomplete)))

    def failures(self, chunk_ids: Ids) -> dict[int, str]:
        return self._of_chunks(chunk_ids, "reason", f"state = '{FAILED}'")

    def chunk_records(self) -> Iterator[ChunkRecord]:
        first = -(1 << 63)
        while True:
            page = self._read(partial(self._page, first))
            yield from (chunk_of(row, self._where) for row in page)
            if len(page) < SCAN_ROWS:
                return
            first = page[-1][0] + 1

    def _page(self, first: int, db: sqlite3.Connection, formats: TableFormats) -> list[Any]:
        return db.execute(page_query(self.name, formats), (first,)).fetchall()

    def coverage(self) -> Coverage:
        query = f'SELECT state, COUNT(*), MAX(time) FROM "{self.name}.chunks" GROUP BY state'
        found = {state: (count, time) for state, count, time in self._fetch(query)}
        (done, *times), (failed, *others) = (found.get(state, (0,)) for state in (DONE, FAILED))
        newest = max(map(datetime.fromisoformat, (*times, *others)), default=None)
        return Coverage(done, failed, newest)

    def segments(self, chunk_id: int) -> Ids | None:
        key = signed(np.array([chunk_id], dtype=np.uint64))
        found = self._fetch(f'SELECT segments FROM "{self.name}.chunks" WHERE id = ?', key)
        if not found or found[0][0] is None:
            return None
        return parse_segments(found[0][0], f"{self._where}: chunk {chunk_id}")

    def put_note(self, name: str, text: str) -> None:
        check_note_name(name)
        with self._transaction() as (db, _):
            create_notes(db)
            db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (self.name, name, text))

    def note(self, name: str) -> str | None:
        check_note_name(name)
        query = "SELECT text FROM notes WHERE name = ? AND note = ?"

        def find(db: sqlite3.Connection, _: TableFormats) -> list[tuple[str]]:
            self._check_table(db)
            return db.execute(query, (self.name, name)).fetchall() if exists(db, "notes") else []

        found = self._read(find)
        return str(found[0][0]) if found else None

    def ping(self) -> None:
        self._read(lambda db, _: self._check_table(db))

    def close(self) -> None:
        self._connections.close()

    @property
    def _where(self) -> str:
        return f"table {self.name} in {self.url}"

    def _table_row(self) -> tuple[str, str, str, str | None] | None:
        """What is kept of the table as a whole. Raises TableNotFound where there is none."""
        query = "SELECT graph_id, cv_path, timestamp, geometry FROM tables WHERE name = ?"

        def find(db: sqlite3.Connection, _: TableFormats) -> Any:
            self._check_table(db)
            return db.execute(query, (self.name,)).fetchone()

        row: tuple[str, str, str, str | None] | None = self._read(find)
        return row

    def _of_chunks(
        self, chunk_ids: Ids, column: str, condition: str = "TRUE", since: int = 1
    ) -> dict[int, Any]:
        """A column of these chunks, by id; nothing from a table of chunks of a format before ``since``."""
        query = (
            f"SELECT chunks.id, {column} FROM json_each(?) AS wanted "
            f'CROSS JOIN "{self.name}.chunks" AS chunks ON chunks.id = wanted.value WHERE {condition}'
        )
        asked = (listed(as_ids(chunk_ids)),)
        found = self._read(
            lambda db, formats: db.execute(query, asked).fetchall() if formats.chunks >= since else []
        )
        return {i % (1 << 64): value for i, value in found}

    def _fetch(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return self._read(lambda db, _: db.execute(query, parameters).fetchall())

    def _read(self, query: Callable[[sqlite3.Connection, TableFormats], T]) -> T:
        """What a query of the table finds. Raises UnknownFormat before it is run.

        Formats and rows are of one moment, so that no row is of a format that was added between the two.
        """

        def run(db: sqlite3.Connection) -> T:
            with db:
                db.execute("BEGIN")
                return query(db, self._formats(db))

        with self._errors(reading=True):
            return self._connections.read(run)

    @contextmanager
    def _transaction(self) -> Iterator[tuple[sqlite3.Connection, TableFormats]]:
        """A write transaction on a table that exists and has known formats."""
        with self._errors(), self._connections.transaction() as db:
            formats = self._formats(db)
            self._check_table(db)
            yield db, formats

    def _formats(self, db: sqlite3.Connection) -> TableFormats:
        """The table's formats, parsed once. Raises UnknownFormat."""
        rows = stored_formats(db, self.name, self._where)
        known = self._known
        if known is None or known[0] != rows:
            self._known = known = rows, parse_formats(rows, self._where)
        return known[1]

    def _check_table(self, db: sqlite3.Connection) -> None:
        db.execute(f'SELECT 1 FROM "{self.name}.nodes" LIMIT 1')

    @contextmanager
    def _errors(self, create: bool = False, reading: bool = False) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise store_error(error, self.url, self.name, create, reading) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "name": self.name, "deadline_s": self.deadline_s}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _select(rows: Rows, names: Sequence[str]) -> Rows:
    """Rows in which only ``names`` are present."""
    if set(names) >= set(NAMES):
        return rows
    return replace(rows, present=rows.present & np.isin(NAMES, list(names)))
