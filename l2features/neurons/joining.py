"""Join the components of a skeleton where they are nearest to each other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import DisjointSet
from scipy.spatial import cKDTree

from .forest import components
from .node_graph import Edges, Positions


def gaps_between(positions: Positions, component: npt.NDArray[np.integer]) -> Edges:
    """Return the edges of least total length that join all components, (components - 1, 2).

    ``component`` (v,) is the component of each vertex. The distance of two components is that of their
    nearest vertices. The edges are a minimum spanning tree of the components. Each round of Boruvka's
    algorithm joins every component to the nearest other component.
    """
    gaps = np.zeros((0, 2), dtype=np.int64)
    group = np.unique(component, return_inverse=True)[1]
    while group.max(initial=0):
        gaps = np.concatenate([gaps, _without_cycles(_nearest(positions, group), group)])
        joined = components(group[gaps], int(group.max()) + 1).of_node[group]
        group = np.unique(joined, return_inverse=True)[1]
    return gaps


def _nearest(positions: Positions, group: npt.NDArray[np.int64]) -> Edges:
    """Return the shortest edge from each group to another group, shortest first, (groups, 2).

    ``group`` (v,) is the number of each vertex's group. For each bit of these numbers, a search finds
    each vertex's nearest vertex among the groups that differ from its own group in this bit. Two groups
    differ in at least one bit, so these searches together cover all other groups.
    """
    distance, other = np.full(len(group), np.inf), np.zeros(len(group), dtype=np.int64)
    for bit in range(int(group.max()).bit_length()):
        sides = [np.flatnonzero((group >> bit & 1) == side) for side in (0, 1)]
        for here, there in (sides, sides[::-1]):
            found, at = cKDTree(positions[there]).query(positions[here])
            nearer = found < distance[here]
            distance[here[nearer]], other[here[nearer]] = found[nearer], there[at[nearer]]
    order = np.lexsort((np.arange(len(group)), distance))
    shortest = order[np.sort(np.unique(group[order], return_index=True)[1])]
    return np.stack([shortest, other[shortest]], axis=1)


def _without_cycles(edges: Edges, group: npt.NDArray[np.int64]) -> Edges:
    """Return the edges, except those between groups that earlier edges have already connected (Kruskal)."""
    trees = DisjointSet(range(int(group.max()) + 1))
    return edges[[trees.merge(one, other) for one, other in group[edges].tolist()]]
