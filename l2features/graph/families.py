"""Nodes above layer 2 with their parents and children, and the valid L2 nodes among the children."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..core.errors import GraphError
from ..core.ids import Ids, as_ids, from_bytes
from .base import NodeRoots
from .chunk_ranges import IdRanges, in_ranges
from .id_cells import CHILDREN, MOST_IDS, PARENTS, NodeLists, places_of

if TYPE_CHECKING:
    from ..store.bigtable.row_arrays import AnyCells


class Families(NamedTuple):
    """Sorted nodes (n,), their parents (n,), and each node's encoded children, ``b""`` without children."""

    nodes: Ids
    parents: Ids
    children: list[bytes]


def families_of(parts: Sequence[AnyCells]) -> Families:
    """Return the nodes in decoded rows, with their parents and children; leave out nodes without a parent.

    Raises GraphError for a parent that does not have 8 bytes.
    """
    ids = np.concatenate([as_ids([]), *(part.ids for part in parts)])
    names = [name for part in parts for name in part.names]
    values = [value for part in parts for value in part.values]
    nodes, parents = _cells_of(PARENTS, ids, names, values)
    for node, parent in zip(nodes.tolist(), parents, strict=True):
        if len(parent) != 8:
            raise GraphError(f"row {node}: {PARENTS} has {len(parent)} bytes, expected 8")
    known, children = _cells_of(CHILDREN, ids, names, values)
    at, found = places_of(known, nodes)
    cells = [children[i] if there else b"" for i, there in zip(at.tolist(), found.tolist(), strict=True)]
    return Families(nodes, from_bytes(b"".join(parents)), cells)


def valid_children(families: Families, roots: Ids, chunks: IdRanges) -> NodeRoots:
    """Return the L2 nodes in ``chunks`` that are children of a node with a valid root, each with this root.

    ``roots`` (n,) has the valid root of each node in ``families``, or 0. Malformed children are left out.
    """
    valid = np.flatnonzero(roots)
    cells, nodes = [families.children[i] for i in valid.tolist()], families.nodes[valid]
    lists = NodeLists.decoded(nodes, nodes, cells, MOST_IDS, "children").lists
    ids, first = np.unique(lists.values, return_index=True)
    ours = in_ranges(chunks, ids)
    return NodeRoots(ids[ours], np.repeat(roots[valid], lists.lengths)[first[ours]])


def either(some: NodeRoots, others: NodeRoots) -> NodeRoots:
    """Merge two sets of nodes, sorted by node.

    A node of ``others`` is left out if it has no root or is also in ``some``.
    """
    new = (others.roots != 0) & ~places_of(some.l2_ids, others.l2_ids)[1]
    ids = np.append(some.l2_ids, others.l2_ids[new])
    order = np.argsort(ids, kind="stable")
    return NodeRoots(ids[order], np.append(some.roots, others.roots[new])[order])


def _cells_of(
    column: str, ids: Ids, names: Sequence[bytes], values: Sequence[bytes]
) -> tuple[Ids, list[bytes]]:
    """Return a tuple: the sorted ids of the rows with a cell in ``column``; the values of these cells."""
    wanted = column.encode()
    places = np.array([i for i, name in enumerate(names) if name == wanted], dtype=np.int64)
    places = places[np.argsort(ids[places], kind="stable")]
    return ids[places], [values[i] for i in places.tolist()]
