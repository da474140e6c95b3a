"""The embedded store: one SQLite file, for any number of tables.

A row's value is one record of `schema.FEATURES`, so that reading needs no work per attribute. Ids are
stored as the signed integers of the same 64 bits.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, StoreError, TableExists, TableNotFound
from ..ids import Ids, as_ids
from ..rows import Rows
from ..schema import FEATURES, NAMES
from . import ChunkRecord, Meta, read_geometry

BUSY_TIMEOUT_S = 60.0
READ_BATCH = 10_000
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

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name, self.path = url, name, _path(url)
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []

    def create(self, meta: Meta) -> None:
        with self._errors(), self._connection(create=True) as db:
            db.executescript(_SCHEMA.format(name=self.name))
        there = self.meta()
        if there is None:
            self.stamp(meta)
        elif there != meta:
            raise TableExists(f"table {self.name} is in {self.url} already, with another meta: {there}")

    def meta(self) -> Meta | None:
        with self._errors(), self._connection() as db:
            row = db.execute(
                "SELECT graph_id, cv_path, timestamp, geometry FROM tables WHERE name = ?", (self.name,)
            ).fetchone()
            self._check_table(db)
        if row is None:
            return None
        graph_id, cv_path, timestamp, geometry = row
        return Meta(graph_id, cv_path, timestamp, read_geometry(geometry, self.name))

    def stamp(self, meta: Meta) -> None:
        geometry = meta.geometry.to_json() if meta.geometry else None
        with self._errors(), self._connection() as db:
            self._check_table(db)
            db.execute(
                "INSERT OR REPLACE INTO tables VALUES (?, ?, ?, ?, ?)",
                (self.name, meta.graph_id, meta.cv_path, meta.timestamp, geometry),
            )

    def write(self, features: np.ndarray) -> None:
        features = np.ascontiguousarray(features, dtype=FEATURES)
        raw, step = features.tobytes(), FEATURES.itemsize
        values = (raw[i : i + step] for i in range(0, len(raw), step))
        with self._errors(), self._connection() as db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                f'INSERT OR REPLACE INTO "{self.name}.nodes" VALUES (?, ?)',
                zip(_signed(features["label"]), values, strict=True),
            )

    def read(self, ids: Any, names: Sequence[str] = NAMES) -> Rows:
        ids = as_ids(ids)
        unique, inverse = np.unique(ids, return_inverse=True)
        found = []
        with self._errors(), self._connection() as db:
            for start in range(0, len(unique), READ_BATCH):
                batch = _signed(unique[start : start + READ_BATCH])
                query = f'SELECT features FROM "{self.name}.nodes" WHERE id IN ({",".join(map(str, batch))})'
                found += [row[0] for row in db.execute(query)]
        rows = Rows.empty(unique)
        stored = _records(found)
        at = np.searchsorted(unique, stored["label"])
        rows.features[at] = stored
        rows.present[at] = Rows.complete(stored).present
        return _select(Rows(rows.features[inverse], rows.present[inverse]), names)

    def scan_chunk(self, chunk_id: int, last_id: int, names: Sequence[str] = NAMES) -> Rows:
        first, last = _signed(np.array([chunk_id, last_id], dtype=np.uint64))
        with self._errors(), self._connection() as db:
            query = f'SELECT features FROM "{self.name}.nodes" WHERE id BETWEEN ? AND ? ORDER BY id'
            found = [row[0] for row in db.execute(query, (first, last))]
        return _select(Rows.complete(_records(found)), names)

    def delete(self, first_id: int, last_id: int) -> None:
        bounds = _signed(np.array([first_id, last_id], dtype=np.uint64))
        with self._errors(), self._connection() as db:
            db.execute(f'DELETE FROM "{self.name}.nodes" WHERE id BETWEEN ? AND ?', bounds)

    def put_chunk(self, record: ChunkRecord, segments: Ids | None = None) -> None:
        values = (
            _signed(np.array([record.chunk_id], dtype=np.uint64))[0],
            record.state,
            record.time.astimezone(UTC).isoformat(),
            record.nodes,
            record.orphans,
            record.reason,
            None if segments is None else as_ids(segments).astype("<u8").tobytes(),
        )
        with self._errors(), self._connection() as db:
            db.execute(f'INSERT OR REPLACE INTO "{self.name}.chunks" VALUES (?, ?, ?, ?, ?, ?, ?)', values)

    def chunk_states(self, chunk_ids: Ids) -> npt.NDArray[np.str_]:
        wanted = _signed(as_ids(chunk_ids))
        states: dict[int, str] = {}
        with self._errors(), self._connection() as db:
            for start in range(0, len(wanted), READ_BATCH):
                listed = ",".join(map(str, wanted[start : start + READ_BATCH]))
                states.update(
                    db.execute(f'SELECT id, state FROM "{self.name}.chunks" WHERE id IN ({listed})')
                )
        return np.array([states.get(i, "") for i in wanted], dtype="U6")

    def chunk_records(self) -> Iterator[ChunkRecord]:
        with self._errors(), self._connection() as db:
            query = f'SELECT id, state, time, nodes, orphans, reason FROM "{self.name}.chunks"'
            for i, state, time, *rest in db.execute(query):
                yield ChunkRecord(i % (1 << 64), state, datetime.fromisoformat(time), *rest)

    def segments(self, chunk_id: int) -> Ids | None:
        key = _signed(np.array([chunk_id], dtype=np.uint64))
        with self._errors(), self._connection() as db:
            row = db.execute(f'SELECT segments FROM "{self.name}.chunks" WHERE id = ?', key).fetchone()
        return None if row is None or row[0] is None else np.frombuffer(row[0], dtype="<u8")

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._local = threading.local()

    @contextmanager
    def _connection(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """This thread's connection; commits at the end, or rolls back."""
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            if not create and not self.path.exists():
                raise TableNotFound(f"table {self.name} not found: there is no file {self.path}")
            if not self.path.parent.is_dir():
                raise StoreError(f"{self.url}: there is no folder {self.path.parent}")
            db = self._connect("rwc" if create else "rw")
        with db:
            yield db

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"{self.path.as_uri()}?mode={mode}"
        db = sqlite3.connect(uri, timeout=BUSY_TIMEOUT_S, uri=True, check_same_thread=False)
        self._connections.append(db)
        _use_wal(db)
        db.execute("PRAGMA synchronous = FULL")
        self._local.db = db
        return db

    def _check_table(self, db: sqlite3.Connection) -> None:
        db.execute(f'SELECT 1 FROM "{self.name}.nodes" LIMIT 1')

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                raise TableNotFound(f"table {self.name} not found in {self.url}") from error
            raise StoreError(f"{self.url}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self.url}: {error}") from error

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url, "name": self.name}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _use_wal(db: sqlite3.Connection) -> None:
    """The one step in which SQLite does not itself wait for other processes that do the same."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _signed(ids: Ids) -> list[int]:
    return ids.view(np.int64).tolist()


def _records(blobs: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(blobs), dtype=FEATURES)


def _select(rows: Rows, names: Sequence[str]) -> Rows:
    """Rows in which only ``names`` are present."""
    if set(names) >= set(NAMES):
        return rows
    return replace(rows, present=rows.present & np.isin(NAMES, list(names)))
