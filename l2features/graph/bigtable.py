"""A graph's table, of PyChunkedGraph 1 or 2: ``bigtable://project/instance/table``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard

from ..core.errors import ConfigError, GraphError
from ..core.geometry import Chunk, Geometry
from ..core.ids import L2, Ids, as_ids, from_bytes, ids_of_row_keys, row_keys, sorted_unique
from ..core.transient import graph_error
from .base import SUPERVOXEL, Children, Graph, GraphInfo, OpenTable, check_children, check_nodes
from .table_meta import META_KEYS, info_of_cells

if TYPE_CHECKING:
    from google.cloud.bigtable.data import ReadRowsQuery
    from google.cloud.bigtable.data.row_filters import RowFilter

    from ..store.bigtable.decoded import Columns, Decoded

ROWS = 2_000
"""Rows of one read of children."""
_URL = re.compile(r"bigtable://([^/?#]+)/([^/?#]+)/([^/?#]+)")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class BigtableGraph(Graph):
    """Children are raw in PyChunkedGraph 1 and compressed with zstd in 2; all else is the same.

    Rows of nodes are never removed, and lack the time a node was superseded. The nodes that are valid at a
    time are the parents of the chunk's supervoxels, which are one range of rows: of each, the newest cell
    that is not younger than the time counts.
    """

    pattern, expected = _URL, "bigtable://project/instance/table"

    def __init__(self, url: str, open_table: OpenTable | None = None) -> None:
        from ..store.bigtable import calls
        from ..store.bigtable.row_stream import Connection

        self.url = url
        with graph_errors(url):
            self._connection = Connection(*parse_graph_url(url), calls.OPERATION_TIMEOUT_S)

    def info(self) -> GraphInfo:
        from google.cloud.bigtable.data import ReadRowsQuery

        rows = self._read(ReadRowsQuery(row_keys=list(META_KEYS)))
        return info_of_cells({c.qualifier: c.value for row in rows for c in reversed(row.cells)}, self.url)

    def check(self) -> None:
        from google.cloud.bigtable.data import ReadRowsQuery
        from google.cloud.bigtable.data.row_filters import CellsRowLimitFilter

        self._read(ReadRowsQuery(limit=1, row_filter=CellsRowLimitFilter(1)))

    def l2_ids(self, geometry: Geometry, chunk: Chunk, supervoxels: Ids, time: datetime) -> Ids:
        parents, layout = np.zeros(len(supervoxels), dtype=np.uint64), geometry.layout
        unexpected = supervoxels[layout.layers(supervoxels) != SUPERVOXEL]
        if len(unexpected):
            raise GraphError(f"chunk {chunk}: {unexpected[0]} is not a supervoxel id: expected layer 1")
        chunk_ids = layout.chunk_ids(supervoxels)
        for chunk_id in np.unique(chunk_ids):
            places = np.flatnonzero(chunk_ids == chunk_id)
            wanted = supervoxels[places]
            keys, values = self._parents(wanted.min(), wanted.max(), time)
            at = np.searchsorted(keys, wanted)
            known = at < len(keys)
            known[known] = keys[at[known]] == wanted[known]
            parents[places[known]] = values[at[known]]
        return parents

    def children(self, geometry: Geometry, chunk: Chunk, ids: Ids) -> Children:
        found = Children()
        for first in range(0, len(ids), ROWS):
            for node, cell in self._cells(ids[first : first + ROWS]).items():
                try:
                    found.supervoxels[node] = decode_children(cell, math.prod(geometry.chunk_size))
                except ValueError as error:
                    found.errors[node] = f"node {node}: {error}"
        return check_children(geometry, chunk, found)

    def nodes(self, geometry: Geometry, chunk: Chunk, time: datetime | None = None) -> Ids:
        from google.cloud.bigtable.data.row_filters import StripValueTransformerFilter

        layer = L2 if time is None else SUPERVOXEL
        chunk_id = geometry.layout.chunk_id(*chunk, layer=layer)
        first, last = chunk_id + 1, geometry.layout.last_id(chunk_id)
        if time is None:
            parts = self._scan(first, last, _columns("children"), StripValueTransformerFilter(True))
            return np.concatenate([as_ids([]), *(part.ids for part in parts)])
        return check_nodes(geometry, chunk, sorted_unique(self._parents(first, last, time)[1]))

    def close(self) -> None:
        self._connection.close()

    def _parents(self, first: int | np.uint64, last: int | np.uint64, time: datetime) -> tuple[Ids, Ids]:
        """Supervoxels from ``first`` to ``last``, sorted, and the parent of each at a time."""
        from google.cloud.bigtable.data.row_filters import TimestampRangeFilter

        # Bigtable's times are whole milliseconds, and its filters round up
        until = time.replace(microsecond=time.microsecond // 1000 * 1000) + timedelta(milliseconds=1)
        columns = _columns("parents", "<u8")
        parts = self._scan(first, last, columns, TimestampRangeFilter(end=until))
        parents = [part.records.view("<u8").reshape(-1).astype(np.uint64) for part in parts]
        return np.concatenate([as_ids([]), *(p.ids for p in parts)]), np.concatenate([as_ids([]), *parents])

    def _scan(
        self, first: int | np.uint64, last: int | np.uint64, columns: Columns, restrict: RowFilter
    ) -> list[Decoded]:
        """The newest cell of one column in the rows of a range of ids, by the stream of raw rows."""
        from google.cloud.bigtable.data import row_filters as f

        from ..store.bigtable.row_stream import BadAnswer

        name = columns.names[0].encode()
        newest = [f.ColumnRangeFilter("0", name, name), restrict, f.CellsColumnLimitFilter(1)]
        start, end = row_keys(np.array([first, last], dtype=np.uint64))
        try:
            with graph_errors(self.url):
                parts = self._connection.read_range(start, end, columns, f.RowFilterChain(filters=newest))
        except BadAnswer as error:
            raise GraphError(f"{self.url}: {error}") from error
        for part in parts:
            if part.strange_key is not None:
                raise GraphError(f"{self.url}: the row key {part.strange_key!r} is not 20 digits of an id")
        return parts

    def _cells(self, ids: Ids) -> dict[int, bytes]:
        """The newest cell ``children`` of nodes."""
        from google.cloud.bigtable.data import ReadRowsQuery
        from google.cloud.bigtable.data import row_filters as f

        newest = [f.ColumnRangeFilter("0", b"children", b"children"), f.CellsColumnLimitFilter(1)]
        chain = f.RowFilterChain(filters=newest)
        rows = self._read(ReadRowsQuery(row_keys=row_keys(ids), row_filter=chain))
        nodes = ids_of_row_keys([row.row_key for row in rows]).tolist()
        return {node: row.cells[0].value for node, row in zip(nodes, rows, strict=True)}

    def _read(self, query: ReadRowsQuery) -> Sequence[Any]:
        """Rows as Google's client returns them, for cells of any length."""
        with graph_errors(self.url):
            return list(self._connection.table.read_rows(query))


