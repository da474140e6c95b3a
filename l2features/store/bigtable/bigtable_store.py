"""The Bigtable store: tables and rows in the form of kvdbclient and PCGL2Cache.

A write replaces all cells of a row's family ``0`` in one atomic mutation with explicit cell times. So a
retried or repeated write adds no cell versions, and old versions that PCGL2Cache wrote are removed. A chunk's
record is in the row ``chunk_<chunk id>``, the geometry in the row ``geometry``. Both are outside the range of
node keys.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from google.api_core.exceptions import GoogleAPIError, NotFound
from google.auth.exceptions import GoogleAuthError
from google.cloud.bigtable.data import ReadRowsQuery, Row, RowMutationEntry, RowRange
from google.cloud.bigtable.data.exceptions import MutationsExceptionGroup, ShardedReadRowsExceptionGroup
from google.cloud.bigtable.data.mutations import DeleteAllFromRow
from google.cloud.bigtable.data.row_filters import RowFilter

from ... import __version__
from ...core.errors import MAKE_TABLE, StoreError, StoreUnavailable, TableNotFound
from ...core.geometry import Geometry
from ...core.ids import Ids, as_ids, distinct, ids_of_row_keys, row_keys
from ...core.rows import Rows, encode_cells
from ...core.schema import NAMES
from ..base import DEADLINE_S, DONE, FAILED, ChunkRecord, Coverage, Meta, Store, Structure
from ..chunk_totals import ChunkTotals
from ..formats import geometry_text, parse_geometry, parse_segments
from . import cells as cell
from .calls import causes, column_families, create_table, reason, unavailable
from .cells import CHUNK_PREFIX, CHUNKS_END, GEOMETRY_KEY, INCOMPLETE, META_KEY, STATES, RowEntry
from .record_sums import add_records
from .root_rows import (
    ROOT_PREFIX,
    SEGMENT_PREFIX,
    first_nodes,
    index_entries,
    keys_of,
    root_cells_of,
    root_entries,
    segment_nodes_of,
)
from .row_arrays import FEATURE_COLUMNS, AnyCells, BadAnswer, Columns, features_of
from .row_stream import Connection

WRITE_ROWS = 500
"""Rows of one bulk mutation: about 250 kB."""
SCAN_ROWS = 20_000
_GOOGLE_ERRORS = (MutationsExceptionGroup, ShardedReadRowsExceptionGroup, GoogleAPIError, GoogleAuthError)


class BigtableStore(Store):
    """A table of a Bigtable instance; see `l2features.store.Store`."""

    def __init__(self, url: str, name: str, deadline_s: float = DEADLINE_S) -> None:
        super().__init__(url, name, deadline_s)
        self.project, self.instance = url.removeprefix("bigtable://").rstrip("/").split("/")
        self._where = f"{url}, table {name}"
        self._opened: Connection | None = None
        self._lock = threading.Lock()

    def create_table(self) -> None:
        with self._errors():
            create_table(self.project, self.instance, self.name, self.deadline_s)
        if self.meta() is None:
            self._mutate([RowEntry(cell.VERSION_KEY, [(b"version", __version__.encode())])])

    def meta(self) -> Meta | None:
        with self._errors():
            query = ReadRowsQuery(row_keys=[META_KEY, GEOMETRY_KEY], row_filter=cell.newest())
            values = {row.row_key: row.cells[0].value for row in self._table.read_rows(query)}
        if META_KEY not in values:
            return None
        pickled = cell.unpickle_meta(values[META_KEY], self.name)
        return Meta(*pickled, geometry=parse_geometry(values.get(GEOMETRY_KEY), self.name))

    def stamp(self, meta: Meta) -> None:
        if meta.geometry:
            self.put_geometry(meta.geometry)
        self._mutate([RowEntry(META_KEY, cell.meta_cells(meta))])

    def geometry(self) -> Geometry | None:
        row = self._row(GEOMETRY_KEY, cell.newest())
        return parse_geometry(row and row.cells[0].value, self.name)

    def put_geometry(self, geometry: Geometry) -> None:
        self._mutate([RowEntry(GEOMETRY_KEY, [(b"geometry", geometry_text(geometry).encode())])])

    def note(self, name: str) -> str | None:
        row = self._row(cell.note_key(name), cell.newest("note"))
        return None if row is None else row.cells[0].value.decode()

    def put_note(self, name: str, text: str) -> None:
        self._mutate([RowEntry(cell.note_key(name), [(b"note", text.encode())])])

    def write(self, features: np.ndarray) -> None:
        now = datetime.now(UTC)
        for start in range(0, len(features), WRITE_ROWS):
            batch = features[start : start + WRITE_ROWS]
            rows = zip(row_keys(batch["label"]), encode_cells(batch), strict=True)
            self._mutate([RowEntry(key, cells, now) for key, cells in rows])

    def read(self, ids: Any, names: Sequence[str] = NAMES) -> Rows:
        ids = as_ids(ids)
        unique, inverse = distinct(ids)
        with self._errors():
            row_filter = cell.newest_of_nodes(names)
            parts = self._open().read_keys(row_keys(unique), FEATURE_COLUMNS, row_filter)
        rows = Rows.joined(unique, [features_of(part) for part in parts])
        return rows if unique is ids else rows.take(inverse)

    def scan_chunk(self, chunk_id: int, last_id: int, names: Sequence[str] = NAMES) -> Rows:
        first, last = row_keys(np.array([chunk_id, last_id], dtype=np.uint64))
        with self._errors():
            row_filter = cell.newest_attributes(names)
            ranges = [[(first, last)]]
            connection = self._open()
            decode = connection.rows_of(FEATURE_COLUMNS)
            parts = list(connection.read_ranges(ranges, decode, row_filter, self.deadline_s))
        for part in parts:
            if part.unexpected_key is not None:
                raise StoreError(
                    f"{self._where}: the row key {part.unexpected_key!r} is not an id of 20 digits"
                )
        found = [Rows.empty([]), *map(features_of, parts)]
        return Rows(np.concatenate([r.features for r in found]), np.concatenate([r.present for r in found]))

    def first_ids(self, first_id: int, most: int) -> Ids:
        rows = RowRange(row_keys(as_ids([first_id]))[0], cell.NODES_END)
        query = ReadRowsQuery(row_ranges=[rows], row_filter=cell.keys_only(), limit=most)
        with self._errors():
            keys = [row.row_key for row in self._table.read_rows(query)]
        try:
            return ids_of_row_keys(keys)
        except ValueError as error:
            raise StoreError(f"{self._where}: {error}") from error

    def delete(self, first_id: int, last_id: int) -> None:
        left = self.scan_chunk(first_id, last_id, NAMES[:1]).ids
        self._delete_rows(row_keys(left))

    def _delete_rows(self, keys: Sequence[bytes]) -> None:
        for start in range(0, len(keys), WRITE_ROWS):
            batch = keys[start : start + WRITE_ROWS]
            self._mutate([RowMutationEntry(key, DeleteAllFromRow()) for key in batch])

    def put_chunk(self, record: ChunkRecord, segments: Ids | None = None) -> None:
        """See `ChunkLog.put_chunk`.

        The segment index is written before the record. If the call is interrupted, the record still lists
        the earlier segments. So a repeated call can remove the chunk from obsolete segments of the index.
        """
        earlier = self.segments(record.chunk_id)
        before, after = (as_ids([] if ids is None else ids) for ids in (earlier, segments))
        if not np.array_equal(before, after):
            self._index(record.chunk_id, after, np.setdiff1d(before, after))
        key = cell.chunk_key(record.chunk_id)
        self._mutate([RowEntry(key, cell.chunk_cells(record, segments), record.time)])

    def chunk_records(self) -> Iterator[ChunkRecord]:
        for part in self._record_cells():
            yield from cell.chunk_records_of(part, self._where)

    def chunk_totals(self, window: timedelta, most_failed: int) -> ChunkTotals:
        totals = ChunkTotals(window, most_failed)
        for part in self._record_cells():
            add_records(totals, part, self._where)
        totals.drop_old()
        return totals

    def _record_cells(self) -> Iterator[AnyCells]:
        """Yield the cells of all chunk records. ``deadline_s`` applies to each page of `SCAN_ROWS` rows."""
        row_filter = cell.newest(DONE, FAILED)
        with self._errors():
            pages = self._open().read_cell_pages(
                CHUNK_PREFIX, CHUNKS_END, row_filter, SCAN_ROWS, prefix=CHUNK_PREFIX
            )
        while True:
            with self._errors():
                page = next(pages, None)
            if page is None:
                return
            yield from page

    def chunk_states(self, chunk_ids: Ids) -> npt.NDArray[np.str_]:
        cells = self._chunk_cells(chunk_ids, STATES)
        states = np.zeros(len(cells), dtype="U6")
        for column, state in enumerate(STATES.names):
            states[cells[:, column]] = state
        return states

    def incomplete_chunks(self, chunk_ids: Ids) -> npt.NDArray[np.bool_]:
        return self._chunk_cells(chunk_ids, INCOMPLETE)[:, 0]

    def _chunk_cells(self, chunk_ids: Ids, columns: Columns) -> npt.NDArray[np.bool_]:
        """Return whether each chunk's row has a cell of each column, shape (n, columns)."""
        unique, inverse = distinct(as_ids(chunk_ids))
        cells = np.zeros((len(unique), len(columns.names)), dtype=bool)
        with self._errors():
            parts = self._open().read_keys(cell.chunk_keys(unique), columns, cell.cells_only(columns))
        for part in parts:
            cells[np.searchsorted(unique, part.ids)] = part.present
        return cells[inverse]

    def failures(self, chunk_ids: Ids) -> dict[int, str]:
        keys = cell.chunk_keys(np.unique(as_ids(chunk_ids)))
        with self._errors():
            parts = self._open().read_cells(keys, cell.newest(FAILED), prefix=CHUNK_PREFIX)
        failed = (record for part in parts for record in cell.chunk_records_of(part, self._where))
        return {record.chunk_id: record.reason for record in failed}

    def coverage(self) -> Coverage:
        counts, micros = np.zeros(len(STATES.names), dtype=np.int64), 0
        with self._errors():
            row_filter = cell.cells_only(STATES)
            pages = self._open().read_pages(CHUNK_PREFIX, CHUNKS_END, STATES, row_filter, SCAN_ROWS)
            for part in (part for page in pages for part in page):
                counts += part.present.sum(axis=0)
                micros = max(micros, int(part.times.max(initial=0)))
        done, failed = counts.tolist()
        return Coverage(done, failed, datetime.fromtimestamp(micros / 1e6, UTC) if counts.any() else None)

    def segments(self, chunk_id: int) -> Ids | None:
        row = self._row(cell.chunk_key(chunk_id), cell.newest(cell.SEGMENTS))
        return None if row is None else parse_segments(row.cells[0].value, f"{self._where}: chunk {chunk_id}")

    def root_cells(self, roots: Ids, names: Sequence[str]) -> dict[int, dict[str, bytes]]:
        keys, row_filter = keys_of(ROOT_PREFIX, roots), cell.newest_of([name] for name in names)
        with self._errors():
            parts = self._open().read_cells(keys, row_filter, ROOT_PREFIX)
        return root_cells_of(parts, self._where)

    def put_root_cells(self, cells: Mapping[int, Mapping[str, bytes]]) -> None:
        for entries in root_entries(cells, WRITE_ROWS):
            self._mutate(entries)

    def delete_root_cells(self, roots: Ids) -> None:
        self._delete_rows(keys_of(ROOT_PREFIX, roots))

    def segment_nodes(self, segments: Ids, most: int) -> dict[int, Ids]:
        keys = keys_of(SEGMENT_PREFIX, segments)
        with self._errors():
            parts = self._open().read_cells(keys, first_nodes(most + 1), SEGMENT_PREFIX)
        return segment_nodes_of(parts, self._where)

    def index_segments(self, chunk_id: int, segments: Ids) -> None:
        self._index(chunk_id, as_ids(segments), as_ids([]))

    def _index(self, chunk_id: int, segments: Ids, stale: Ids) -> None:
        for entries in index_entries(chunk_id, segments, stale, WRITE_ROWS):
            self._mutate(entries)

    def count_attempts(self, chunk_id: int, works: Sequence[str] = ("",)) -> list[int]:
        key = cell.chunk_key(chunk_id)
        known = cell.attempts_of(self._row(key, cell.attempts_only()))
        counts = {work: known.get(work, 0) + 1 for work in works}
        self._mutate([cell.put_attempts(key, counts)])
        return list(counts.values())

    def clear_attempts(self, chunk_id: int, works: Sequence[str] = ("",)) -> None:
        self._mutate([cell.drop_attempts(cell.chunk_key(chunk_id), works)])

    def ping(self) -> None:
        with self._errors():
            self._open().read_keys([META_KEY], STATES, cell.cells_only(STATES))

    def structure(self) -> Structure:
        with self._errors():
            families = column_families(self.project, self.instance, self.name, self.deadline_s)
        text = f"column families {', '.join(families) or 'none'}"
        if cell.FAMILY in families:
            return Structure(text)
        return Structure(text, (f"the table has {text}: expected {cell.FAMILY!r} among them",))

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
            self._opened = None

    def _open(self) -> Connection:
        """Return this process's connection. After a fork, the parent's connection would not work."""
        with self._lock:
            if self._opened is None or self._opened.pid != os.getpid():
                self._opened = Connection(self.project, self.instance, self.name, self.deadline_s)
            return self._opened

    @property
    def _table(self) -> Any:
        return self._open().table

    def _row(self, key: bytes, row_filter: RowFilter) -> Row | None:
        with self._errors():
            return self._table.read_row(key, row_filter=row_filter)

    def _mutate(self, entries: list[RowMutationEntry]) -> None:
        with self._errors():
            self._table.bulk_mutate_rows(entries)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except BadAnswer as error:
            raise StoreError(f"{self._where}: {error}") from error
        except _GOOGLE_ERRORS as error:
            if any(isinstance(cause, NotFound) for cause in causes(error)):
                raise TableNotFound(f"{self._where}: not found; {MAKE_TABLE}") from error
            kind = StoreUnavailable if unavailable(error) else StoreError
            raise kind(f"{self._where}: {reason(error)}") from error
