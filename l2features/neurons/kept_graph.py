"""Read the L2 ids and edges of roots from a graph, with a cache if the L2 nodes of a root never change."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..core.errors import GraphError
from ..core.geometry import Geometry
from ..core.ids import Ids, as_ids
from ..core.rows import Rows
from ..graph.base import Graph, MalformedEdges, RootNodes
from .kept import EDGES, L2_IDS, KeptRoots
from .node_graph import edge_indices

logger = logging.getLogger(__name__)
EdgesFound = tuple[dict[int, np.ndarray], dict[int, str]]
"""A tuple: the edges of each root, (m, 2) indices into its L2 ids; by root, why edges are malformed."""


@dataclass(frozen=True)
class KeptGraph:
    """Reads the L2 ids and edges of roots from the cache, or else from the graph, and caches them.

    The cache is used only if ``graph.permanent`` is True: the L2 nodes of a root never change.
    """

    graph: Graph
    geometry: Geometry
    kept: KeptRoots

    def nodes(self, roots: Ids, most: int) -> RootNodes:
        """Return the L2 ids of roots, and cache them if the graph is ``permanent``.

        A root with more than ``most`` L2 ids is returned in ``too_large``, without its ids.
        """
        nodes, new = self.find_nodes(roots, most)
        self.keep_nodes(new)
        return nodes

    def find_nodes(self, roots: Ids, most: int) -> tuple[RootNodes, dict[int, Ids]]:
        """Return a tuple: the L2 ids of roots; those of them to be cached, by root.

        Caches nothing itself: the caller passes the second value to `keep_nodes`.
        """
        if not self.graph.permanent:
            return self.graph.root_nodes(self.geometry, roots, most), {}
        kept = self.kept.get(L2_IDS, roots, most)
        nodes = RootNodes(kept.arrays, kept.longer)
        known = as_ids([*kept.arrays, *kept.longer])
        left = np.setdiff1d(roots, known, assume_unique=True)
        if not len(left):
            return nodes, {}
        read = self.graph.root_nodes(self.geometry, left, most)
        nodes.l2_ids |= read.l2_ids
        nodes.too_large |= read.too_large
        nodes.errors |= read.errors
        return nodes, read.l2_ids

    def keep_nodes(self, l2_ids: Mapping[int, Ids]) -> None:
        """Cache the L2 ids of each root."""
        self.kept.put(L2_IDS, l2_ids)

    def edges(self, ids: Mapping[int, Ids], rows: Rows | None = None) -> EdgesFound:
        """Return the edges of roots, cached or from the graph; ``ids`` maps each root to its L2 ids.

        ``rows`` are the features of all ids, root after root, if the caller has read them: some graphs derive
        edges from features.
        """
        found: dict[int, np.ndarray] = {}
        if self.graph.permanent:
            found = self.kept.get(EDGES, as_ids(list(ids))).arrays
            for root in [root for root, edges in found.items() if edges.max(initial=0) >= len(ids[root])]:
                logger.warning("root %s: cached edges do not fit the root's nodes; reading them again", root)
                del found[root]
        left = {root: nodes for root, nodes in ids.items() if root not in found}
        read, malformed = self._read_edges(left, rows if len(left) == len(ids) else None)
        if self.graph.permanent:
            self.kept.put(EDGES, read)
        return found | read, malformed

    def _read_edges(self, ids: Mapping[int, Ids], rows: Rows | None) -> EdgesFound:
        read, malformed = dict[int, np.ndarray](), dict[int, str]()
        try:
            pairs = self.graph.root_edges(self.geometry, ids, rows) if ids else {}
        except MalformedEdges as error:
            rest = {root: nodes for root, nodes in ids.items() if root not in error.roots}
            read, malformed = self._read_edges(rest, None)
            return read, malformed | dict(error.roots)
        for root, nodes in ids.items():
            try:
                read[root] = edge_indices(root, nodes, pairs[root]).astype(EDGES.dtype)
            except GraphError as error:
                malformed[root] = str(error)
        return read, malformed
