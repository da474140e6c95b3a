"""The rows of a Bigtable table: keys, mutations and filters, and parsers for the cells of chunks and meta."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from google.cloud.bigtable.data import Row
from google.cloud.bigtable.data.mutations import DeleteRangeFromColumn, RowMutationEntry, SetCell
from google.cloud.bigtable.data.row_filters import (
    BlockAllFilter,
    CellsColumnLimitFilter,
    CellsRowLimitFilter,
    ColumnRangeFilter,
    RowFilter,
    RowFilterChain,
    RowFilterUnion,
    StripValueTransformerFilter,
)
from google.cloud.bigtable.row import DirectRow
from google.cloud.bigtable_v2.types import MutateRowsRequest

from ...core.errors import StoreError
from ...core.ids import Ids, as_ids, group_starts, row_keys, to_bytes
from ...core.rows import encode_cells
from ...core.schema import NAMES
from ...core.unpickle import plain_loads
from .. import formats
from ..base import DONE, FAILED, ChunkRecord, Meta, check_note_name
from .row_arrays import AnyCells, Columns

FAMILY = "0"
META_KEY, VERSION_KEY, GEOMETRY_KEY, CHUNK_PREFIX = b"meta", b"version", b"geometry", b"chunk_"
NOTE_PREFIX = b"note_"
NODES_END = b":"
"""The first row key after all keys of nodes, which consist of digits."""
CHUNKS_END = CHUNK_PREFIX[:-1] + bytes([CHUNK_PREFIX[-1] + 1])
SEGMENTS, ATTEMPTS = "segments", "attempts"
STATES = Columns((DONE, FAILED), prefix=CHUNK_PREFIX)
INCOMPLETE = Columns(("incomplete",), prefix=CHUNK_PREFIX)
"""Column of an empty cell that marks a done chunk of which files were missing or empty."""
Cells = Sequence[tuple[bytes, bytes]]
_EntryProto = type(MutateRowsRequest.Entry.pb(MutateRowsRequest.Entry()))


def chunk_keys(chunk_ids: Ids) -> list[bytes]:
    """Return the row keys of chunks' records."""
    return [CHUNK_PREFIX + key for key in row_keys(chunk_ids)]


def chunk_key(chunk_id: int) -> bytes:
    """Return the row key of a chunk's record."""
    return chunk_keys(as_ids([chunk_id]))[0]


def note_key(name: str) -> bytes:
    """Return the row key of a note. Raises ValueError for a malformed name."""
    check_note_name(name)
    return NOTE_PREFIX + name.encode()


# ------------------------------------------------------------------ mutations
class _ProtoEntry(RowMutationEntry):
    """A mutation of the family `FAMILY` in a row, built as a protocol buffer.

    Building it from objects of Google's client takes 3 times as long; see docs/decisions/bigtable-client.md.
    """

    def __init__(self, row_key: bytes, time: datetime | None) -> None:
        self.row_key, self.proto = row_key, _EntryProto(row_key=row_key)
        self.micros = micros_of(time or datetime.now(UTC))

    def _set(self, cells: Cells) -> None:
        add, micros = self.proto.mutations.add, self.micros
        for qualifier, value in cells:
            cell = add().set_cell
            cell.family_name, cell.column_qualifier = FAMILY, qualifier
            cell.value, cell.timestamp_micros = value, micros

    def _to_pb(self) -> Any:
        return MutateRowsRequest.Entry.wrap(self.proto)

    def is_idempotent(self) -> bool:
        return True


class RowEntry(_ProtoEntry):
    """A mutation that replaces all cells of the family `FAMILY` in a row by ``cells``."""

    def __init__(self, row_key: bytes, cells: Cells, time: datetime | None = None) -> None:
        super().__init__(row_key, time)
        self.proto.mutations.add().delete_from_family.family_name = FAMILY
        self._set(cells)
        self.mutations = tuple(self.proto.mutations)


class CellEntry(_ProtoEntry):
    """A mutation that replaces one cell in a row by ``value``; with None, it deletes the cell."""

    def __init__(
        self, row_key: bytes, qualifier: bytes, value: bytes | None, time: datetime | None = None
    ) -> None:
        super().__init__(row_key, time)
        column = self.proto.mutations.add().delete_from_column
        column.family_name, column.column_qualifier = FAMILY, qualifier
        if value is not None:
            self._set([(qualifier, value)])
        self.mutations = tuple(self.proto.mutations)


def direct_rows(features: np.ndarray) -> Iterator[DirectRow]:
    """Yield the mutations of `BigtableStore.write`, but for the older Google client of Beam's connector."""
    now = datetime.now(UTC)
    now -= timedelta(microseconds=now.microsecond % 1000)
    for key, cells in zip(row_keys(features["label"]), encode_cells(features), strict=True):
        row = DirectRow(row_key=key)
        row.delete_cells(FAMILY, DirectRow.ALL_COLUMNS)
        for qualifier, value in cells:
            row.set_cell(FAMILY, qualifier, value, timestamp=now)
        yield row


def meta_cells(meta: Meta) -> Cells:
    """Return the cells of the row ``meta``, as PCGL2Cache writes them."""
    content = {"graph_id": meta.graph_id, "cv_path": meta.cv_path, "timestamp": meta.timestamp}
    return [(b"meta", pickle.dumps(content, protocol=4))]


def chunk_cells(record: ChunkRecord, segments: Ids | None) -> Cells:
    """Return the cells (qualifier, value) of a chunk's row."""
    cells = [(record.state.encode(), formats.chunk_text(record).encode())]
    if record.state == DONE and record.files.background:
        cells.append((INCOMPLETE.names[0].encode(), b""))
    if segments is not None:
        cells.append((SEGMENTS.encode(), to_bytes(as_ids(segments))))
    return cells


