"""The Bigtable store: tables and rows as kvdbclient and the older L2 cache make them.

A write replaces a row's family ``0`` as a whole, in one atomic mutation with explicit cell times, so
that retrying or repeating it never piles up cell versions, whoever wrote the row before. What became
of a chunk is kept in a row of its own, ``chunk_<chunk id>``, outside the range of node keys; the
geometry in the row ``geometry``.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from google.api_core.exceptions import AlreadyExists, GoogleAPIError, NotFound
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigtable
from google.cloud.bigtable.column_family import GarbageCollectionRule, MaxAgeGCRule, MaxVersionsGCRule
from google.cloud.bigtable.data import ReadRowsQuery, Row, RowRange
from google.cloud.bigtable.data.exceptions import MutationsExceptionGroup
from google.cloud.bigtable.data.mutations import DeleteAllFromRow, RowMutationEntry
from google.cloud.bigtable.data.row_filters import (
    BlockAllFilter,
    CellsColumnLimitFilter,
    ColumnQualifierRegexFilter,
    FamilyNameRegexFilter,
    RowFilter,
    RowFilterChain,
)
from google.cloud.bigtable.row import DirectRow
from google.cloud.bigtable_v2.types import MutateRowsRequest

from .. import __version__
from .. import bigtable as client
from ..bigtable import causes, open_table, reason
from ..errors import ConfigError, StoreError, TableExists, TableNotFound
from ..ids import Ids, as_ids, ids_of_row_keys, row_keys
from ..rows import Rows, decode_cells, encode_cells
from ..schema import NAMES
from ..unpickle import plain_loads
from . import DONE, FAILED, ChunkRecord, Meta, read_geometry

FAMILY = "0"
WRITE_ROWS = 500
"""Rows of one bulk mutation: about 250 kB."""
READ_KEYS = 5_000
SCAN_ROWS = 20_000
META_KEY, VERSION_KEY, GEOMETRY_KEY, CHUNK_PREFIX = b"meta", b"version", b"geometry", b"chunk_"
SEGMENTS = b"segments"
_EntryProto = type(MutateRowsRequest.Entry.pb(MutateRowsRequest.Entry()))
_URL = re.compile(r"bigtable://([^/?#]+)/([^/?#]+)/?")


def families() -> dict[str, GarbageCollectionRule | None]:
    """Column families of a table, as kvdbclient makes them."""
    return {
        "0": None,
        "1": MaxVersionsGCRule(1),
        "2": None,
        "3": MaxAgeGCRule(timedelta(days=365)),
        "4": None,
    }


class _RowEntry(RowMutationEntry):
    """A mutation that makes ``cells`` the whole content of a row's family.

    It is built as a protocol buffer at once: the client's own mutation objects take twice the time.
    """

    def __init__(self, row_key: bytes, cells: Sequence[tuple[bytes, bytes]], micros: int) -> None:
        self.row_key = row_key
        self.proto = _EntryProto(row_key=row_key)
        self.proto.mutations.add().delete_from_family.family_name = FAMILY
        for qualifier, value in cells:
            cell = self.proto.mutations.add().set_cell
            cell.family_name, cell.column_qualifier = FAMILY, qualifier
            cell.value, cell.timestamp_micros = value, micros
        self.mutations = tuple(self.proto.mutations)

    def _to_pb(self) -> Any:
        return MutateRowsRequest.Entry.wrap(self.proto)

    def is_idempotent(self) -> bool:
        return True


class BigtableStore:
    """See `l2features.store.Store`."""

    def __init__(self, url: str, name: str) -> None:
        match = _URL.fullmatch(url)
        if not match:
            raise ConfigError(f"store {url!r}: expected bigtable://project/instance")
        self.url, self.name = url, name
        self.project, self.instance = match.groups()
        self._opened: Any = None

    def create(self, meta: Meta) -> None:
        with self._errors():
            admin = bigtable.Client(project=self.project, admin=True)
            try:
                instance = admin.instance(self.instance)
                table = instance.table(self.name)
                rules = {name: table.column_family(name, rule).to_pb() for name, rule in families().items()}
                admin.table_admin_client.create_table(
                    parent=instance.name,
                    table_id=self.name,
                    table={"column_families": rules},
                    timeout=client.OPERATION_TIMEOUT_S,
                )
            except AlreadyExists:
                pass
            finally:
                admin.close()
        there = self.meta()
        if there is None:
            version = (b"version", __version__.encode())
            self._mutate([_RowEntry(VERSION_KEY, [version], _micros(datetime.now(UTC)))])
            self.stamp(meta)
        elif there != meta:
            raise TableExists(f"table {self.name} is in {self.url} already, with another meta: {there}")

    def meta(self) -> Meta | None:
        with self._errors():
            query = ReadRowsQuery(row_keys=[META_KEY, GEOMETRY_KEY], row_filter=_newest())
            values = {row.row_key: row.cells[0].value for row in self._table.read_rows(query)}
        if META_KEY not in values:
            return None
        pickled = _unpickle_meta(values[META_KEY], self.name)
        return Meta(*pickled, geometry=read_geometry(values.get(GEOMETRY_KEY), self.name))

    def stamp(self, meta: Meta) -> None:
        pickled = pickle.dumps(
            {"graph_id": meta.graph_id, "cv_path": meta.cv_path, "timestamp": meta.timestamp}, protocol=4
        )
        rows = {META_KEY: (b"meta", pickled)}
        if meta.geometry:
            rows[GEOMETRY_KEY] = (b"geometry", meta.geometry.to_json().encode())
        now = _micros(datetime.now(UTC))
        self._mutate([_RowEntry(key, [cell], now) for key, cell in rows.items()])

    def write(self, features: np.ndarray) -> None:
        now = _micros(datetime.now(UTC))
        for start in range(0, len(features), WRITE_ROWS):
            batch = features[start : start + WRITE_ROWS]
            rows = zip(row_keys(batch["label"]), encode_cells(batch), strict=True)
            self._mutate([_RowEntry(key, cells, now) for key, cells in rows])

    def read(self, ids: Any, names: Sequence[str] = NAMES) -> Rows:
        ids = as_ids(ids)
        unique, inverse = np.unique(ids, return_inverse=True)
        rows, keys = Rows.empty(unique), row_keys(unique)
        place = {key: i for i, key in enumerate(keys)}
        with self._errors():
            for start in range(0, len(keys), READ_KEYS):
                query = ReadRowsQuery(row_keys=keys[start : start + READ_KEYS], row_filter=_newest(names))
                for row in self._table.read_rows_stream(query):
                    self._decode(rows, place[row.row_key], row)
        return Rows(rows.features[inverse], rows.present[inverse])

    def scan_chunk(self, chunk_id: int, last_id: int, names: Sequence[str] = NAMES) -> Rows:
        first, last = row_keys(np.array([chunk_id, last_id], dtype=np.uint64))
        query = ReadRowsQuery(
            row_ranges=[RowRange(first, last, end_is_inclusive=True)], row_filter=_newest(names)
        )
        with self._errors():
            found = self._table.read_rows(query)
        rows = Rows.empty(ids_of_row_keys([row.row_key for row in found]))
        for i, row in enumerate(found):
            self._decode(rows, i, row)
        return rows

    def delete(self, first_id: int, last_id: int) -> None:
        left = self.scan_chunk(first_id, last_id, NAMES[:1]).ids
        for start in range(0, len(left), WRITE_ROWS):
            keys = row_keys(left[start : start + WRITE_ROWS])
            self._mutate([RowMutationEntry(key, DeleteAllFromRow()) for key in keys])

    def put_chunk(self, record: ChunkRecord, segments: Ids | None = None) -> None:
        value = {"nodes": record.nodes, "orphans": record.orphans, "reason": record.reason}
        cells = [(record.state.encode(), json.dumps(value, separators=(",", ":")).encode())]
        if segments is not None:
            cells.append((SEGMENTS, as_ids(segments).astype("<u8").tobytes()))
        key = CHUNK_PREFIX + row_keys(np.array([record.chunk_id], dtype=np.uint64))[0]
        self._mutate([_RowEntry(key, cells, _micros(record.time))])

    def chunk_states(self, chunk_ids: Ids) -> npt.NDArray[np.str_]:
        keys = [CHUNK_PREFIX + key for key in row_keys(chunk_ids)]
        states: dict[bytes, str] = {}
        with self._errors():
            for start in range(0, len(keys), READ_KEYS):
                query = ReadRowsQuery(
                    row_keys=keys[start : start + READ_KEYS], row_filter=_newest((DONE, FAILED))
                )
                for row in self._table.read_rows_stream(query):
                    states[row.row_key] = row.cells[0].qualifier.decode()
        return np.array([states.get(key, "") for key in keys], dtype="U6")

    def chunk_records(self) -> Iterator[ChunkRecord]:
        last, end = CHUNK_PREFIX, CHUNK_PREFIX[:-1] + bytes([CHUNK_PREFIX[-1] + 1])
        while True:
            left = RowRange(last, end, start_is_inclusive=False)
            with self._errors():
                rows = self._table.read_rows(
                    ReadRowsQuery(row_ranges=[left], row_filter=_newest((DONE, FAILED)), limit=SCAN_ROWS)
                )
            yield from map(_chunk_record, rows)
            if len(rows) < SCAN_ROWS:
                return
            last = rows[-1].row_key

    def segments(self, chunk_id: int) -> Ids | None:
        key = CHUNK_PREFIX + row_keys(np.array([chunk_id], dtype=np.uint64))[0]
        with self._errors():
            row = self._table.read_row(key, row_filter=_newest((SEGMENTS.decode(),)))
        return None if row is None else np.frombuffer(row.cells[0].value, dtype="<u8")

    def close(self) -> None:
        if self._opened is not None:
            self._opened.client.close()
            self._opened = None

    def _decode(self, rows: Rows, index: int, row: Row) -> None:
        try:
            decode_cells(rows, index, ((cell.qualifier, cell.value) for cell in row.cells))
        except ValueError as error:
            raise StoreError(f"{self.url}, table {self.name}: {error}") from error

    @property
    def _table(self) -> Any:
        if self._opened is None:
            self._opened = open_table(self.project, self.instance, self.name)
        return self._opened

    def _mutate(self, entries: list[RowMutationEntry]) -> None:
        with self._errors():
            self._table.bulk_mutate_rows(entries)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (MutationsExceptionGroup, GoogleAPIError, GoogleAuthError) as error:
            raise self._error(error) from error

    def _error(self, error: BaseException) -> StoreError:
        where = f"{self.url}, table {self.name}"
        if any(isinstance(cause, NotFound) for cause in causes(error)):
            return TableNotFound(f"{where}: not found")
        return StoreError(f"{where}: {reason(error)}")

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url, "name": self.name}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def direct_rows(features: np.ndarray) -> Iterator[DirectRow]:
    """The rows of `BigtableStore.write`, for the older client, which Beam's connector uses."""
    now = datetime.now(UTC)
    now -= timedelta(microseconds=now.microsecond % 1000)
    for key, cells in zip(row_keys(features["label"]), encode_cells(features), strict=True):
        row = DirectRow(row_key=key)
        row.delete_cells(FAMILY, DirectRow.ALL_COLUMNS)
        for qualifier, value in cells:
            row.set_cell(FAMILY, qualifier, value, timestamp=now)
        yield row


