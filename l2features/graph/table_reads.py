"""Read a graph's table: ranges of rows, and rows by key, through `store.bigtable.row_stream`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..core.errors import GraphError
from ..core.ids import Ids, as_ids, row_keys
from ..core.transient import graph_error
from .chunk_ranges import LONGEST, MOST_RANGES, IdRanges, batches_of, one_range, ranges_after
from .families import Families, families_of
from .id_cells import CHILDREN, PARENTS, NodeLists, batches

if TYPE_CHECKING:
    from google.cloud.bigtable.data import ReadRowsQuery
    from google.cloud.bigtable.data.row_filters import RowFilter

    from ..store.bigtable.row_arrays import AnyCells, Columns, Decoded
    from ..store.bigtable.row_stream import Connection


P = TypeVar("P", bound="Decoded | AnyCells")
ROWS = 20_000
"""Maximum rows that are read and decoded at a time."""
FEW_ROWS = 5_000
"""Maximum rows of a box that a single request reads; more rows are read by several requests at once."""
FAMILY_CHUNKS = 8
"""Number of chunks above layer 2 whose rows a single request reads."""


class TableReads:
    """Reads a graph's table.

    Requests for ranges run in groups, and each group has ``deadline_s`` seconds. Some methods that read by
    key take a deadline ``until`` instead, a value of `time.monotonic`. All methods raise GraphError, or
    GraphUnavailable for a transient error.
    """

    url: str
    deadline_s: float
    _connection: Connection

    def _parents(self, first: int | np.uint64, last: int | np.uint64, time: datetime) -> tuple[Ids, Ids]:
        """Return the sorted ids from ``first`` to ``last`` with a parent at ``time``, and their parents."""
        from .graph_rows import newest

        decode = self._connection.rows_of(column(PARENTS, "<u8"))
        return _sorted_parents(self._scan([one_range(first, last)], decode, newest(PARENTS, until=time)))

    def _parents_in(self, ranges: IdRanges, time: datetime) -> tuple[Ids, Ids]:
        """Return the sorted ids in these ranges that have a parent at ``time``, and their parents."""
        from .graph_rows import newest

        decode = self._connection.rows_of(column(PARENTS, "<u8"))
        return _sorted_parents(self._rows_in(ranges, decode, newest(PARENTS, until=time), LONGEST))

    def _families_in(self, ranges: IdRanges, time: datetime) -> Families:
        """Return the nodes in these ranges that have a parent at ``time``, their parents and children."""
        from .graph_rows import newest_between

        row_filter = newest_between(CHILDREN, PARENTS, until=time)
        return families_of(self._rows_in(ranges, self._connection.cells(), row_filter, FAMILY_CHUNKS))

    def _rows_in(
        self, ranges: IdRanges, decode: Callable[[Any], P], row_filter: RowFilter, chunks: int
    ) -> list[P]:
        """Return the rows in ranges of ids.

        A first request reads up to `FEW_ROWS` rows, if there are at most `MOST_RANGES` ranges. The remaining
        rows are read by one request per ``chunks`` chunks.
        """
        parts: list[P] = []
        if 0 < len(ranges.first) <= MOST_RANGES:
            with self._reading():
                first = self._connection.read_first(_keys_of(ranges), decode, row_filter, FEW_ROWS)
            parts += self._checked(first)
            few = sum(part.committed for part in parts) < FEW_ROWS
            read = [int(part.ids.max()) for part in parts if len(part.ids)]
            ranges = ranges_after(ranges, int(ranges.last[-1]) if few else max(read))
        return parts + self._scan(batches_of(ranges, chunks), decode, row_filter)

    def _scan(
        self, requests: Sequence[IdRanges], decode: Callable[[Any], P], row_filter: RowFilter
    ) -> list[P]:
        """Return the rows in all ranges of ids; each item of ``requests`` becomes a request."""
        batches = [_keys_of(ranges) for ranges in requests]
        with self._reading():
            parts = self._connection.read_ranges(batches, decode, row_filter, self.deadline_s)
            return self._checked(list(parts))

    def _checked(self, parts: list[P]) -> list[P]:
        """Return the batches of rows (``parts``) unchanged. Raises GraphError if a row key is not an id."""
        for part in parts:
            if part.unexpected_key is not None:
                raise GraphError(f"{self.url}: the row key {part.unexpected_key!r} is not an id of 20 digits")
        return parts

    def _until(self) -> float:
        return monotonic() + self.deadline_s

    def _parents_of(self, time: datetime, until: float, ids: Ids) -> Ids:
        """Return the parent of each id (sorted, unique) at ``time``, shape (n,); 0 for an id without one."""
        from .graph_rows import newest

        columns, row_filter = column(PARENTS, "<u8"), newest(PARENTS, until=time)
        with self._reading():
            found, parents = _ids_and_parents(
                self._connection.read_keys(row_keys(ids), columns, row_filter, until)
            )
        out = np.zeros(len(ids), dtype=np.uint64)
        out[np.searchsorted(ids, found)] = parents
        return out

    def _children(self, most: int, ids: Ids) -> NodeLists:
        from .graph_rows import newest

        return self._lists(ids, newest(CHILDREN), most, "children")

    def _lists(self, ids: Ids, row_filter: RowFilter, most: int, what: str) -> NodeLists:
        """Return the ids that are listed in each node's cells, such as its children.

        ``ids`` are the nodes, sorted and unique. A compressed cell with more than ``most`` ids is malformed.
        ``what`` names the listed ids in errors. The deadline applies to each batch of `ROWS` nodes.
        """
        read = []
        for batch in batches(ids, ROWS):
            parts = self._cells(batch, row_filter, self._until())
            rows = np.concatenate([as_ids([]), *(part.ids for part in parts)])
            cells = [cell for part in parts for cell in part.values]
            read.append(NodeLists.decoded(batch, rows, cells, most, what))
        return NodeLists.joined(read)

    def _cells(self, ids: Ids, row_filter: RowFilter, until: float) -> list[AnyCells]:
        with self._reading():
            return self._connection.read_cells(row_keys(ids), row_filter, until=until)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn errors of reads through `_connection` in the ``with`` block into GraphError."""
        from ..store.bigtable.row_arrays import BadAnswer

        try:
            with graph_errors(self.url):
                yield
        except BadAnswer as error:
            raise GraphError(f"{self.url}: {error}") from error

    def _read(self, query: ReadRowsQuery) -> Sequence[Any]:
        from ..store.bigtable import calls

        limits = {"attempt_timeout": min(calls.ATTEMPT_TIMEOUT_S, self.deadline_s)}
        limits["operation_timeout"] = self.deadline_s
        with graph_errors(self.url):
            return list(self._connection.table.read_rows(query, **limits))