def put_attempts(key: bytes, counts: Mapping[str, int]) -> RowMutationEntry:
    """Return the mutation that sets the number of attempts at each task in a chunk's row."""
    micros, mutations = micros_of(datetime.now(UTC)), list[Any]()
    for work, count in counts.items():
        mutations.append(DeleteRangeFromColumn(FAMILY, _attempts(work)))
        mutations.append(SetCell(FAMILY, _attempts(work), str(count).encode(), micros))
    return RowMutationEntry(key, mutations)


def drop_attempts(key: bytes, works: Iterable[str]) -> RowMutationEntry:
    """Return the mutation that clears the attempts at these tasks in a chunk's row."""
    return RowMutationEntry(key, [DeleteRangeFromColumn(FAMILY, _attempts(work)) for work in works])


def _attempts(work: str) -> bytes:
    return (f"{ATTEMPTS}:{work}" if work else ATTEMPTS).encode()


def micros_of(time: datetime) -> int:
    """Return a time in microseconds since 1970, rounded to Bigtable's precision of milliseconds."""
    return round(time.timestamp() * 1000) * 1000


# ------------------------------------------------------------------ cells that were read
def chunk_records_of(part: AnyCells, where: str) -> Iterator[ChunkRecord]:
    """Yield the chunk records in the first cell of each row.

    Raises StoreError for a malformed record or row key, with ``where`` in the message.
    """
    part = first_cells(part, where)
    for chunk_id, micros, name, value in zip(
        part.ids.tolist(), part.times.tolist(), part.names, part.values, strict=True
    ):
        time = datetime.fromtimestamp(micros / 1e6, UTC)
        yield formats.chunk_record(chunk_id, name.decode(), partial(_loaded, time, value), where)


def _loaded(time: datetime, value: bytes) -> tuple[datetime, Any]:
    return time, json.loads(value)


def first_cells(part: AnyCells, where: str) -> AnyCells:
    """Return the first cell of each row. Raises StoreError for a row key without an id."""
    if part.unexpected_key is not None:
        raise StoreError(f"{where}: row key {part.unexpected_key!r}: expected chunk_ and an id of 20 digits")
    return part.take(group_starts(part.ids))


def attempts_of(row: Row | None) -> dict[str, int]:
    """Return, by task, how many attempts began and were not cleared.

    ``row`` is a chunk's row, read with the filter `attempts_only`.
    """
    cells = row.cells if row else ()
    return {cell.qualifier.decode().partition(":")[2]: int(cell.value) for cell in cells}


def unpickle_meta(value: bytes, name: str) -> tuple[str, str, str]:
    """Return graph_id, cv_path and timestamp from a ``meta`` cell, without running code from its pickle.

    Raises StoreError for a malformed cell. ``name`` is the table's name.
    """
    try:
        meta = plain_loads(value)
        return str(meta["graph_id"]), str(meta["cv_path"]), str(meta["timestamp"])
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"table {name}: the row 'meta' is not a pickled dictionary of graph_id, cv_path and timestamp: "
            f"{error}"
        ) from error


# ------------------------------------------------------------------ filters
def newest(*names: str) -> RowFilter:
    """Return the filter for the newest cell of each column in the range from the first name to the last.

    Without names, the range has all columns. A regular expression would take three times as long as a range.
    """
    return RowFilterChain(filters=[_columns(names), CellsColumnLimitFilter(1)])


def newest_attributes(names: Sequence[str]) -> RowFilter:
    """Return the filter for the newest cells of these attributes. Adjacent columns share one column range."""
    if set(names) >= set(NAMES):
        return newest()
    return newest_of(
        [list(run) for asked, run in groupby(sorted(NAMES), lambda name: name in names) if asked]
    )


def newest_of_nodes(names: Sequence[str]) -> RowFilter:
    """Return the filter for the newest cells of these attributes in rows of nodes.

    If ``names`` has all attributes, the filter is not limited to a column family: with such a limit, reads
    from Bigtable's emulator take a seventh longer. The rows are the same: the decoder skips other families.
    """
    return CellsColumnLimitFilter(1) if set(names) >= set(NAMES) else newest_attributes(names)


def newest_of(runs: Iterable[Sequence[str]]) -> RowFilter:
    """Return the filter for the newest cell of each column in ``runs``.

    A run selects all columns from its first name to its last.
    """
    ranges = [_columns(run) for run in runs]
    found = RowFilterUnion(filters=ranges) if len(ranges) > 1 else (ranges or [BlockAllFilter(True)])[0]
    return RowFilterChain(filters=[found, CellsColumnLimitFilter(1)])


def cells_only(columns: Columns) -> RowFilter:
    """Return the filter for the newest cells of these columns, without their values."""
    return RowFilterChain(filters=[newest(*columns.names), StripValueTransformerFilter(True)])


def keys_only() -> RowFilter:
    """Return the filter for one cell of each row, without its value."""
    return RowFilterChain(filters=[CellsRowLimitFilter(1), StripValueTransformerFilter(True)])


def attempts_only() -> RowFilter:
    """Return the filter for the newest cell of each column that counts attempts."""
    columns = ColumnRangeFilter(FAMILY, ATTEMPTS.encode(), f"{ATTEMPTS};".encode(), inclusive_end=False)
    return RowFilterChain(filters=[columns, CellsColumnLimitFilter(1)])


def _columns(run: Sequence[str]) -> RowFilter:
    """Return the filter for `FAMILY`'s columns from first to last of ``run``; for all if ``run`` is empty."""
    return ColumnRangeFilter(FAMILY, *(name.encode() for name in (*run[:1], *run[-1:])))
