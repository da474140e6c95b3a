"""The embedded store: one SQLite file, for any number of tables.

A row's value is one record of `schema.FEATURES`, so that reading needs no work per attribute. Ids are
stored as the signed integers of the same 64 bits.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, StoreError, StoreUnavailable, TableExists, TableNotFound
from ..geometry import Geometry
from ..ids import Ids, as_ids, to_bytes
from ..rows import Rows
from ..schema import FEATURES, NAMES
from . import DEADLINE_S, DONE, FAILED, ChunkRecord, Coverage, Meta, check_note_name, read_geometry
from .connections import Connections
from .sqlite_attempts import clear_attempts, count_attempts

_TEMPORARY = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_INTERRUPT,
)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tables (
    name TEXT PRIMARY KEY COLLATE NOCASE, graph_id TEXT NOT NULL, cv_path TEXT NOT NULL,
    timestamp TEXT NOT NULL, geometry TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS "{name}.nodes" (id INTEGER PRIMARY KEY, features BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS "{name}.chunks" (
    id INTEGER PRIMARY KEY, state TEXT NOT NULL, time TEXT NOT NULL, nodes INTEGER NOT NULL,
    orphans INTEGER NOT NULL, reason TEXT NOT NULL, segments BLOB
);
CREATE INDEX IF NOT EXISTS "{name}.states" ON "{name}.chunks" (state, time);
"""
_NOTES = """
CREATE TABLE IF NOT EXISTS notes (
    name TEXT NOT NULL COLLATE NOCASE, note TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (name, note)
) WITHOUT ROWID;
"""


def _path(url: str) -> Path:
    """File of ``sqlite:///path/file.db``; a fourth slash is allowed."""
    prefix = "sqlite://"
    path = url[len(prefix) :] if url.startswith(prefix) else ""
    if not path.startswith("/") or path.endswith("/"):
        raise ConfigError(f"store {url!r}: expected sqlite:///path/file.db with an absolute path")
    return Path("/" + path.lstrip("/"))


