"""Read rows through Google's client, for installations without numba: as `decoded`, but more slowly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from google.cloud.bigtable.data import ReadRowsQuery, Row, RowRange
from google.cloud.bigtable.data.row_filters import RowFilter

from ...core.ids import as_ids, ids_of_row_keys
from ...core.rows import NOT_COMPUTED
from . import calls as client
from .row_arrays import AnyCells, BadAnswer, Columns, Decoded, Part

P = TypeVar("P", bound=Part)


@dataclass
class GoogleRead(Generic[P]):
    """One ReadRows request that Google's client sends and retries. It has the methods of `RowsRead`.

    ``until`` is the deadline by `time.monotonic`.
    """

    table: Any
    request: Any
    decode: Callable[[Sequence[Row]], P]
    until: float
    row_filter: RowFilter

    def run(self) -> list[P]:
        """Send the request; return a list with one item, which holds all rows.

        Raises BadAnswer for a cell of the wrong length, and GoogleAPIError if the request fails.
        """
        rows, left = self.request.rows, max(0.001, self.until - time.monotonic())
        query = ReadRowsQuery(
            row_keys=list(rows.row_keys),
            row_ranges=[_range(part) for part in rows.row_ranges],
            limit=self.request.rows_limit or None,
            row_filter=self.row_filter,
        )
        timeouts = {"operation_timeout": left, "attempt_timeout": min(client.ATTEMPT_TIMEOUT_S, left)}
        return [self.decode(self.table.read_rows(query, **timeouts))]

    def cancel(self) -> None:
        """Do nothing: the request runs on, until its deadline at most."""


def _range(part: Any) -> RowRange:
    return RowRange(
        part.start_key_open or part.start_key_closed,
        part.end_key_open or part.end_key_closed,
        start_is_inclusive=not part.start_key_open,
        end_is_inclusive=not part.end_key_open,
    )


def decode(rows: Sequence[Row], columns: Columns) -> Decoded:
    """Return the rows of Google's client as arrays; of several versions of a cell, take only the first.

    Raises BadAnswer for a cell of the wrong length.
    """
    known, part = _with_ids(rows, columns.prefix)
    fields = {} if columns.record is None else dict(columns.record.fields or {})
    records = np.zeros((len(known), columns.itemsize), dtype=np.uint8)
    present = np.zeros((len(known), len(columns.names)), dtype=np.bool_)
    times = np.zeros(len(known), dtype=np.int64)
    for place, (node, row) in enumerate(known):
        for column, cell in _first_cells(row, columns):
            name, value = columns.names[column], cell.value
            times[place] = max(times[place], cell.timestamp_micros)
            if not value and name in columns.optional:
                continue
            start, size = (fields[name][1], fields[name][0].itemsize) if fields else (0, 0)
            if column == columns.marked and value == NOT_COMPUTED:
                value = bytes(size)
            if len(value) != size:
                raise BadAnswer(f"row {node}: {name} has {len(value)} bytes, expected {size}")
            records[place, start : start + size] = np.frombuffer(value, dtype=np.uint8)
            present[place, column] = True
    return Decoded(*part, as_ids([node for node, _ in known]), records, present, times)


def decode_cells(rows: Sequence[Row], prefix: bytes = b"") -> AnyCells:
    """Return all cells in the rows of Google's client; ``prefix`` precedes the id in a row key."""
    known, part = _with_ids(rows, prefix)
    cells = [(node, cell) for node, row in known for cell in row.cells]
    return AnyCells(
        *part,
        as_ids([node for node, _ in cells]),
        np.array([cell.timestamp_micros for _, cell in cells], dtype=np.int64),
        [cell.qualifier for _, cell in cells],
        [cell.value for _, cell in cells],
    )


def _first_cells(row: Row, columns: Columns) -> Iterator[tuple[int, Any]]:
    """Yield pairs (index of the column, the row's first cell of the column) for the columns in the row."""
    family, left = columns.family.decode(), {name.encode(): i for i, name in enumerate(columns.names)}
    for cell in row.cells:
        if cell.family == family and cell.qualifier in left:
            yield left.pop(cell.qualifier), cell


def _with_ids(
    rows: Sequence[Row], prefix: bytes
) -> tuple[list[tuple[int, Row]], tuple[int, bytes, bytes | None, bool]]:
    """Return a tuple: pairs (id, row) of the rows whose key has an id; the fields of a `Part`, in order."""
    known, unexpected = list[tuple[int, Row]](), None
    for row in rows:
        try:
            if not row.row_key.startswith(prefix):
                raise ValueError(f"row key {row.row_key!r}: expected a row key that begins with {prefix!r}")
            (node,) = ids_of_row_keys([row.row_key[len(prefix) :]])
            known.append((int(node), row))
        except ValueError:
            unexpected = row.row_key if unexpected is None else unexpected
    return known, (len(rows), rows[-1].row_key if rows else b"", unexpected, True)
