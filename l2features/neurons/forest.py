"""Shortest paths, far ends and covering paths in a graph that may have many components.

Every function processes all components together, so thousands of small roots take no longer than one large
root with as many nodes.
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
    """Connected components, numbered from 0 by descending size, then by their lowest node."""

    of_node: Indices
    """Number of each node's component, (n,)."""
    first: Indices
    """Lowest node of each component, (c,)."""


class Reached(NamedTuple):
    """Result of Dijkstra's algorithm: each node's shortest path from the nearest source, as arrays (n,)."""

    distance: npt.NDArray[np.float64]
    before: npt.NDArray[np.int32]
    """The previous node on the path from the source; negative at a source."""
    source: npt.NDArray[np.int32]


class Ends(NamedTuple):
    """Two far ends of each component, and each node's shortest path from the ``root`` of its component.

    The ends are the nodes ``root`` and ``tip`` (c,). ``distance`` and ``before`` (n,) describe the paths, as
    in `Reached`.
    """

    root: Indices
    tip: Indices
    distance: npt.NDArray[np.float64]
    before: npt.NDArray[np.int32]


class Cover(NamedTuple):
    """Paths in a graph such that every node is within a given distance of a path."""

    nodes: Indices
    """Nodes of the paths, sorted, (v,)."""
    edges: Edges
    """Edges of the paths, (e, 2), as pairs (node, next node towards the root): a forest over ``nodes``."""
    nearest: Indices
    """For each node of the graph, the nearest node that is on a path, (n,)."""


def components(edges: Edges, n: int) -> Components:
    """Return the connected components of the graph with ``n`` nodes and these edges (m, 2)."""
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
    """Return the graph as a symmetric sparse array (n, n) of edge lengths in nm; ``edges`` must be unique.

    Lengths are rounded to float32, as in MeshParty. Their sums in float64 are then exact: a path has the same
    length in both directions, and rounding never decides which of two ends is farther.
    """
    both = np.concatenate([edges, edges[:, ::-1]])
    return csr_array((np.tile(_rounded(positions, edges), 2), both.T), shape=(len(positions),) * 2)


def weighted_once(positions: Positions, edges: Edges) -> Any:
    """Return the array of `weighted` with each edge in one direction only.

    The search for a minimum spanning tree then sorts half as many edges.
    """
    return csr_array((_rounded(positions, edges), edges.T), shape=(len(positions),) * 2)


def _rounded(positions: Positions, edges: Edges) -> npt.NDArray[np.float64]:
    return lengths(positions, edges).astype(np.float32).astype(np.float64)


def reach(graph: Any, sources: Indices) -> Reached:
    """Return the shortest path to each node from the nearest of these sources (indices of nodes)."""
    found = dijkstra(graph, indices=sources, min_only=True, return_predecessors=True)
    return Reached(*found)


def far_ends(graph: Any, parts: Components) -> Ends:
    """Return two far ends of each component, found as by MeshParty's ``find_far_points``.

    The search starts at a component's lowest node. It goes to the node farthest from there, then to the node
    farthest from that node, and so on while the distance grows.
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
    """Return a tuple: the first node at the largest distance in each component, (c,); that distance, (c,)."""
    longest = np.zeros(len(parts.first))
    np.maximum.at(longest, parts.of_node, distance)
    at = np.flatnonzero(distance == longest[parts.of_node])[::-1]
    farthest = parts.first.copy()
    farthest[parts.of_node[at]] = at
    return farthest, longest


def cover(graph: Any, ends: Ends, invalidation_nm: float) -> Cover:
    """Return paths such that every node is within ``invalidation_nm`` of a path, by TEASAR as in MeshParty.

    The first path of a component connects its two ends. A node farther than ``invalidation_nm`` from all
    paths is uncovered. Each next path leads from the uncovered node that is farthest from the root (of
    equally far nodes, the one with the lowest index) to the nearest path.

    For each path, MeshParty searches all nodes twice. Here, the search from a new path visits only the nodes
    nearer to it than to all earlier paths. These searches together take about three times as long as one
    search of all nodes.

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
    """Return the nodes from ``node`` back to its source, both included; ``before`` is as in `Reached`."""
    path = [node]
    while (node := before[node]) >= 0:
        path.append(node)
    return path
