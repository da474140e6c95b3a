"""Skeletons of roots: TEASAR on the L2 graph, with the parameters and defaults of pcg_skel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.ids import Ids
from ..core.rows import served_column
from ..core.schema import BY_NAME
from ..query.reader import Status
from .forest import Components, Indices, components, cover, far_ends, lengths, reach, weighted
from .node_graph import Edges, NeuronGraph, Positions

INVALIDATION_NM = 7500.0
"""Default distance along the graph within which a path represents the nodes around it, as in pcg_skel."""
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Skeleton:
    """A skeleton: a tree for each component of the L2 graph, or one tree if components were joined.

    Vertices are L2 nodes, in the order of their ids. A collapsed soma is an additional, last vertex.

    Attributes:
        vertices: (v, 3) positions in nm.
        parents: (v,) next vertex on the way to the root; -1 at the root of each tree.
        root: index of the vertex that is the root of the skeleton.
        l2_ids: (v,) L2 id of each vertex; 0 for a collapsed soma.
        interpolated: (v,) which vertices have no representative coordinate: see `node_graph.place_nodes`.
        component: (v,) component of the L2 graph: 0 is the largest.
        radius_nm: (v,) ``max_dt_nm`` of the node, for a soma the largest value of the soma's nodes; NaN if
            absent or saturated.
        segment_radius_nm: (v,) sqrt(V / (pi L)) of the vertex's unbranched segment: V is the volume of the
            segment's nodes, L the segment's length, including the edge to the branch point. If L is 0, the
            radius of a sphere of volume V; if no volume is known, NaN.
        gaps: (v,) whether the edge to the parent joins two components.
        node_ids: (n,) all L2 ids of the root, sorted.
        vertex_of_node: (n,) the vertex that represents each node.
        parameters: the arguments of `skeletonize`.
    """

    root_id: int
    vertices: Positions
    parents: Indices
    root: int
    l2_ids: Ids
    interpolated: Mask
    component: Indices
    radius_nm: npt.NDArray[np.float64]
    segment_radius_nm: npt.NDArray[np.float64]
    gaps: Mask
    node_ids: Ids
    vertex_of_node: Indices
    parameters: dict[str, Any]

    def __len__(self) -> int:
        return len(self.vertices)

    @property
    def edges(self) -> Edges:
        """Pairs (vertex, parent), shape (e, 2)."""
        child = np.flatnonzero(self.parents >= 0)
        return np.stack([child, self.parents[child]], axis=1)

    @property
    def path_length_nm(self) -> float:
        """Length of all edges in nm, except edges that join two components."""
        edges = self.edges
        return float(lengths(self.vertices, edges[~self.gaps[edges[:, 0]]]).sum())

    @cached_property
    def _n_children(self) -> Indices:
        return np.bincount(self.edges[:, 1], minlength=len(self))

    @property
    def end_points(self) -> Indices:
        """Vertices without children."""
        return np.flatnonzero(self._n_children == 0)

    @property
    def branch_points(self) -> Indices:
        """Vertices with two children or more."""
        return np.flatnonzero(self._n_children > 1)

    @property
    def n_components(self) -> int:
        """Number of components of the L2 graph."""
        return int(self.component.max()) + 1


class _Trees(NamedTuple):
    """Undirected trees; ``node`` (v,) is the index of each vertex's L2 node, -1 for a collapsed soma."""

    vertices: Positions
    edges: Edges
    node: Indices
    vertex_of_node: Indices


