"""The embedded store: one SQLite file, for any number of tables.

All attributes of a node are stored as one record (see `records`), so reading needs no work per attribute. Ids
are stored as the signed integers of the same 64 bits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ...core.errors import StoreError
from ...core.geometry import Geometry
from ...core.ids import Ids, as_ids, distinct
from ...core.rows import Rows, columns_of
from ...core.schema import FEATURES, NAMES
from ..base import DEADLINE_S, DONE, FAILED, ChunkRecord, Coverage, Meta, Store, Structure, check_note_name
from ..chunk_totals import ChunkTotals
from ..formats import geometry_text, parse_geometry, parse_segments
from . import chunk_sums, root_tables, tables
from .connections import Connections
from .file_errors import store_error
from .records import Formats, decode, decode_joined, encode
from .tables import TableFormats, listed, signed

SCAN_ROWS = 20_000
_HALF = 1 << 63
_JOINED = "CAST(group_concat(features, '') AS BLOB), COUNT(*), MAX(length(features))"
"""SQL for all records in one value: SQLite joins blobs as text unchanged, without holding the GIL."""
_INCOMPLETE = f"state = '{DONE}' AND json_extract(files, '$.missing') + json_extract(files, '$.empty') > 0"
T = TypeVar("T")


class SqliteStore(Store):
    """A table in a SQLite file; see `l2features.store.Store`."""

    def __init__(self, url: str, name: str, deadline_s: float = DEADLINE_S) -> None:
        super().__init__(url, name, deadline_s)
        self.path = Path("/" + url.removeprefix("sqlite://").lstrip("/"))
        self._connections = Connections(self.path, deadline_s)
        self._nodes, self._chunks = f'"{name}.nodes"', f'"{name}.chunks"'
        self._where = f"table {name} in {url}"

    def create_table(self) -> None:
        with self._errors(create=True), self._connections.transaction(create=True) as db:
            self._formats(db)
            tables.create_tables(db, self.name)

    def meta(self) -> Meta | None:
        row = self._description()
        if row is None or not row[2]:
            return None
        graph_id, cv_path, timestamp, geometry = row
        return Meta(graph_id, cv_path, timestamp, parse_geometry(geometry, self.name))

    def stamp(self, meta: Meta) -> None:
        names = "graph_id = excluded.graph_id, cv_path = excluded.cv_path, timestamp = excluded.timestamp, "
        self._describe(meta, names)

    def geometry(self) -> Geometry | None:
        row = self._description()
        return None if row is None else parse_geometry(row[3], self.name)

    def put_geometry(self, geometry: Geometry) -> None:
        """See `TableNotes.put_geometry`. If the table has no meta, `meta` still returns None afterwards."""
        self._describe(Meta("", "", "", geometry))

    def _describe(self, meta: Meta, replaced: str = "") -> None:
        geometry = geometry_text(meta.geometry) if meta.geometry else None
        with self._transaction() as (db, _):
            db.execute(
                f"INSERT INTO tables VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET {replaced}"
                "geometry = COALESCE(excluded.geometry, geometry)",
                (self.name, meta.graph_id, meta.cv_path, meta.timestamp, geometry),
            )

    def _description(self) -> Any:
        query = "SELECT graph_id, cv_path, timestamp, geometry FROM tables WHERE name = ?"
        return self._one("tables", query, (self.name,))

    def note(self, name: str) -> str | None:
        check_note_name(name)
        row = self._one("notes", "SELECT text FROM notes WHERE name = ? AND note = ?", (self.name, name))
        return None if row is None else str(row[0])

    def _one(self, table: str, query: str, parameters: Sequence[Any]) -> Any:
        """Return a query's first row; None if it has no rows, or if the SQL table ``table`` is missing."""

        def find(db: sqlite3.Connection, _: TableFormats) -> Any:
            self._check_table(db)
            return db.execute(query, parameters).fetchone() if tables.exists(db, table) else None

        return self._read(find)

    def put_note(self, name: str, text: str) -> None:
        check_note_name(name)
        with self._transaction() as (db, _):
            db.execute(tables.CREATE_NOTES)
            db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (self.name, name, text))

    def write(self, features: np.ndarray) -> None:
        features = np.ascontiguousarray(features, dtype=FEATURES)
        with self._transaction() as (db, formats):
            record = tables.current_record(db, self.name, formats)
            db.executemany(
                f"INSERT OR REPLACE INTO {self._nodes} VALUES (?, ?)",
                zip(signed(features["label"]), encode(features, record), strict=True),
            )

    def read(self, ids: Any, names: Sequence[str] = NAMES) -> Rows:
        ids = as_ids(ids)
        unique, inverse = distinct(ids)
        source = f"json_each(?) AS wanted CROSS JOIN {self._nodes} AS nodes ON nodes.id = wanted.value"
        stored = self._rows(source, (listed(unique),))
        rows = Rows.joined(unique, [stored])
        if rows is not stored and np.count_nonzero(rows.found) != len(stored):
            raise StoreError(f"{self._where}: a row holds the record of another id")
        return _select(rows if unique is ids else rows.take(inverse), names)

    def scan_chunk(self, chunk_id: int, last_id: int, names: Sequence[str] = NAMES) -> Rows:
        rows = self._rows(f"{self._nodes} WHERE id BETWEEN ? AND ?", signed([chunk_id, last_id]))
        return _select(rows.take(np.argsort(rows.ids)), names)

    def _rows(self, source: str, parameters: Sequence[Any]) -> Rows:
        """Return the rows of the selected nodes, in any order; ``source`` is the SQL after FROM."""

        def find(db: sqlite3.Connection, formats: TableFormats) -> tuple[list[bytes], int, Formats]:
            known = formats.records
            if len(known) == 1:  # records of one length can be joined
                joined, count, most = db.execute(f"SELECT {_JOINED} FROM {source}", parameters).fetchone()
                if joined is None:
                    return [], 0, known
                if len(joined) == count * most:
                    return [joined], most, known
            found = db.execute(f"SELECT features FROM {source}", parameters)
            return [record for (record,) in found], 0, known

        records, size, formats = self._read(find)
        try:
            return decode_joined(records[0], size, formats) if size else decode(records, formats)
        except ValueError as error:
            raise StoreError(f"{self._where}: {error}") from error

    def first_ids(self, first_id: int, most: int) -> Ids:
        """See `FeatureRows.first_ids`. A second query reads ids from 2^63 on, which are negative in SQL."""
        found: list[int] = []
        for first, last in ((first_id, _HALF - 1), (max(first_id, _HALF), 2 * _HALF - 1)):
            if first <= last and len(found) < most:
                query = f"SELECT id FROM {self._nodes} WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
                found += [i for (i,) in self._fetch(query, (*signed([first, last]), most - len(found)))]
        return np.array(found, dtype=np.int64).view(np.uint64)

    def delete(self, first_id: int, last_id: int) -> None:
        with self._transaction() as (db, _):
            db.execute(f"DELETE FROM {self._nodes} WHERE id BETWEEN ? AND ?", signed([first_id, last_id]))

    def put_chunk(self, record: ChunkRecord, segments: Ids | None = None) -> None:
        row = tables.row_of(record, segments)
        with self._transaction() as (db, formats):
            tables.upgrade_chunks(db, self.name, formats)
            found = db.execute(f"SELECT segments FROM {self._chunks} WHERE id = ?", row[:1]).fetchone()
            earlier = self._parsed(record.chunk_id, found)
            root_tables.replace_segments(db, self.name, record.chunk_id, segments, earlier)
            db.execute(f"INSERT OR REPLACE INTO {self._chunks} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            tables.clear_attempts(db, self.name, row[0], ("",))

    def chunk_records(self) -> Iterator[ChunkRecord]:
        first = -(1 << 63)
        while True:
            page = self._page(first)
            yield from (tables.record_of(row, self._where) for row in page)
            if len(page) < SCAN_ROWS:
                return
            first = page[-1][0] + 1

    def _page(self, first: int) -> list[Any]:
        def find(db: sqlite3.Connection, formats: TableFormats) -> list[Any]:
            columns = tables.record_columns(formats)
            query = f"SELECT {columns} FROM {self._chunks} WHERE id >= ? ORDER BY id LIMIT {SCAN_ROWS}"
            return db.execute(query, (first,)).fetchall()

        return self._read(find)

    def chunk_states(self, chunk_ids: Ids) -> npt.NDArray[np.str_]:
        states = self._of_chunks(chunk_ids, "state")
        return np.array([states.get(i, "") for i in as_ids(chunk_ids).tolist()], dtype="U6")

    def incomplete_chunks(self, chunk_ids: Ids) -> npt.NDArray[np.bool_]:
        incomplete = self._of_chunks(chunk_ids, "1", _INCOMPLETE, since=2)
        return np.isin(as_ids(chunk_ids), as_ids(list(incomplete)))

    def failures(self, chunk_ids: Ids) -> dict[int, str]:
        return self._of_chunks(chunk_ids, "reason", f"state = '{FAILED}'")

    def _of_chunks(
        self, chunk_ids: Ids, column: str, condition: str = "TRUE", since: int = 1
    ) -> dict[int, Any]:
        """Return the values of a column by chunk id, for the chunks that meet ``condition``.

        Returns no values if the format of chunk records is older than ``since``.
        """
        query = (
            f"SELECT chunks.id, {column} FROM json_each(?) AS wanted "
            f"CROSS JOIN {self._chunks} AS chunks ON chunks.id = wanted.value WHERE {condition}"
        )
        found = self._fetch(query, (listed(as_ids(chunk_ids)),), since)
        return {i % (1 << 64): value for i, value in found}

    def coverage(self) -> Coverage:
        found = self._fetch(f"SELECT state, COUNT(*), MAX(time) FROM {self._chunks} GROUP BY state")
        counts = {state: count for state, count, _ in found}
        newest = max((datetime.fromisoformat(time) for *_, time in found), default=None)
        return Coverage(counts.get(DONE, 0), counts.get(FAILED, 0), newest)

    def chunk_totals(self, window: timedelta, most_failed: int) -> ChunkTotals:
        totals, first, line = ChunkTotals(window, most_failed), -_HALF, chunk_sums.NO_COUNTS
        while (page := self._sum_page(first, line)).last is not None:
            try:
                line = page.add_to(totals, line)
            except ValueError:
                return super().chunk_totals(window, most_failed)  # its error names the malformed record
            first = page.last + 1
        failed = self._read_table(lambda db: chunk_sums.read_failed(db, self.name, most_failed))
        recent = self._read_table(lambda db: chunk_sums.read_recent(db, self.name, window))
        (totals.n_failed, totals.failed), (totals.newest, totals.recent) = failed, recent
        return totals

    def _sum_page(self, first: int, line: str) -> chunk_sums.Page:
        return self._read(lambda db, formats: chunk_sums.read_page(db, self.name, formats, first, line))

    def segments(self, chunk_id: int) -> Ids | None:
        found = self._fetch(f"SELECT segments FROM {self._chunks} WHERE id = ?", signed([chunk_id]))
        return self._parsed(chunk_id, found[0] if found else None)

    def _parsed(self, chunk_id: int, row: Any) -> Ids | None:
        if row is None or row[0] is None:
            return None
        return parse_segments(row[0], f"{self._where}: chunk {chunk_id}")

    def root_cells(self, roots: Ids, names: Sequence[str]) -> dict[int, dict[str, bytes]]:
        return self._read_table(lambda db: root_tables.read_roots(db, self.name, roots, names, self._where))

    def put_root_cells(self, cells: Mapping[int, Mapping[str, bytes]]) -> None:
        with self._transaction() as (db, _):
            root_tables.put_roots(db, self.name, cells)

    def delete_root_cells(self, roots: Ids) -> None:
        with self._transaction() as (db, _):
            root_tables.delete_roots(db, self.name, roots)

    def segment_nodes(self, segments: Ids, most: int) -> dict[int, Ids]:
        return self._read_table(lambda db: root_tables.read_nodes(db, self.name, segments, most + 1))

    def index_segments(self, chunk_id: int, segments: Ids) -> None:
        with self._transaction() as (db, _):
            root_tables.replace_segments(db, self.name, chunk_id, segments, None)

    def count_attempts(self, chunk_id: int, works: Sequence[str] = ("",)) -> list[int]:
        [key] = signed([chunk_id])
        with self._transaction() as (db, _):
            return tables.count_attempts(db, self.name, key, works)

    def clear_attempts(self, chunk_id: int, works: Sequence[str] = ("",)) -> None:
        [key] = signed([chunk_id])
        with self._transaction() as (db, _):
            tables.clear_attempts(db, self.name, key, works)

    def ping(self) -> None:
        self._read(lambda db, _: self._check_table(db))

    def structure(self) -> Structure:
        found = self._read(lambda db, formats: (formats.chunks, formats.described))
        return Structure(f"chunks of format {found[0]}, {'described' if found[1] else 'undescribed'} records")

    def close(self) -> None:
        self._connections.close()

    def _fetch(self, query: str, parameters: Sequence[Any] = (), since: int = 1) -> list[Any]:
        """Return the rows of a query; no rows if the format of chunk records is older than ``since``."""
        return self._read(
            lambda db, formats: db.execute(query, parameters).fetchall() if formats.chunks >= since else []
        )

    def _read_table(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of a query. Raises TableNotFound if the table is missing.

        ``query`` must allow for missing SQL tables of `root_tables`: the first write to each creates it.
        """

        def run(db: sqlite3.Connection, _: TableFormats) -> T:
            self._check_table(db)
            return query(db)

        return self._read(run)

    def _read(self, query: Callable[[sqlite3.Connection, TableFormats], T]) -> T:
        """Return the result of a query. Raises UnknownFormat for a newer format, before the query runs.

        Formats and rows are read in one transaction, so no row can have a format that was added in between.
        """

        def run(db: sqlite3.Connection) -> T:
            with db:
                db.execute("BEGIN")
                return query(db, self._formats(db))

        with self._errors(reading=True):
            return self._connections.read(run)

    @contextmanager
    def _transaction(self) -> Iterator[tuple[sqlite3.Connection, TableFormats]]:
        """Enter a write transaction on a table that exists and has known formats."""
        with self._errors(), self._connections.transaction() as db:
            formats = self._formats(db)
            self._check_table(db)
            yield db, formats

    def _formats(self, db: sqlite3.Connection) -> TableFormats:
        return tables.parse_formats(tables.stored_formats(db, self.name, self._where), self._where)

    def _check_table(self, db: sqlite3.Connection) -> None:
        db.execute(f"SELECT 1 FROM {self._nodes} LIMIT 1")

    @contextmanager
    def _errors(self, create: bool = False, reading: bool = False) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise store_error(error, self.path, self.name, self.url, create, reading) from error


def _select(rows: Rows, names: Sequence[str]) -> Rows:
    """Return the rows with only the attributes ``names`` present."""
    if set(names) >= set(NAMES):
        return rows
    return Rows(rows.features, rows.present & columns_of(tuple(names)))