@cache
def _columns(name: str, dtype: str | None = None) -> Columns:
    """One column as the decoder of raw rows takes it; without ``dtype`` its cells are empty."""
    from ..store.bigtable.decoded import Columns

    return Columns((name,), np.dtype([(name, dtype)]) if dtype else None)


def parse_graph_url(url: str) -> tuple[str, str, str]:
    """Return project, instance and table of ``bigtable://project/instance/table``. Raises ConfigError."""
    match = _URL.fullmatch(url)
    if not match:
        raise ConfigError(f"graph {url!r}: expected {BigtableGraph.expected}")
    project, instance, table = match.groups()
    return project, instance, table


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


def decode_children(cell: bytes, most: int) -> Ids:
    """Return the supervoxels in a cell ``children``, at most ``most`` of them.

    A raw cell never begins like compressed data: its chunk would need four billion supervoxels.

    Raises:
        ValueError: the cell is neither raw ids nor compressed ones.
    """
    if cell[:4] == _ZSTD_MAGIC:
        try:
            size = zstandard.frame_content_size(cell)
            if size <= 8 * most:
                cell = zstandard.ZstdDecompressor().decompress(cell, max_output_size=8 * most)
        except zstandard.ZstdError as error:
            raise ValueError(f"its children cannot be decompressed: {error}") from error
        if size > 8 * most:
            raise ValueError(f"its children are {size} bytes: expected {most} ids at most")
    if len(cell) % 8:
        raise ValueError(f"its children are {len(cell)} bytes: expected 8 for each")
    return from_bytes(cell)