def skeletonize(
    graph: NeuronGraph,
    invalidation_nm: float = INVALIDATION_NM,
    root_point: npt.ArrayLike | None = None,
    collapse_nm: float | None = None,
    join: bool = False,
) -> Skeleton:
    """Return the skeleton of an L2 graph; for a graph of one component, it equals pcg_skel's.

    Args:
        graph: the L2 graph, with at least one node.
        invalidation_nm: a path represents all nodes within this distance along the graph.
        root_point: (3,) position in nm; the vertex nearest to it becomes the root. Without one, the root is
            an end of the longest path of the largest component.
        collapse_nm: radius of a sphere around ``root_point``, such as a soma's. Edges with an end in the
            sphere are followed from the vertex nearest to ``root_point``. This vertex and all vertices
            reached become one vertex at ``root_point``, as in pcg_skel.
        join: join components by edges between their nearest vertices; `Skeleton.gaps` marks these edges.

    Raises ValueError for a graph without nodes, and for an invalid parameter.
    """
    parameters = _checked(invalidation_nm, root_point, collapse_nm, join)
    if not len(graph):
        raise ValueError(f"root {graph.root_id} has no nodes: expected one or more")
    parts = components(graph.edges, len(graph))
    trees, root = _covering(graph, parts, invalidation_nm), None
    if root_point is not None:
        trees, root = _around(trees, np.asarray(root_point, dtype=np.float64), collapse_nm)
    component = np.empty(len(trees.vertices), dtype=np.int64)
    component[trees.vertex_of_node] = parts.of_node
    gaps = np.zeros((0, 2), dtype=np.int64)
    if join:
        from .joining import gaps_between  # half of scipy's imports are for it alone

        gaps = gaps_between(trees.vertices, component)
    root, parents, across = _rooted(trees, component, root, gaps)
    return Skeleton(
        graph.root_id,
        trees.vertices,
        parents,
        root,
        np.append(graph.node_ids, np.uint64(0))[trees.node],
        np.append(graph.interpolated, False)[trees.node],
        component,
        *_radii(graph, trees, parents, across, root if collapse_nm is not None else None),
        across,
        graph.node_ids,
        trees.vertex_of_node,
        parameters,
    )


def _checked(
    invalidation_nm: float, root_point: npt.ArrayLike | None, collapse_nm: float | None, join: bool
) -> dict[str, Any]:
    """Return the parameters as a dict for JSON. Raises ValueError for an invalid parameter."""
    if not (math.isfinite(invalidation_nm) and invalidation_nm > 0):
        raise ValueError(f"invalidation_nm {invalidation_nm}: expected a positive number")
    if collapse_nm is not None and not (math.isfinite(collapse_nm) and collapse_nm >= 0):
        raise ValueError(f"collapse_nm {collapse_nm}: expected 0 or a positive number")
    if collapse_nm is not None and root_point is None:
        raise ValueError(f"collapse_nm {collapse_nm} without root_point: expected both")
    point = None if root_point is None else np.asarray(root_point, dtype=np.float64)
    if point is not None and (point.shape != (3,) or not np.isfinite(point).all()):
        raise ValueError(f"root_point {root_point!r}: expected x, y and z in nm")
    return {
        "invalidation_nm": float(invalidation_nm),
        "root_point_nm": None if point is None else point.tolist(),
        "collapse_nm": None if collapse_nm is None else float(collapse_nm),
        "join": bool(join),
    }


def _covering(graph: NeuronGraph, parts: Components, invalidation_nm: float) -> _Trees:
    """Return the paths that cover an L2 graph (`forest.cover`) as trees, one per component."""
    weights = weighted(graph.positions, graph.edges)
    found = cover(weights, far_ends(weights, parts), invalidation_nm)
    edges, nearest = np.searchsorted(found.nodes, found.edges), np.searchsorted(found.nodes, found.nearest)
    return _without_duplicates(_Trees(graph.positions[found.nodes], edges, found.nodes, nearest))


def _around(trees: _Trees, point: npt.NDArray[np.float64], collapse_nm: float | None) -> tuple[_Trees, int]:
    """Return a tuple: the trees; the vertex nearest to a point.

    If ``collapse_nm`` is given, vertices are collapsed first, as `skeletonize` describes.
    """
    if collapse_nm is not None:
        trees = _without_duplicates(_collapsed(trees, point, collapse_nm))
    return trees, int(np.linalg.norm(trees.vertices - point, axis=1).argmin())


def _merged(trees: _Trees, into: Indices) -> _Trees:
    """Return the trees with vertex i merged into vertex ``into[i]``; if that is i, the vertex stays."""
    while (into[into] != into).any():
        into = into[into]
    kept, new = np.unique(into, return_inverse=True)
    edges = new[trees.edges]
    edges = edges[edges[:, 0] != edges[:, 1]]
    return _Trees(trees.vertices[kept], edges, trees.node[kept], new[trees.vertex_of_node])


