"""What a graph's server reads of a table beyond `graph.base.Graph`: any layer, and the log of operations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.errors import GraphError
from ...core.geometry import Geometry
from ...core.ids import L2, Ids, as_ids, from_bytes, sorted_unique
from ...core.times import whole_ms
from ...graph.bigtable import BigtableGraph
from ...graph.id_cells import check_lists
from ...graph.root_walk import descend

if TYPE_CHECKING:
    from google.cloud.bigtable.data.row_filters import RowFilter

MOST_NODES = 10_000_000
"""L2 nodes below one node."""
_FIRST_LOG, _LAST_LOG = b"%020d" % 0, b"%020d" % ((1 << 56) - 1)
"""Keys of the rows of layer 0, which are numbered by operation."""
_MS = timedelta(milliseconds=1)


class ServedGraph(BigtableGraph):
    """A table that a graph's server answers from. All methods raise GraphError."""

    def top_layer(self, geometry: Geometry) -> int:
        """Return the layer of the roots."""
        return self._root_layer(geometry)

    def parents(self, ids: Ids, time: datetime) -> Ids:
        """Return the parent of each of some sorted, unique ids at a time; 0 where it has none."""
        return self._parents_of(time, self._until(), ids)

    def children_of(self, ids: Ids, time: datetime | None = None) -> dict[int, Ids]:
        """Return the children of nodes of any layer, made by a time; unknown nodes are left out."""
        from ...graph.graph_rows import CHILDREN, MOST_IDS, newest

        if not len(ids):
            return {}
        made = newest(CHILDREN, until=time)
        read = self._lists(sorted_unique(np.sort(ids)), made, MOST_IDS, CHILDREN, self._until())
        check_lists(read.errors)
        lists = np.split(read.lists.values, read.lists.starts[1:-1])
        return {
            node: own
            for node, own, known in zip(read.ids.tolist(), lists, read.known.tolist(), strict=True)
            if known
        }

    def l2_nodes(self, geometry: Geometry, ids: Ids) -> dict[int, Ids]:
        """Return the L2 nodes below nodes; an L2 node has itself, and supervoxels and unknown ids none."""
        from ...graph.graph_rows import MOST_IDS

        layers = geometry.layout.layers(ids)
        read = partial(self._children, MOST_IDS, self._until())
        found = descend(read, geometry.layout.layers, ids[layers > L2], MOST_NODES)
        check_lists(found.errors)
        for node, count in found.too_large.items():
            raise GraphError(f"node {node}: it has {count} L2 nodes: expected {MOST_NODES} at most")
        itself = {node: as_ids([node]) for node in ids[layers == L2].tolist()}
        return {node: as_ids([]) for node in ids.tolist()} | found.l2_ids | itself

    def operations(self, roots: Ids) -> dict[int, int]:
        """Return the last operation of each root: the one that retired it, or else made it."""
        from ...graph.graph_rows import newest

        parts = self._cells(sorted_unique(np.sort(roots)), newest("operation_id"), self._until())
        cells = [cell for part in parts for cell in zip(part.ids.tolist(), part.values, strict=True)]
        return {root: int(value) for root, value in cells}

    def logged_roots(self, start: datetime, end: datetime) -> Ids:
        """Return the roots that operations made, as logged from ``start`` to ``end``."""
        from google.cloud.bigtable.data import row_filters as f

        columns = f.ColumnRangeFilter("2", b"roots", b"roots")
        window = f.TimestampRangeFilter(whole_ms(start), whole_ms(end) + _MS)
        newest = f.RowFilterChain(filters=[columns, window, f.CellsColumnLimitFilter(1)])
        cells = [cells[0] for cells in self._log(newest)]
        return np.concatenate([as_ids([]), *(from_bytes(cell.value) for cell in cells)])

    def first_operation(self) -> datetime | None:
        """Return the time of the first operation; None where there was none."""
        from google.cloud.bigtable.data import row_filters as f

        rows = self._log(f.ColumnRangeFilter("0", b"operation_ts", b"operation_ts"), limit=1)
        micros = [min(cell.timestamp_micros for cell in cells) for cells in rows]
        return datetime.fromtimestamp(micros[0] / 1e6, UTC) if micros else None

    def _log(self, row_filter: RowFilter, limit: int | None = None) -> list[list[Any]]:
        """The cells of each operation."""
        from google.cloud.bigtable.data import ReadRowsQuery, RowRange

        rows = RowRange(_FIRST_LOG, _LAST_LOG, end_is_inclusive=True)
        query = ReadRowsQuery(row_ranges=[rows], row_filter=row_filter, limit=limit)
        return [row.cells for row in self._read(query)]
