"""The content of PyChunkedGraph's responses about one graph, for routes that only read.

The content equals that of PyChunkedGraph 2.21.1, except for the order of ids in sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.geometry import Chunk
from ...core.ids import L2, Ids, as_ids
from ...core.times import whole_ms
from ...graph.base import RootHistory
from ...graph.graphene import server_info
from .cave_graph import CaveGraph
from .served_info import geometry_of

Box = npt.NDArray[np.int64]
"""First chunk and end chunk (excluded) along x, y and z, (2, 3)."""
BEFORE_FIRST = timedelta(milliseconds=500)
"""Time from PyChunkedGraph's oldest timestamp to the first operation."""


class NotFound(LookupError):
    """The requested graph, root, ancestor or operation does not exist, or not yet at the requested time."""


class Pcg:
    """Content of responses about one graph; ``info`` is from `served_info`. Methods may raise GraphError."""

    def __init__(self, graph: CaveGraph, info: dict[str, Any]) -> None:
        self.graph, self.info = graph, info
        self.geometry = geometry_of(server_info(info, graph.url), info)
        self.top = graph.top_layer(self.geometry)
        """The layer of the roots."""

    def box(self, bounds: Sequence[Sequence[int]]) -> Box:
        """Return the box of chunks that overlap ``bounds``: (start, end) in voxels for x, y and z."""
        edges = (np.array(bounds).T - self.geometry.voxel_offset) / self.geometry.chunk_size
        return np.array([np.floor(edges[0]), np.ceil(edges[1])]).astype(np.int64)

    # ------------------------------------------------------------------ downwards
    def leaves(self, nodes: Ids, layer: int, box: Box | None) -> dict[int, Ids]:
        """Map each node to the nodes of ``layer`` below it; with ``box``, only those in its chunks."""
        if layer > L2:
            return {node: self._at_layer(node, layer, box) for node in nodes.tolist()}
        below = self._l2_nodes(nodes, box)
        if layer == L2:
            return below
        children = self.graph.children_of(np.concatenate([as_ids([]), *below.values()]))
        return {
            node: np.concatenate([as_ids([]), *(children[i] for i in own.tolist() if i in children)])
            for node, own in below.items()
        }

    def _l2_nodes(self, nodes: Ids, box: Box | None) -> dict[int, Ids]:
        below = self.graph.l2_nodes(self.geometry, nodes)
        return {node: own[self._inside(own, box)] for node, own in below.items()}

    def _at_layer(self, node: int, layer: int, box: Box | None) -> Ids:
        found, front = [as_ids([])], as_ids([node])
        while len(front):
            layers = self.geometry.layout.layers(front)
            found.append(front[layers == layer])
            children = self.graph.children_of(front[layers > layer])
            front = np.concatenate([as_ids([]), *children.values()])
            front = front[self._inside(front, box)]
        return np.concatenate(found)

    def _inside(self, ids: Ids, box: Box | None) -> npt.NDArray[np.bool_]:
        """Return whether the chunk of each id overlaps the box, (n,)."""
        if box is None:
            return np.ones(len(ids), dtype=np.bool_)
        layout = self.geometry.layout
        size = 1 << np.maximum(layout.layers(ids) - L2, 0)[:, None]
        first = layout.chunk_coordinates(ids) * size
        return np.asarray(((first < box[1]) & (first + size > box[0])).all(axis=1))

    def edges(self, node: int, box: Box | None) -> Ids:
        """Return the edges (n, 2) between the L2 nodes below a node.

        With ``box``, both nodes of an edge are in chunks of the box.
        """
        below = self._l2_nodes(as_ids([node]), box)
        return self.graph.root_edges(self.geometry, below)[node]

    def children(self, node: int) -> Ids:
        """Return the children of a node; none for a supervoxel or an unknown node."""
        return self.graph.children_of(as_ids([node])).get(node, as_ids([]))

    def chunk_children(self, chunk_id: int, time: datetime) -> Ids:
        """Return a chunk's pairs of an L2 node and one of its supervoxels, (n, 2).

        All nodes created up to ``time`` are included, even if edits have replaced them.
        """
        layout = self.geometry.layout
        chunk = Chunk(*layout.chunk_coordinates(as_ids([chunk_id]))[0].tolist())
        nodes = self.graph.nodes(self.geometry, chunk)
        children = self.graph.children_of(nodes, time)
        owners = np.repeat(as_ids(children), [len(own) for own in children.values()])
        return np.stack([owners, np.concatenate([as_ids([]), *children.values()])], axis=1)

    # ------------------------------------------------------------------ upwards
    def roots(self, ids: Ids, layer: int, time: datetime) -> Ids:
        """Return each id's lowest ancestor in ``layer`` or above, valid at ``time``.

        In each step, all ids below ``layer`` are replaced by their parents, and an id without a parent by 0.
        But if none of them has a parent, the search ends, and they stay as they are, as in PyChunkedGraph.
        """
        found, layers = ids.copy(), self.geometry.layout.layers
        for _ in range(layer + 1):
            climbing = (layers(found) < layer) & (found != 0)
            if not climbing.any():
                break
            nodes, index = np.unique(found[climbing], return_inverse=True)
            parents = self.graph.parents(nodes, time)
            if not parents.any():
                break
            found[climbing] = parents[index]
        return found

    def root(self, node: int, layer: int, time: datetime) -> int:
        """Return a node's lowest ancestor in ``layer`` or above at ``time``.

        Raises NotFound if the node has none.
        """
        (found,) = self.roots(as_ids([node]), layer, time)
        if self.geometry.layout.layers(as_ids([found]))[0] < layer:
            raise NotFound(f"node {node} has no ancestor of layer {layer} at {time.isoformat()}")
        return int(found)

    # ------------------------------------------------------------------ history
    def is_latest(self, roots: Ids, time: datetime) -> npt.NDArray[np.bool_]:
        """Return whether each root is valid just before ``time``, (n,); False for an unknown root."""
        time = whole_ms(time)
        histories = self.graph.histories(self.geometry, roots)
        return np.array([_is_latest(histories.get(root), time) for root in roots.tolist()], dtype=np.bool_)

    def created(self, roots: Ids) -> list[float]:
        """Return when each root was made, in seconds since 1970. Raises NotFound for an unknown root."""
        histories = self._histories(roots)
        return [histories[root].created.timestamp() for root in roots.tolist()]

    def latest(self, roots: Ids, time: datetime) -> list[float]:
        """Return when each root was retired, in seconds since 1970; ``time`` for a root valid at ``time``.

        Raises NotFound for a root that is unknown, or was made at ``time`` or later.
        """
        found, histories, until = [], self._histories(roots), whole_ms(time)
        for root in roots.tolist():
            own = histories[root]
            if own.created >= until:
                expected = f"expected a root made before {time.isoformat()}"
                raise NotFound(f"root {root}: made at {own.created.isoformat()}, {expected}")
            latest = own.retired if own.retired and own.retired < until else time
            found.append(latest.timestamp())
        return found

    def changed(self, start: datetime, end: datetime) -> dict[str, Ids]:
        """Return the roots that operations logged from ``start`` to ``end``, and their predecessor roots."""
        new = self.graph.logged_roots(start, end)
        histories = self.graph.histories(self.geometry, new)
        old = [as_ids(own.predecessors) for _, own in sorted(histories.items())]
        return {"old_roots": np.concatenate([as_ids([]), *old]), "new_roots": new}

    def oldest(self) -> datetime:
        """Return the time 0.5 s before the graph's first operation. Raises NotFound if there is none."""
        first = self.graph.first_operation()
        if first is None:
            raise NotFound("the graph has no operations, so it has no oldest timestamp")
        return first - BEFORE_FIRST

    def lineage(self, roots: Ids, past: datetime, future: datetime, links: str) -> dict[str, Any]:
        """Return the graph of predecessors and successors of roots, in networkx's node-link format.

        The search for predecessors stops at roots made before ``past``. The search for successors stops at
        roots made after ``future``. ``links`` is the key of the list of edges in the result. Raises NotFound
        for an unknown root.
        """
        known: dict[int, RootHistory] = {}
        edges: dict[tuple[int, int], None] = {}
        before, after = set(roots.tolist()), set(roots.tolist())
        while before or after:
            known |= self._histories(as_ids((before | after) - known.keys()))
            earlier = {root: known[root].predecessors for root in before if known[root].created >= past}
            later = {root: known[root].successors for root in after if known[root].created <= future}
            edges |= {(old, root): None for root, all_old in earlier.items() for old in all_old}
            edges |= {(root, new): None for root, all_new in later.items() for new in all_new}
            before = {old for all_old in earlier.values() for old in all_old} - known.keys()
            after = {new for all_new in later.values() for new in all_new} - known.keys()
        return {
            "directed": True,
            "multigraph": False,
            "graph": {},
            "nodes": self._lineage_nodes(known),
            links: [{"source": old, "target": new} for old, new in edges],
        }

    def _lineage_nodes(self, known: Mapping[int, RootHistory]) -> list[dict[str, Any]]:
        """Return each root with the time when it was made, and the operation that retired it, if any."""
        retired = as_ids([root for root, own in known.items() if own.retired])
        by = self.graph.operations(retired)
        return [
            {"id": root, "timestamp": own.created.timestamp()}
            | ({"operation_id": by[root]} if root in by else {})
            for root, own in known.items()
        ]

    def _histories(self, roots: Ids) -> dict[int, RootHistory]:
        histories = self.graph.histories(self.geometry, roots)
        for root in roots.tolist():
            if root not in histories:
                raise NotFound(f"{root} is not a root of the graph")
        return histories


def _is_latest(history: RootHistory | None, time: datetime) -> bool:
    if history is None or history.created >= time:
        return False
    return history.retired is None or history.retired >= time
