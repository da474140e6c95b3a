"""Reads of a graph's table: ranges of rows and rows by key, through the decoder of raw rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import GraphError
from ..core.ids import Ids, as_ids, row_keys
from ..core.transient import graph_error
from .id_cells import CHILDREN, PARENTS, NodeLists, batches

if TYPE_CHECKING:
    from google.cloud.bigtable.data import ReadRowsQuery
    from google.cloud.bigtable.data.row_filters import RowFilter

    from ..store.bigtable.row_arrays import AnyCells, Columns, Decoded
    from ..store.bigtable.row_stream import Connection

ROWS = 20_000
"""Rows that are read and decoded at a time."""


class TableReads:
    """A table at a URL. A read of ranges has the time limit ``deadline_s``; one by key ends at ``until``.

    All methods raise GraphError, or GraphUnavailable for a transient error.
    """

    url: str
    deadline_s: float
    _connection: Connection

    def _parents(self, first: int | np.uint64, last: int | np.uint64, time: datetime) -> tuple[Ids, Ids]:
        """Supervoxels from ``first`` to ``last``, sorted, and the parent of each at a time."""
        return self._parents_in([np.array([first, last], dtype=np.uint64)], time)

    def _parents_in(self, ranges: Sequence[Ids], time: datetime) -> tuple[Ids, Ids]:
        """The nodes in ranges of ids, sorted, and the parent of each at a time; see `_scan`."""
        from .graph_rows import newest

        ids, parents = _ids_and_parents(
            self._scan(ranges, column(PARENTS, "<u8"), newest(PARENTS, until=time))
        )
        order = np.argsort(ids, kind="stable")
        return ids[order], parents[order]

    def _scan(self, ranges: Sequence[Ids], columns: Columns, row_filter: RowFilter) -> list[Decoded]:
        """The rows of ranges of ids, by the stream of raw rows, in no particular order.

        ``ranges`` are first and last ids, (n, 2), of each request; see `Connection.read_ranges`.
        """
        keys = [row_keys(some.ravel()) for some in ranges]
        requests = [list(zip(some[::2], some[1::2], strict=True)) for some in keys]
        with self._reading():
            parts = list(self._connection.read_ranges(requests, columns, row_filter, self.deadline_s))
        for part in parts:
            if part.unexpected_key is not None:
                raise GraphError(f"{self.url}: the row key {part.unexpected_key!r} is not 20 digits of an id")
        return parts

    def _until(self) -> float:
        return monotonic() + self.deadline_s

    def _parents_of(self, time: datetime, until: float, ids: Ids) -> Ids:
        """The parent of each of some sorted, unique ids at a time; 0 where it has none."""
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
        """The ids in the cells of some sorted, unique nodes. Each read of some rows has the deadline."""
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
        """Raise errors of the stream of raw rows as GraphError."""
        from ..store.bigtable.row_arrays import BadAnswer

        try:
            with graph_errors(self.url):
                yield
        except BadAnswer as error:
            raise GraphError(f"{self.url}: {error}") from error

    def _read(self, query: ReadRowsQuery) -> Sequence[Any]:
        """Rows as Google's client returns them."""
        from ..store.bigtable import calls

        limits = {"attempt_timeout": min(calls.ATTEMPT_TIMEOUT_S, self.deadline_s)}
        limits["operation_timeout"] = self.deadline_s
        with graph_errors(self.url):
            return list(self._connection.table.read_rows(query, **limits))


@cache
def column(name: str, dtype: str | None = None) -> Columns:
    """One column as the decoder of raw rows takes it; without ``dtype`` its cells are empty."""
    from ..store.bigtable.row_arrays import Columns

    return Columns((name,), np.dtype([(name, dtype)]) if dtype else None)


def _ids_and_parents(parts: Sequence[Decoded]) -> tuple[Ids, Ids]:
    """The ids of rows, and their parents, in step."""
    parents = [part.records.view("<u8").reshape(-1).astype(np.uint64) for part in parts]
    return np.concatenate([as_ids([]), *(p.ids for p in parts)]), np.concatenate([as_ids([]), *parents])


@contextmanager
def graph_errors(url: str) -> Iterator[None]:
    """Raise errors of the Bigtable client as GraphError."""
    from google.api_core.exceptions import GoogleAPIError, NotFound
    from google.auth.exceptions import GoogleAuthError

    from ..store.bigtable.calls import reason

    try:
        yield
    except NotFound as error:
        raise GraphError(f"{url}: there is no such table") from error
    except (GoogleAPIError, GoogleAuthError) as error:
        raise graph_error(f"cannot read {url}: {reason(error)}", error) from error