def _chunk_record(row: Row) -> ChunkRecord:
    cell = row.cells[0]
    return ChunkRecord(
        int(row.row_key[len(CHUNK_PREFIX) :]),
        cell.qualifier.decode(),
        datetime.fromtimestamp(cell.timestamp_micros / 1e6, UTC),
        **json.loads(cell.value),
    )


def _newest(names: Sequence[str] = NAMES) -> RowFilter:
    """The newest cell of each column of the family; of those named, unless all attributes are."""
    filters: list[RowFilter] = [FamilyNameRegexFilter(FAMILY), CellsColumnLimitFilter(1)]
    if not names:
        return BlockAllFilter(True)
    if set(names) != set(NAMES):
        filters.insert(1, ColumnQualifierRegexFilter("|".join(names).encode()))
    return RowFilterChain(filters=filters)


def _micros(time: datetime) -> int:
    """Microseconds since the epoch, in whole milliseconds as Bigtable keeps them."""
    return round(time.timestamp() * 1000) * 1000


def _unpickle_meta(value: bytes, name: str) -> tuple[str, str, str]:
    """graph_id, cv_path and timestamp of a ``meta`` cell, without trusting it."""
    try:
        meta = plain_loads(value)
        return str(meta["graph_id"]), str(meta["cv_path"]), str(meta["timestamp"])
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"table {name}: the row 'meta' is not a pickled dictionary of graph_id, cv_path and timestamp: "
            f"{error}"
        ) from error
