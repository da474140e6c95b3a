"""The log of a graph's operations in the graph's table: one row per operation, with its number as key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from google.cloud.bigtable.data import ReadRowsQuery, RowRange
from google.cloud.bigtable.data import row_filters as f

from ..core.ids import Ids, as_ids, from_bytes, row_keys
from ..core.times import whole_ms

AT_ONCE = 50_000
"""Number of operations whose rows are read by one request."""
LAST = (1 << 56) - 1
_MS = timedelta(milliseconds=1)
ReadRows = Callable[[ReadRowsQuery], Sequence[Any]]


def logged_roots(read: ReadRows, start: datetime, end: datetime | None = None) -> Ids:
    """Return the roots that operations logged from ``start`` to ``end``, both included.

    If an operation logged roots several times in this period, the newest entry counts. A failed operation may
    have logged roots that were never written. An entry may be written after its roots: days after, if a
    failed operation was repaired. Operation numbers do not always ascend with time, so Bigtable scans the
    whole log, but returns only the entries of this period.
    """
    columns = f.ColumnRangeFilter("2", b"roots", b"roots")
    window = f.TimestampRangeFilter(whole_ms(start), None if end is None else whole_ms(end) + _MS)
    newest = f.RowFilterChain(filters=[columns, window, f.CellsColumnLimitFilter(1)])
    return np.concatenate([as_ids([]), *(from_bytes(row.cells[0].value) for row in _rows(read, newest))])


def first_operation(read: ReadRows) -> datetime | None:
    """Return the time of the operation with the lowest number; None if the log has no operation."""
    column = f.ColumnRangeFilter("0", b"operation_ts", b"operation_ts")
    rows = read(_query(0, LAST, column, 1))
    micros = [min(cell.timestamp_micros for cell in row.cells) for row in rows]
    return datetime.fromtimestamp(micros[0] / 1e6, UTC) if micros else None


def _rows(read: ReadRows, row_filter: f.RowFilter) -> Iterator[Any]:
    """Yield the rows of the log that ``row_filter`` selects; each request reads `AT_ONCE` operations.

    One request for the whole log could exceed the time limit of a Bigtable read.
    """
    any_cell = f.RowFilterChain(filters=[f.CellsRowLimitFilter(1), f.StripValueTransformerFilter(True)])
    first = 0
    while rows := read(_query(first, LAST, any_cell, 1)):
        first = int(rows[0].row_key)
        yield from read(_query(first, first + AT_ONCE - 1, row_filter))
        first += AT_ONCE


def _query(first: int, last: int, row_filter: f.RowFilter, limit: int | None = None) -> ReadRowsQuery:
    start, end = row_keys(as_ids([first, last]))
    rows = RowRange(start, end, end_is_inclusive=True)
    return ReadRowsQuery(row_ranges=[rows], row_filter=row_filter, limit=limit)
