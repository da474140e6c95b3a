"""A graph in a Bigtable table of PyChunkedGraph 1 or 2: ``bigtable://project/instance/table``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import numpy.typing as npt

from ..core.chunks import ChunkBox
from ..core.errors import ConfigError, GraphError
from ..core.geometry import Chunk, Geometry
from ..core.ids import L2, Ids, as_ids, sorted_unique
from ..core.rows import Rows
from .base import (
    SUPERVOXEL,
    ChangedRoots,
    Children,
    Graph,
    GraphInfo,
    NodeRoots,
    OpenTable,
    Pairs,
    RootHistory,
    RootNodes,
    check_children,
    check_nodes,
)
from .chunk_ranges import one_range, ranges_within, ranges_without
from .families import either, valid_children
from .id_cells import CHILDREN, MOST_IDS, PREDECESSORS, SUCCESSORS, batches, places_of
from .known_roots import KnownRoots
from .l2_edges import edges_of_roots
from .root_lives import RootLives, changes, lives_of, log_since
from .root_walk import ascend, check_parents, descend, highest_among
from .table_meta import META_KEYS, info_of_cells, layers_of, layout_above
from .table_reads import ROWS, TableReads, column, graph_errors

SETTLED = timedelta(seconds=60)
"""After this time, edits are complete: the graph as it was this long ago no longer changes."""
_URL = re.compile(r"bigtable://([^/?#]+)/([^/?#]+)/([^/?#]+)")


class BigtableGraph(TableReads, Graph):
    """A graph in a table of PyChunkedGraph 1 or 2.

    PyChunkedGraph 1 stores children raw; PyChunkedGraph 2 compresses them (zstd). Rows of nodes are never
    removed, and do not say when a node was superseded. So a chunk's valid nodes are found as the parents of
    its supervoxels, whose rows form one range. The parent at a time is the newest cell in the column
    ``parents`` that is no later than this time.
    """

    pattern, expected = _URL, "bigtable://project/instance/table"
    edges_need_rows = False

    def __init__(self, url: str, open_table: OpenTable | None = None) -> None:
        from ..store.bigtable import calls
        from ..store.bigtable.row_stream import Connection

        self.url, self.deadline_s = url, calls.OPERATION_TIMEOUT_S
        with graph_errors(url):
            self._connection = Connection(*parse_graph_url(url), calls.OPERATION_TIMEOUT_S)
        self._top_and_fan_out: tuple[int, int] | None = None
        self._known: tuple[datetime, KnownRoots] | None = None

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
            raise GraphError(
                f"chunk {chunk}: the segmentation has id {unexpected[0]}: expected supervoxels, of layer 1"
            )
        chunk_ids = layout.chunk_ids(supervoxels)
        for chunk_id in np.unique(chunk_ids):
            places = np.flatnonzero(chunk_ids == chunk_id)
            wanted = supervoxels[places]
            keys, values = self._parents(wanted.min(), wanted.max(), time)
            at, known = places_of(keys, wanted)
            parents[places[known]] = values[at[known]]
        return parents

    def children(self, geometry: Geometry, chunk: Chunk, ids: Ids) -> Children:
        read = self._children(math.prod(geometry.chunk_size), sorted_unique(ids))
        places = np.flatnonzero(read.known)
        parts = zip(read.ids[places].tolist(), read.lists.take(places).parts(), strict=True)
        found = Children({node: part for node, part in parts if node not in read.errors}, read.errors)
        return check_children(geometry, chunk, found)

    def nodes(self, geometry: Geometry, chunk: Chunk, time: datetime | None = None) -> Ids:
        from google.cloud.bigtable.data.row_filters import RowFilterChain, StripValueTransformerFilter

        from .graph_rows import newest

        layer = L2 if time is None else SUPERVOXEL
        chunk_id = geometry.layout.chunk_id(*chunk, layer=layer)
        first, last = chunk_id + 1, geometry.layout.last_id(chunk_id)
        if time is None:
            stripped = RowFilterChain(filters=[newest(CHILDREN), StripValueTransformerFilter(True)])
            decode = self._connection.rows_of(column(CHILDREN))
            parts = self._scan([one_range(first, last)], decode, stripped)
            return np.concatenate([as_ids([]), *(part.ids for part in parts)])
        return check_nodes(geometry, chunk, sorted_unique(self._parents(first, last, time)[1]))

    def valid_nodes(self, geometry: Geometry, box: ChunkBox, time: datetime) -> NodeRoots:
        """See `Graph.valid_nodes`.

        Makes these reads, without a deadline for all of them together:

        - a scan of the box's rows above layer 2, for parents and children;
        - ancestors outside the box, by key;
        - roots, by key, because only a root's own row tells whether the root is retired;
        - a scan of the rows of layer 2, for parents; it skips runs of nodes already known to be valid.

        A node below the roots' layer that has no parent at ``time`` was made later, and is left out. If
        ``time`` is more than `SETTLED` ago, roots are cached from one box to the next.
        """
        top, fan_out = self._levels(geometry)
        layout = layout_above(geometry.layout, top, fan_out)
        within = partial(ranges_within, layout, geometry.grid, box, fan_out=fan_out)
        upper, chunks = self._families_in(within(range(L2 + 1, top)), time), within(range(L2, L2 + 1))
        roots = self._roots_at(geometry, highest_among(layout.layers, upper.nodes, upper.parents), time)
        below = valid_children(upper, roots, chunks)

        nodes, parents = self._parents_in(ranges_without(layout, chunks, below.l2_ids), time)
        check_parents(layout.layers, nodes, parents)
        at, inside = places_of(upper.nodes, parents)
        rest = np.empty_like(nodes)
        rest[inside] = roots[at[inside]]
        rest[~inside] = self._roots_at(geometry, parents[~inside], time)
        return either(below, NodeRoots(nodes, rest))

    def is_root(self, geometry: Geometry, ids: Ids) -> npt.NDArray[np.bool_]:
        return np.asarray(geometry.layout.layers(ids) == self.top_layer(geometry))

    def root_nodes(self, geometry: Geometry, roots: Ids, most: int) -> RootNodes:
        read = partial(self._children, MOST_IDS)
        return descend(read, geometry.layout.layers, roots[self.is_root(geometry, roots)], most)

    def root_edges(
        self, geometry: Geometry, nodes: Mapping[int, Ids], rows: Rows | None = None
    ) -> dict[int, Pairs]:
        from .graph_rows import newest_cross_edges

        read = partial(self._children, math.prod(geometry.chunk_size))
        ids = sorted_unique(np.concatenate([as_ids([]), *nodes.values()]))
        crossing = self._lists(ids, newest_cross_edges(), MOST_IDS, "cross-chunk edges")
        return edges_of_roots(geometry.layout, nodes, crossing, read)

    def roots_of(self, geometry: Geometry, l2_ids: Ids, time: datetime) -> Ids:
        nodes, inverse = np.unique(l2_ids, return_inverse=True)
        nodes[geometry.layout.layers(nodes) != L2] = 0
        return self._roots_above(geometry, nodes, time)[inverse]

    def histories(self, geometry: Geometry, roots: Ids) -> dict[int, RootHistory]:
        from .graph_rows import histories_of, newest

        wanted = sorted_unique(roots[self.is_root(geometry, roots)])
        row_filter = newest(CHILDREN, PREDECESSORS, SUCCESSORS)
        return histories_of(self._cells(wanted, row_filter, self._until()))

    def changed_roots(self, geometry: Geometry, since: datetime, until: datetime) -> ChangedRoots:
        """See `Graph.changed_roots`. The operation log lists candidates; their rows tell which changed."""
        from .operation_log import logged_roots

        logged = sorted_unique(logged_roots(self._read, log_since(since)))
        new, former = self._lives(logged[self.is_root(geometry, logged)])
        old, _ = self._lives(former[~np.isin(former, new.roots)])
        parts = [changes(some.roots, some.valid(since), some.valid(until)) for some in (new, old)]
        return ChangedRoots(*(sorted_unique(np.concatenate(ids)) for ids in zip(*parts, strict=True)))

    def close(self) -> None:
        self._connection.close()

    def top_layer(self, geometry: Geometry) -> int:
        """Return the layer of the roots."""
        return self._levels(geometry)[0]

    def _levels(self, geometry: Geometry) -> tuple[int, int]:
        """Return the layer of the roots, and the fan-out.

        PyChunkedGraph 2 computes the layer from the number of chunks along the grid's longest axis. Its older
        versions rounded this number down. If the layer with rounding differs from the layer without, the
        table's id counters tell which of the two is right.
        """
        if self._top_and_fan_out is None:
            info = self.info()
            chunks = [size / step for size, step in zip(geometry.voxel_size, info.chunk_size, strict=True)]
            top = info.n_layers or layers_of(max(chunks), info.fan_out)
            lower = info.n_layers or layers_of(int(max(chunks)), info.fan_out)
            top = top if top == lower or self._counts_ids(geometry, top) else lower
            self._top_and_fan_out = top, info.fan_out
        return self._top_and_fan_out

    def _counts_ids(self, geometry: Geometry, layer: int) -> bool:
        """Return whether the table has a counter of ids for a layer's chunk (0, 0, 0).

        The layer of the roots has such a counter, because (0, 0, 0) is its only chunk.
        """
        from google.cloud.bigtable.data import ReadRowsQuery, RowRange

        key = b"i%020d" % (layer << (64 - geometry.layout.layer_bits))
        return len(self._read(ReadRowsQuery(row_ranges=[RowRange(key, key + b"`")], limit=1))) > 0

    def _known_roots(self, time: datetime) -> KnownRoots:
        """Return the cache of roots at ``time``. Only one time's cache is kept: the last one requested.

        If roots at ``time`` may still change, the result is a new, empty cache, which is not kept.
        """
        if time > datetime.now(UTC) - SETTLED:
            return KnownRoots()
        time_and_roots = self._known
        if time_and_roots is None or time_and_roots[0] != time:
            self._known = time_and_roots = time, KnownRoots()
        return time_and_roots[1]

    def _roots_at(self, geometry: Geometry, ids: Ids, time: datetime) -> Ids:
        """Return the root of each id at ``time`` from the cache, or else from `_roots_above`, shape (n,)."""

        def read(ids: Ids) -> Ids:
            return np.concatenate([self._roots_above(geometry, part, time) for part in batches(ids, ROWS)])

        unique, inverse = np.unique(ids, return_inverse=True)
        return self._known_roots(time).roots(unique, read)[inverse]

    def _roots_above(self, geometry: Geometry, ids: Ids, time: datetime) -> Ids:
        """Return the root of each id at ``time``, shape (n,); 0 if there is none or it is retired."""
        from .graph_rows import newest

        until, top, layers = self._until(), self.top_layer(geometry), geometry.layout.layers
        roots = ascend(partial(self._parents_of, time, until), layers, ids, top)
        roots[layers(roots) != top] = 0
        found = sorted_unique(roots[roots != 0])
        for part in self._cells(found, newest(SUCCESSORS, until=time), until):
            roots[np.isin(roots, part.ids)] = 0
        return roots

    def _lives(self, roots: Ids) -> tuple[RootLives, Ids]:
        """Return a tuple: when roots (sorted, unique) were made and retired; all their predecessors."""
        from .graph_rows import newest

        row_filter = newest(CHILDREN, PREDECESSORS, SUCCESSORS)
        parts = [self._cells(batch, row_filter, self._until()) for batch in batches(roots, ROWS)]
        return lives_of([part for some in parts for part in some])


def parse_graph_url(url: str) -> tuple[str, str, str]:
    """Return project, instance and table in a graph's URL. Raises ConfigError for any other URL."""
    match = _URL.fullmatch(url)
    if not match:
        raise ConfigError(f"graph {url!r}: expected {BigtableGraph.expected}")
    project, instance, table = match.groups()
    return project, instance, table