def _without_duplicates(trees: _Trees) -> _Trees:
    """Merge vertices joined by an edge of length 0; interpolated positions cause such edges."""
    same = lengths(trees.vertices, trees.edges) == 0
    into = np.arange(len(trees.vertices))
    into[trees.edges[same, 0]] = trees.edges[same, 1]
    return _merged(trees, into) if same.any() else trees


def _collapsed(trees: _Trees, point: npt.NDArray[np.float64], collapse_nm: float) -> _Trees:
    """Return the trees with the vertices around a point merged into a new, last vertex at the point."""
    n = len(trees.vertices)
    distance = np.linalg.norm(trees.vertices - point, axis=1)
    inside = distance < collapse_nm
    part = components(trees.edges[inside[trees.edges].any(axis=1)], n).of_node
    into = np.where(part == part[distance.argmin()], n, np.arange(n))
    vertices, node = np.concatenate([trees.vertices, point[None]]), np.append(trees.node, -1)
    return _merged(_Trees(vertices, trees.edges, node, trees.vertex_of_node), np.append(into, n))


def _rooted(trees: _Trees, component: Indices, root: int | None, gaps: Edges) -> tuple[int, Indices, Mask]:
    """Return a tuple: the root; each vertex's parent, (v,); whether the edge to the parent is a gap, (v,)."""
    parts = Components(component, np.unique(component, return_index=True)[1])
    roots = far_ends(weighted(trees.vertices, trees.edges), parts).root
    if root is None:
        root = int(roots[0])
    roots = np.where(np.arange(len(roots)) == component[root], root, roots)
    edges = np.concatenate([trees.edges, gaps])
    start = np.array([root]) if len(gaps) else roots
    parents = reach(weighted(trees.vertices, edges), start).before.astype(np.int64).clip(min=-1)
    across = np.zeros(len(parents), dtype=bool)
    for one, other in (gaps.T, gaps[:, ::-1].T):
        across[one[parents[one] == other]] = True
    return root, parents, across


def _radii(
    graph: NeuronGraph, trees: _Trees, parents: Indices, across: Mask, soma: int | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return a tuple: ``radius_nm`` and ``segment_radius_nm`` of `Skeleton`, (v,) each."""
    depth, clear = _column(graph, "max_dt_nm")
    clear &= depth != BY_NAME["max_dt_nm"].largest
    deep = np.where(clear, depth, np.nan)
    radius = np.append(deep, np.nan)[trees.node]
    if soma is not None and (clear & (trees.vertex_of_node == soma)).any():
        radius[soma] = deep[clear & (trees.vertex_of_node == soma)].max()

    n = len(parents)
    children = np.bincount(parents[parents >= 0], minlength=n)
    cut = (parents < 0) | (children[parents] > 1) | across
    if soma is not None:
        cut |= parents == soma
    segment = np.where(cut, np.arange(n), parents)
    while (segment[segment] != segment).any():
        segment = segment[segment]
    edges = np.stack([np.arange(n), np.where((parents < 0) | across, np.arange(n), parents)], axis=1)
    length = np.bincount(segment, lengths(trees.vertices, edges), n)
    size, sized = _column(graph, "size_nm3")
    of_node = segment[trees.vertex_of_node]
    volume, known = np.bincount(of_node, np.where(sized, size, 0), n), np.bincount(of_node, sized, n)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_segment = np.where(length > 0, np.sqrt(volume / (np.pi * length)), np.cbrt(0.75 * volume / np.pi))
    return radius, np.where(known > 0, of_segment, np.nan)[segment]


def _column(graph: NeuronGraph, name: str) -> tuple[npt.NDArray[np.float64], Mask]:
    """Return a tuple: an attribute in the units that clients receive, (n,); which nodes have it, (n,)."""
    values, present = served_column(graph.rows, graph.geometry, name)
    return values.astype(np.float64), present & (graph.status == Status.READY)
