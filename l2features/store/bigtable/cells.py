"""The rows of a Bigtable table as its clients write and read them: mutations, filters, chunks and meta."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import numpy as np
from google.cloud.bigtable.data import Row
from google.cloud.bigtable.data.mutations import RowMutationEntry
from google.cloud.bigtable.data.row_filters import (
    BlockAllFilter,
    CellsColumnLimitFilter,
    ColumnRangeFilter,
    RowFilter,
    RowFilterChain,
    RowFilterUnion,
    StripValueTransformerFilter,
)
from google.cloud.bigtable.row import DirectRow
from google.cloud.bigtable_v2.types import MutateRowsRequest

from ...core.errors import StoreError
from ...core.ids import Ids, row_keys
from ...core.rows import encode_cells
from ...core.schema import NAMES
from ...core.unpickle import plain_loads
from ..base import DONE, FAILED, ChunkRecord, check_note_name
from ..stored import parse_chunk
from .decoded import Columns

FAMILY = "0"
META_KEY, VERSION_KEY, GEOMETRY_KEY, CHUNK_PREFIX = b"meta", b"version", b"geometry", b"chunk_"
NOTE_PREFIX = b"note_"
CHUNKS_END = CHUNK_PREFIX[:-1] + bytes([CHUNK_PREFIX[-1] + 1])
SEGMENTS = "segments"
STATES = Columns((DONE, FAILED), prefix=CHUNK_PREFIX)
INCOMPLETE = Columns(("incomplete",), prefix=CHUNK_PREFIX)
"""The mark of a chunk that is done although files were missing or empty: an empty cell."""
_EntryProto = type(MutateRowsRequest.Entry.pb(MutateRowsRequest.Entry()))


def chunk_keys(chunk_ids: Ids) -> list[bytes]:
    """Row keys of chunks' records."""
    return [CHUNK_PREFIX + key for key in row_keys(chunk_ids)]


def note_key(name: str) -> bytes:
    """Row key of a note. Raises ValueError for a name that no note can have."""
    check_note_name(name)
    return NOTE_PREFIX + name.encode()


class RowEntry(RowMutationEntry):
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


def chunk_record(row: Row, where: str) -> ChunkRecord:
    """Return the record in a chunk's row. Raises StoreError."""
    cell = row.cells[0]
    time = datetime.fromtimestamp(cell.timestamp_micros / 1e6, UTC)
    chunk_id = int(row.row_key[len(CHUNK_PREFIX) :])
    return parse_chunk(chunk_id, cell.qualifier.decode(), time, cell.value, where)


def newest(*names: str) -> RowFilter:
    """The newest cell of each column of the family; of those named, if there are any.

    By ranges of columns, as filtering names by a regular expression takes three times as long.
    """
    return RowFilterChain(filters=[_columns(names), CellsColumnLimitFilter(1)])


def newest_attributes(names: Sequence[str]) -> RowFilter:
    """Return the filter for the newest cells of attributes, in one range per run of neighbouring columns."""
    if set(names) >= set(NAMES):
        return newest()
    runs = [list(run) for wanted, run in groupby(sorted(NAMES), set(names).__contains__) if wanted]
    if not runs:
        return BlockAllFilter(True)
    ranges = [_columns(run) for run in runs]
    found = ranges[0] if len(ranges) == 1 else RowFilterUnion(filters=ranges)
    return RowFilterChain(filters=[found, CellsColumnLimitFilter(1)])


def cells_only(columns: Columns) -> RowFilter:
    """Return the filter for the cells of these columns, without their values."""
    return RowFilterChain(filters=[newest(*columns.names), StripValueTransformerFilter(True)])


def _columns(run: Sequence[str]) -> RowFilter:
    """The columns of the family, from the first of ``run`` to the last."""
    return (
        ColumnRangeFilter(FAMILY, *(name.encode() for name in (run[0], run[-1])))
        if run
        else ColumnRangeFilter(FAMILY)
    )


def micros_of(time: datetime) -> int:
    """Microseconds since the epoch, in whole milliseconds as Bigtable keeps them."""
    return round(time.timestamp() * 1000) * 1000


def unpickle_meta(value: bytes, name: str) -> tuple[str, str, str]:
    """graph_id, cv_path and timestamp of a ``meta`` cell, without trusting it."""
    try:
        meta = plain_loads(value)
        return str(meta["graph_id"]), str(meta["cv_path"]), str(meta["timestamp"])
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"table {name}: the row 'meta' is not a pickled dictionary of graph_id, cv_path and timestamp: "
            f"{error}"
        ) from error
