"""Edges between L2 nodes of a root, from the cross-chunk edges between the nodes' supervoxels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from ..core.errors import GraphError
from ..core.ids import L2, IdLayout, Ids, as_ids, sorted_unique
from .base import SUPERVOXEL, MalformedEdges, Pairs
from .id_cells import NodeLists, check_lists
from .root_walk import ReadLists

T = TypeVar("T")


class _Ends(NamedTuple):
    """Ends of cross-chunk edges: parallel arrays (n,).

    ``near_nodes`` are the nodes in whose rows the edges are stored. ``far`` are the supervoxels at the other
    end, and ``far_nodes`` the nodes of these supervoxels, 0 if not known yet.
    """

    near_nodes: Ids
    far_nodes: Ids
    far: Ids


def unique_pairs(first: Ids, second: Ids) -> Pairs:
    """Return the edges between ``first[i]`` and ``second[i]``, sorted, without duplicates and self-loops."""
    low, high = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((high, low))
    low, high = low[order], high[order]
    new = low != high
    new[1:] &= (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    return np.stack([low[new], high[new]], axis=1)


def edges_of_roots(
    layout: IdLayout, nodes: Mapping[int, Ids], crossing: NodeLists, read_children: ReadLists
) -> dict[int, Pairs]:
    """Return the edges between L2 nodes, by root.

    A cross-chunk edge is a pair of supervoxels, stored in the rows of the L2 nodes at both ends. In each row,
    the first supervoxel of a pair belongs to the row's node. So the rows of a root's nodes tell the node of
    nearly every supervoxel. To find the node of any other supervoxel, the children of all the root's nodes in
    the supervoxel's chunk are read.

    Args:
        layout: bit fields of ids of layers 1 and 2.
        nodes: L2 ids by root.
        crossing: cross-chunk edges by L2 id, as consecutive pairs of supervoxels.
        read_children: returns the supervoxels of L2 nodes.

    Raises MalformedEdges if a root has malformed edges or children.
    """
    ends = _of_each(nodes, lambda root: _ends(sorted_unique(nodes[root]), crossing))
    unmapped = {root: some.far[some.far_nodes == 0] for root, some in ends.items()}
    candidates = _of_each(
        nodes, lambda root: _in_chunks_of(layout, sorted_unique(nodes[root]), unmapped[root])
    )
    wanted = sorted_unique(np.concatenate([as_ids([]), *candidates.values()]))
    children = read_children(wanted)

    def pairs(root: int) -> Pairs:
        some, ids = ends[root], candidates[root]
        _check(ids, children)
        lists = children.lists.take(np.searchsorted(wanted, ids))
        owners = np.repeat(ids, lists.lengths)
        some.far_nodes[some.far_nodes == 0] = owners_of(lists.values, owners, unmapped[root])
        return _pairs(some)

    return _of_each(nodes, pairs)


def _of_each(roots: Iterable[int], find: Callable[[int], T]) -> dict[int, T]:
    """Return ``find(root)`` by root. Raises MalformedEdges for all roots where ``find`` raises GraphError."""
    found, malformed = dict[int, T](), dict[int, str]()
    for root in roots:
        try:
            found[root] = find(root)
        except GraphError as error:
            malformed[root] = str(error)
    if malformed:
        raise MalformedEdges(malformed)
    return found


def _check(ids: Ids, lists: NodeLists) -> None:
    """Raise GraphError if the list of one of these ids is malformed."""
    wrong = ids[np.isin(ids, as_ids(list(lists.errors)))]
    check_lists({node: lists.errors[node] for node in wrong.tolist()})


def _ends(ids: Ids, crossing: NodeLists) -> _Ends:
    """Return the ends of the edges in the rows of a root's L2 nodes; a far node not found in them is 0."""
    _check(ids, crossing)
    lists = crossing.lists.take(np.searchsorted(crossing.ids, ids))
    if (lists.lengths % 2).any():
        node = ids[lists.lengths % 2 > 0][0]
        raise GraphError(f"node {node}: cross-chunk edges have an odd number of supervoxels, expected pairs")
    near, far = lists.values.reshape(-1, 2).T
    near_nodes = np.repeat(ids, lists.lengths // 2)
    return _Ends(near_nodes, owners_of(near, near_nodes, far), far)


def owners_of(supervoxels: Ids, nodes: Ids, wanted: Ids) -> Ids:
    """Return the node of each wanted supervoxel; 0 for one that is not among ``supervoxels``.

    ``nodes`` (n,) are the nodes of ``supervoxels`` (n,).
    """
    out = np.zeros(len(wanted), dtype=np.uint64)
    if len(supervoxels):
        order = np.argsort(supervoxels)
        at = np.searchsorted(supervoxels, wanted, sorter=order).clip(max=len(order) - 1)
        found = supervoxels[order[at]] == wanted
        out[found] = nodes[order[at[found]]]
    return out


def _in_chunks_of(layout: IdLayout, ids: Ids, supervoxels: Ids) -> Ids:
    """Return those of ``ids`` (L2 nodes) that are in the chunk of one of the supervoxels.

    Raises GraphError if one of ``supervoxels`` is not of layer 1.
    """
    unexpected = supervoxels[layout.layers(supervoxels) != SUPERVOXEL]
    if len(unexpected):
        raise GraphError(f"cross-chunk edges end at {unexpected[0]}: expected a supervoxel, an id of layer 1")
    chunk_ids = layout.chunk_id_array(layout.chunk_coordinates(supervoxels), layer=L2)
    return ids[np.isin(layout.chunk_ids(ids), chunk_ids)]


def _pairs(ends: _Ends) -> Pairs:
    mapped = ends.far_nodes != 0
    return unique_pairs(ends.near_nodes[mapped], ends.far_nodes[mapped])