@cache
def column(name: str, dtype: str | None = None) -> Columns:
    """Return the `Columns` of one column; without ``dtype``, its values are not decoded."""
    from ..store.bigtable.row_arrays import Columns

    return Columns((name,), np.dtype([(name, dtype)]) if dtype else None)


def _keys_of(ranges: IdRanges) -> list[tuple[bytes, bytes]]:
    return list(zip(row_keys(ranges.first), row_keys(ranges.last), strict=True))


def _sorted_parents(parts: Sequence[Decoded]) -> tuple[Ids, Ids]:
    ids, parents = _ids_and_parents(parts)
    order = np.argsort(ids, kind="stable")
    return ids[order], parents[order]


def _ids_and_parents(parts: Sequence[Decoded]) -> tuple[Ids, Ids]:
    parents = [part.records.view("<u8").reshape(-1).astype(np.uint64) for part in parts]
    return np.concatenate([as_ids([]), *(p.ids for p in parts)]), np.concatenate([as_ids([]), *parents])


@contextmanager
def graph_errors(url: str) -> Iterator[None]:
    """Turn errors of Google's client in the ``with`` block into GraphError."""
    from google.api_core.exceptions import GoogleAPIError, NotFound
    from google.auth.exceptions import GoogleAuthError

    from ..store.bigtable.calls import reason

    try:
        yield
    except NotFound as error:
        raise GraphError(f"{url}: the table does not exist: expected a graph's table") from error
    except (GoogleAPIError, GoogleAuthError) as error:
        raise graph_error(f"cannot read {url}: {reason(error)}", error) from error