class SqliteStore:
    """See `l2features.store.Store`."""

    def __init__(self, url: str, name: str, deadline_s: float = DEADLINE_S) -> None:
        self.url, self.name, self.path, self.deadline_s = url, name, _path(url), deadline_s
        self._connections = Connections(self.path, deadline_s)

    def create(self, meta: Meta) -> None:
        with self._errors(create=True), self._connections.transaction(create=True) as db:
            db.executescript(_SCHEMA.format(name=self.name))
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
        return Meta(graph_id, cv_path, timestamp, read_geometry(geometry, self.name))

    def geometry(self) -> Geometry | None:
        row = self._table_row()
        return None if row is None else read_geometry(row[3], self.name)

    def put_geometry(self, geometry: Geometry) -> None:
        """A table without a meta gets a line that has the geometry only, and no timestamp."""
        with self._errors(), self._connections.transaction() as db:
            self._check_table(db)
            db.execute(
                "INSERT INTO tables VALUES (?, '', '', '', ?) "
                "ON CONFLICT (name) DO UPDATE SET geometry = excluded.geometry",
                (self.name, geometry.to_json()),
            )

    def stamp(self, meta: Meta) -> None:
        geometry = meta.geometry.to_json() if meta.geometry else None
        with self._errors(), self._connections.transaction() as db:
            self._check_table(db)
            db.execute(
                "INSERT INTO tables VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "graph_id = excluded.graph_id, cv_path = excluded.cv_path, timestamp = excluded.timestamp, "
                "geometry = COALESCE(excluded.geometry, geometry)",
                (self.name, meta.graph_id, meta.cv_path, meta.timestamp, geometry),
            )

    def write(self, features: np.ndarray) -> None:
        features = np.ascontiguousarray(features, dtype=FEATURES)
        raw, step = features.tobytes(), FEATURES.itemsize
        values = (raw[i : i + step] for i in range(0, len(raw), step))
        with self._errors(), self._connections.transaction() as db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                f'INSERT OR REPLACE INTO "{self.name}.nodes" VALUES (?, ?)',
                zip(_signed(features["label"]), values, strict=True),
            )

    def read(self, ids: Any, names: Sequence[str] = NAMES) -> Rows:
        unique, inverse = np.unique(as_ids(ids), return_inverse=True)
        with self._errors(), self._connections.query() as db:
            found = db.execute(
                f'SELECT features FROM json_each(?) AS wanted CROSS JOIN "{self.name}.nodes" AS nodes '
                "ON nodes.id = wanted.value",
                (_listed(unique),),
            ).fetchall()
        rows, stored = Rows.empty(unique), Rows.complete(_records(found))
        rows.put(np.searchsorted(unique, stored.ids), stored)
        return _select(rows.take(inverse), names)

    def scan_chunk(self, chunk_id: int, last_id: int, names: Sequence[str] = NAMES) -> Rows:
        first, last = _signed(np.array([chunk_id, last_id], dtype=np.uint64))
        with self._errors(), self._connections.query() as db:
            query = f'SELECT features FROM "{self.name}.nodes" WHERE id BETWEEN ? AND ? ORDER BY id'
            found = db.execute(query, (first, last)).fetchall()
        return _select(Rows.complete(_records(found)), names)

    def delete(self, first_id: int, last_id: int) -> None:
        bounds = _signed(np.array([first_id, last_id], dtype=np.uint64))
        with self._errors(), self._connections.transaction() as db:
            db.execute(f'DELETE FROM "{self.name}.nodes" WHERE id BETWEEN ? AND ?', bounds)

    def put_chunk(self, record: ChunkRecord, segments: Ids | None = None) -> None:
        values = (
            _signed(np.array([record.chunk_id], dtype=np.uint64))[0],
            record.state,
            record.time.astimezone(UTC).isoformat(),
            record.nodes,
            record.orphans,
            record.reason,
            None if segments is None else to_bytes(as_ids(segments)),
        )
        with self._errors(), self._connections.transaction() as db:
            db.execute(f'INSERT OR REPLACE INTO "{self.name}.chunks" VALUES (?, ?, ?, ?, ?, ?, ?)', values)
            clear_attempts(db, self.name, values[0], ("",))

    def count_attempts(self, chunk_id: int, works: Sequence[str] = ("",)) -> list[int]:
        [chunk] = _signed(np.array([chunk_id], dtype=np.uint64))
        with self._errors(), self._connections.transaction() as db:
            self._check_table(db)
            db.execute("BEGIN IMMEDIATE")
            return count_attempts(db, self.name, chunk, works)

    def clear_attempts(self, chunk_id: int, works: Sequence[str] = ("",)) -> None:
        [chunk] = _signed(np.array([chunk_id], dtype=np.uint64))
        with self._errors(), self._connections.transaction() as db:
            self._check_table(db)
            clear_attempts(db, self.name, chunk, works)

    def chunk_states(self, chunk_ids: Ids) -> npt.NDArray[np.str_]:
        states = self._of_chunks(chunk_ids, "state")
        return np.array([states.get(i, "") for i in as_ids(chunk_ids).tolist()], dtype="U6")

    def failures(self, chunk_ids: Ids) -> dict[int, str]:
        return self._of_chunks(chunk_ids, "reason", f"state = '{FAILED}'")

    def chunk_records(self) -> Iterator[ChunkRecord]:
        with self._errors(), self._connections.transaction() as db:
            query = f'SELECT id, state, time, nodes, orphans, reason FROM "{self.name}.chunks"'
            for i, state, time, *rest in db.execute(query):
                yield ChunkRecord(i % (1 << 64), state, datetime.fromisoformat(time), *rest)

    def coverage(self) -> Coverage:
        with self._errors(), self._connections.query() as db:
            query = f'SELECT state, COUNT(*), MAX(time) FROM "{self.name}.chunks" GROUP BY state'
            found = {state: (count, time) for state, count, time in db.execute(query)}
        (done, *times), (failed, *others) = (found.get(state, (0,)) for state in (DONE, FAILED))
        newest = max(map(datetime.fromisoformat, (*times, *others)), default=None)
        return Coverage(done, failed, newest)

    def segments(self, chunk_id: int) -> Ids | None:
        key = _signed(np.array([chunk_id], dtype=np.uint64))
        with self._errors(), self._connections.query() as db:
            row = db.execute(f'SELECT segments FROM "{self.name}.chunks" WHERE id = ?', key).fetchone()
        return None if row is None or row[0] is None else np.frombuffer(row[0], dtype="<u8")

    def put_note(self, name: str, text: str) -> None:
        check_note_name(name)
        with self._errors(), self._connections.transaction() as db:
            self._check_table(db)
            db.executescript(_NOTES)
            db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (self.name, name, text))

    def note(self, name: str) -> str | None:
        check_note_name(name)
        with self._errors(), self._connections.query() as db:
            self._check_table(db)
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'notes'").fetchone():
                return None
            query = "SELECT text FROM notes WHERE name = ? AND note = ?"
            row = db.execute(query, (self.name, name)).fetchone()
        return None if row is None else str(row[0])

    def ping(self) -> None:
        with self._errors(), self._connections.query() as db:
            self._check_table(db)

    def close(self) -> None:
        self._connections.close()

    def _table_row(self) -> tuple[str, str, str, str | None] | None:
        """What is kept of the table as a whole. Raises TableNotFound where there is none."""
        with self._errors(), self._connections.query() as db:
            self._check_table(db)
            return db.execute(
                "SELECT graph_id, cv_path, timestamp, geometry FROM tables WHERE name = ?", (self.name,)
            ).fetchone()

    def _of_chunks(self, chunk_ids: Ids, column: str, condition: str = "TRUE") -> dict[int, str]:
        """A column of these chunks, by id."""
        with self._errors(), self._connections.query() as db:
            found = db.execute(
                f"SELECT chunks.id, {column} FROM json_each(?) AS wanted "
                f'CROSS JOIN "{self.name}.chunks" AS chunks ON chunks.id = wanted.value WHERE {condition}',
                (_listed(as_ids(chunk_ids)),),
            ).fetchall()
        return {i % (1 << 64): value for i, value in found}

    def _check_table(self, db: sqlite3.Connection) -> None:
        db.execute(f'SELECT 1 FROM "{self.name}.nodes" LIMIT 1')

    @contextmanager
    def _errors(self, create: bool = False) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise self._error(error, create) from error

    def _error(self, error: sqlite3.DatabaseError, create: bool) -> StoreError:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if "no such table" in str(error):
            return TableNotFound(f"table {self.name} not found in {self.url}")
        if code == sqlite3.SQLITE_CANTOPEN and not self.path.exists():
            if create and not self.path.parent.is_dir():
                return StoreError(f"{self.url}: there is no folder {self.path.parent}")
            if not create:
                return TableNotFound(f"table {self.name} not found: there is no file {self.path}")
        return (StoreUnavailable if code in _TEMPORARY else StoreError)(f"{self.url}: {error}")

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "name": self.name, "deadline_s": self.deadline_s}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _signed(ids: Ids) -> list[int]:
    return ids.view(np.int64).tolist()


def _listed(ids: Ids) -> str:
    """Ids as SQLite's json_each takes them, which is faster than a long IN."""
    return json.dumps(_signed(ids))


def _records(found: list[tuple[bytes]]) -> np.ndarray:
    return np.frombuffer(b"".join(features for (features,) in found), dtype=FEATURES)


def _select(rows: Rows, names: Sequence[str]) -> Rows:
    """Rows in which only ``names`` are present."""
    if set(names) >= set(NAMES):
        return rows
    return replace(rows, present=rows.present & np.isin(NAMES, list(names)))
