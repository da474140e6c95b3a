"""Reads of a graph's table that only a graph server needs: nodes of any layer, and the log of operations."""

from __future__ import annotations

from datetime import datetime
from functools import partial

import numpy as np

from ...core.errors import GraphError
from ...core.geometry import Geometry
from ...core.ids import L2, Ids, as_ids, sorted_unique
from ...graph.bigtable import BigtableGraph
from ...graph.id_cells import CHILDREN, MOST_IDS, check_lists
from ...graph.root_walk import descend

MOST_NODES = 10_000_000
"""Maximum number of L2 nodes below one node."""


class CaveGraph(BigtableGraph):
    """A graph's table, with the reads that a graph server needs. All methods may raise GraphError."""

    def parents(self, ids: Ids, time: datetime) -> Ids:
        """Return the parents of sorted, unique ids at ``time``; 0 for an id without a parent."""
        return self._parents_of(time, self._until(), ids)

    def children_of(self, ids: Ids, time: datetime | None = None) -> dict[int, Ids]:
        """Map nodes of any layer to their children.

        Leaves out unknown nodes and, with ``time``, nodes that were created after it.
        """
        from ...graph.graph_rows import newest

        if not len(ids):
            return {}
        made = newest(CHILDREN, until=time)
        read = self._lists(sorted_unique(np.sort(ids)), made, MOST_IDS, CHILDREN)
        check_lists(read.errors)
        parts = zip(read.ids.tolist(), read.lists.parts(), read.known.tolist(), strict=True)
        return {node: own for node, own, known in parts if known}

    def l2_nodes(self, geometry: Geometry, ids: Ids) -> dict[int, Ids]:
        """Map each id to the L2 nodes below it.

        An L2 node is mapped to itself. A supervoxel and an unknown id are mapped to an empty array.
        """
        layers = geometry.layout.layers(ids)
        read = partial(self._children, MOST_IDS)
        found = descend(read, geometry.layout.layers, ids[layers > L2], MOST_NODES)
        check_lists(found.errors)
        for node, count in found.too_large.items():
            raise GraphError(f"node {node}: {count} L2 nodes, expected {MOST_NODES} at most")
        itself = {node: as_ids([node]) for node in ids[layers == L2].tolist()}
        return {node: as_ids([]) for node in ids.tolist()} | found.l2_ids | itself

    def operations(self, roots: Ids) -> dict[int, int]:
        """Map each retired root to the operation that retired it, each valid root to the one that made it."""
        from ...graph.graph_rows import newest

        parts = self._cells(sorted_unique(np.sort(roots)), newest("operation_id"), self._until())
        cells = [cell for part in parts for cell in zip(part.ids.tolist(), part.values, strict=True)]
        return {root: int(value) for root, value in cells}

    def logged_roots(self, start: datetime, end: datetime) -> Ids:
        """Return the roots that operations logged from ``start`` to ``end``, both included."""
        from ...graph.operation_log import logged_roots

        return logged_roots(self._read, start, end)

    def first_operation(self) -> datetime | None:
        """Return the time of the first operation; None if there was none."""
        from ...graph.operation_log import first_operation

        return first_operation(self._read)
