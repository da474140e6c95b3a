"""A graph's table, of PyChunkedGraph 1 or 2: ``bigtable://project/instance/table``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache, partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..core.errors import ConfigError, GraphError
from ..core.geometry import Chunk, Geometry
from ..core.ids import L2, Ids, as_ids, row_keys, sorted_unique
from ..core.transient import graph_error
from .base import (
    SUPERVOXEL,
    Children,
    Graph,
    GraphInfo,
    OpenTable,
    Pairs,
    RootHistory,
    RootNodes,
    check_children,
    check_nodes,
)
from .id_cells import NodeLists, batches, decode_ids
from .l2_edges import edges_of_roots
from .root_walk import ascend, descend
from .table_meta import META_KEYS, info_of_cells, layers_of

if TYPE_CHECKING:
    from google.cloud.bigtable.data import ReadRowsQuery
    from google.cloud.bigtable.data.row_filters import RowFilter

    from ..store.bigtable.row_arrays import AnyCells, Columns, Decoded

ROWS = 20_000
"""Rows that are read and decoded at a time."""
_URL = re.compile(r"bigtable://([^/?#]+)/([^/?#]+)/([^/?#]+)")


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

        self.url, self.deadline_s = url, calls.OPERATION_TIMEOUT_S
        with graph_errors(url):
            self._connection = Connection(*parse_graph_url(url), calls.OPERATION_TIMEOUT_S)
        self._top: int | None = None

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
        read = self._children(math.prod(geometry.chunk_size), self._until(), sorted_unique(ids))
        places = np.flatnonzero(read.known)
        parts = zip(read.ids[places].tolist(), read.lists.take(places).parts(), strict=True)
        found = Children({node: part for node, part in parts if node not in read.errors}, read.errors)
        return check_children(geometry, chunk, found)

    def nodes(self, geometry: Geometry, chunk: Chunk, time: datetime | None = None) -> Ids:
        from google.cloud.bigtable.data.row_filters import RowFilterChain, StripValueTransformerFilter

        from .graph_rows import CHILDREN, newest

        layer = L2 if time is None else SUPERVOXEL
        chunk_id = geometry.layout.chunk_id(*chunk, layer=layer)
        first, last = chunk_id + 1, geometry.layout.last_id(chunk_id)
        if time is None:
            stripped = RowFilterChain(filters=[newest(CHILDREN), StripValueTransformerFilter(True)])
            parts = self._scan(first, last, _columns(CHILDREN), stripped)
            return np.concatenate([as_ids([]), *(part.ids for part in parts)])
        return check_nodes(geometry, chunk, sorted_unique(self._parents(first, last, time)[1]))

    def is_root(self, geometry: Geometry, ids: Ids) -> npt.NDArray[np.bool_]:
        return np.asarray(geometry.layout.layers(ids) == self._root_layer(geometry))

    def root_nodes(self, geometry: Geometry, roots: Ids, most: int) -> RootNodes:
        from .graph_rows import MOST_IDS

        read = partial(self._children, MOST_IDS, self._until())
        return descend(read, geometry.layout.layers, roots[self.is_root(geometry, roots)], most)

    def root_edges(self, geometry: Geometry, nodes: Mapping[int, Ids]) -> dict[int, Pairs]:
        from .graph_rows import MOST_IDS, newest_cross_edges

        until = self._until()
        ids = sorted_unique(np.concatenate([as_ids([]), *nodes.values()]))
        crossing = self._lists(ids, newest_cross_edges(), MOST_IDS, "cross-chunk edges", until)
        read = partial(self._children, math.prod(geometry.chunk_size), until)
        return edges_of_roots(geometry.layout, nodes, crossing, read)

    def roots_of(self, geometry: Geometry, l2_ids: Ids, time: datetime) -> Ids:
        from .graph_rows import SUCCESSORS, newest

        until, top, layers = self._until(), self._root_layer(geometry), geometry.layout.layers
        nodes, inverse = np.unique(l2_ids, return_inverse=True)
        nodes[layers(nodes) != L2] = 0
        roots = ascend(partial(self._parents_of, time, until), layers, nodes, top)
        roots[layers(roots) != top] = 0
        found = sorted_unique(roots[roots != 0])
        for part in self._cells(found, newest(SUCCESSORS, until=time), until):
            roots[np.isin(roots, part.ids)] = 0
        return roots[inverse]

    def histories(self, geometry: Geometry, roots: Ids) -> dict[int, RootHistory]:
        from .graph_rows import CHILDREN, PREDECESSORS, SUCCESSORS, histories_of, newest

        wanted = sorted_unique(roots[self.is_root(geometry, roots)])
        row_filter = newest(CHILDREN, PREDECESSORS, SUCCESSORS)
        return histories_of(self._cells(wanted, row_filter, self._until()))

    def close(self) -> None:
        self._connection.close()

    def _parents(self, first: int | np.uint64, last: int | np.uint64, time: datetime) -> tuple[Ids, Ids]:
        """Supervoxels from ``first`` to ``last``, sorted, and the parent of each at a time."""
        from .graph_rows import PARENTS, newest

        return _ids_and_parents(
            self._scan(first, last, _columns(PARENTS, "<u8"), newest(PARENTS, until=time))
        )

    def _scan(
        self, first: int | np.uint64, last: int | np.uint64, columns: Columns, row_filter: RowFilter
    ) -> list[Decoded]:
        """The rows of a range of ids, by the stream of raw rows."""
        start, end = row_keys(np.array([first, last], dtype=np.uint64))
        with self._reading():
            parts = self._connection.read_range(start, end, columns, row_filter)
        for part in parts:
            if part.unexpected_key is not None:
                raise GraphError(f"{self.url}: the row key {part.unexpected_key!r} is not 20 digits of an id")
        return parts

    def _until(self) -> float:
        return monotonic() + self.deadline_s

    def _root_layer(self, geometry: Geometry) -> int:
        """The layer of the roots. Older versions of PyChunkedGraph 2 rounded the grid down."""
        if self._top is None:
            info = self.info()
            chunks = [size / step for size, step in zip(geometry.voxel_size, info.chunk_size, strict=True)]
            top = info.n_layers or layers_of(max(chunks), info.fan_out)
            lower = info.n_layers or layers_of(int(max(chunks)), info.fan_out)
            self._top = top if top == lower or self._counts_ids(geometry, top) else lower
        return self._top

    def _counts_ids(self, geometry: Geometry, layer: int) -> bool:
        """Whether the graph has made ids in the first chunk of a layer, where all roots are."""
        from google.cloud.bigtable.data import ReadRowsQuery, RowRange

        key = b"i%020d" % (layer << (64 - geometry.layout.layer_bits))
        return len(self._read(ReadRowsQuery(row_ranges=[RowRange(key, key + b"`")], limit=1))) > 0

    def _parents_of(self, time: datetime, until: float, ids: Ids) -> Ids:
        """The parent of each of some sorted, unique ids at a time; 0 where it has none."""
        from .graph_rows import PARENTS, newest

        columns, row_filter = _columns(PARENTS, "<u8"), newest(PARENTS, until=time)
        with self._reading():
            found, parents = _ids_and_parents(
                self._connection.read_keys(row_keys(ids), columns, row_filter, until)
            )
        out = np.zeros(len(ids), dtype=np.uint64)
        out[np.searchsorted(ids, found)] = parents
        return out

    def _children(self, most: int, until: float, ids: Ids) -> NodeLists:
        from .graph_rows import CHILDREN, newest

        return self._lists(ids, newest(CHILDREN), most, "children", until)

    def _lists(self, ids: Ids, row_filter: RowFilter, most: int, what: str, until: float) -> NodeLists:
        """The ids in the cells of some sorted, unique nodes."""
        read = []
        for batch in batches(ids, ROWS):
            parts = self._cells(batch, row_filter, until)
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
def _columns(name: str, dtype: str | None = None) -> Columns:
    """One column as the decoder of raw rows takes it; without ``dtype`` its cells are empty."""
    from ..store.bigtable.row_arrays import Columns

    return Columns((name,), np.dtype([(name, dtype)]) if dtype else None)


def _ids_and_parents(parts: Sequence[Decoded]) -> tuple[Ids, Ids]:
    """The ids of rows, and their parents, in step."""
    parents = [part.records.view("<u8").reshape(-1).astype(np.uint64) for part in parts]
    return np.concatenate([as_ids([]), *(p.ids for p in parts)]), np.concatenate([as_ids([]), *parents])


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
    """Return the supervoxels in a cell ``children``, at most ``most`` of them. Raises ValueError."""
    return decode_ids(cell, most, "children")
