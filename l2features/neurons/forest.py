"""Graphs of several components at once: shortest paths, far ends, and paths that cover all nodes.

Every function works on all components together, so that thousands of small roots cost as much as a large one.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, dijkstra

from .branches import add_branches
from .node_graph import Edges, Positions

Indices = npt.NDArray[np.int64]


class Components(NamedTuple):
    """Connected components, the largest first; components of equal size in the order of their first node."""

    of_node: Indices
    """Component of each node, (n,)."""
    first: Indices
    """Lowest node of each component, (c,)."""


class Reached(NamedTuple):
    """Result of Dijkstra's algorithm: each node's path from its nearest source, shape (n,) each."""

    distance: npt.NDArray[np.float64]
    before: npt.NDArray[np.int32]
    """The node before it on the way from the source; negative at a source."""
    source: npt.NDArray[np.int32]


class Ends(NamedTuple):
    """Two far ends of each component, (c,), and each node's path from ``root``."""

    root: Indices
    tip: Indices
    distance: npt.NDArray[np.float64]
    before: npt.NDArray[np.int32]


class Cover(NamedTuple):
    """Paths that pass every node within a distance."""

    nodes: Indices
    """Nodes of the paths, sorted, (v,)."""
    edges: Edges
    """Edges of the paths, the node nearer to the root second: a forest over ``nodes``."""
    nearest: Indices
    """The nearest node of a path to each node, (n,)."""


def components(edges: Edges, n: int) -> Components:
    """Return the connected components of n nodes."""
    ones = np.ones(len(edges), dtype=np.int8)
    _, labels = connected_components(csr_array((ones, edges.T), shape=(n, n)), directed=False)
    _, first, label, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return Components(rank[label], first[order])


def lengths(positions: Positions, edges: Edges) -> npt.NDArray[np.float64]:
    """Return the length of each edge in nm, (m,)."""
    return np.asarray(np.linalg.norm(positions[edges[:, 0]] - positions[edges[:, 1]], axis=1))


def weighted(positions: Positions, edges: Edges) -> Any:
    """Return the graph as a symmetric sparse array (n, n) of lengths in nm; edges are unique.

    Lengths are rounded to float32, as in MeshParty. Sums in float64 are then exact: a path has the same
    length in both directions, and rounding never decides between two ends.
    """
    both = np.concatenate([edges, edges[:, ::-1]])
    return csr_array((np.tile(_rounded(positions, edges), 2), both.T), shape=(len(positions),) * 2)


def weighted_once(positions: Positions, edges: Edges) -> Any:
    """Return the graph of `weighted`, each edge in one direction: a spanning tree then sorts half as much."""
    return csr_array((_rounded(positions, edges), edges.T), shape=(len(positions),) * 2)


def _rounded(positions: Positions, edges: Edges) -> npt.NDArray[np.float64]:
    return lengths(positions, edges).astype(np.float32).astype(np.float64)


def reach(graph: Any, sources: Indices) -> Reached:
    """Return the shortest path of each node from its nearest source."""
    found = dijkstra(graph, indices=sources, min_only=True, return_predecessors=True)
    return Reached(*found)


def far_ends(graph: Any, parts: Components) -> Ends:
    """Return two far ends of each component, like MeshParty's ``find_far_points`` for one component.

    The search goes from a component's first node to the node farthest from it, then to the node farthest from
    that one, and so on while the distance grows.
    """
    root = tip = parts.first
    longest = np.zeros(len(root))
    found = reach(graph, tip)
    distance, before, _ = found
    while True:
        farthest, length = _farthest(found.distance, parts)
        longer = length > longest
        if not longer.any():
            return Ends(root, tip, distance, before)
        inside = longer[parts.of_node]
        distance, before = np.where(inside, found.distance, distance), np.where(inside, found.before, before)
        root, tip = np.where(longer, tip, root), np.where(longer, farthest, tip)
        longest = np.where(longer, length, longest)
        found = reach(graph, tip)


def _farthest(
    distance: npt.NDArray[np.float64], parts: Components
) -> tuple[Indices, npt.NDArray[np.float64]]:
    """Return the first node of each component with the largest distance, and that distance."""
    longest = np.zeros(len(parts.first))
    np.maximum.at(longest, parts.of_node, distance)
    at = np.flatnonzero(distance == longest[parts.of_node])[::-1]
    farthest = parts.first.copy()
    farthest[parts.of_node[at]] = at
    return farthest, longest


def cover(graph: Any, ends: Ends, invalidation_nm: float) -> Cover:
    """Return paths that pass every node within ``invalidation_nm``: TEASAR on a graph, as in MeshParty.

    The first path of a component connects its ends. Each next path starts at the node farthest from the root
    (of equally far nodes, the first) among those that no path passes within ``invalidation_nm``, and leads to
    the nearest path. MeshParty searches all nodes twice for each path. Here, a new path updates only the
    nodes to which it is nearest, so that all paths together take about three times as long as one search.

    Source: Sato et al., TEASAR, Pacific Graphics 2000.
    """
    paths = [_path(tip, ends.before.data) for tip in ends.tip.tolist()]
    reached = reach(graph, np.fromiter(chain.from_iterable(paths), dtype=np.int64))
    left = np.flatnonzero(reached.distance > invalidation_nm)
    order = left[np.argsort(-ends.distance[left], kind="stable")]
    edges = np.stack([_joined(path[:-1] for path in paths), _joined(path[1:] for path in paths)], axis=1)
    edges = np.concatenate([edges, add_branches(graph, reached, order, invalidation_nm)])
    passed = np.zeros(len(ends.distance), dtype=bool)
    passed[edges[:, 0]] = passed[ends.root] = True
    return Cover(np.flatnonzero(passed), edges, reached.source.astype(np.int64))


def _joined(paths: Iterable[list[int]]) -> Indices:
    return np.fromiter(chain.from_iterable(paths), dtype=np.int64)


def _path(node: int, before: memoryview) -> list[int]:
    """Return the nodes from ``node`` to its source."""
    path = [node]
    while (node := before[node]) >= 0:
        path.append(node)
    return path
