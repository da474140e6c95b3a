"""Walk between roots and L2 nodes, layer by layer, for all roots at once.

Between layer 2 and the roots' layer, a graph skips layers in which a node would have a single child. So a
node's children may be of any lower layer, and its parent of any higher layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..core.errors import GraphError
from ..core.ids import L2, Ids, as_ids, sorted_unique
from .base import RootNodes
from .id_cells import Lists, NodeLists, Places, places_of

ReadLists = Callable[[Ids], NodeLists]
Layers = Callable[[Ids], Places]


def descend(read_children: ReadLists, layers: Layers, roots: Ids, most: int) -> RootNodes:
    """Return the L2 nodes of roots.

    Args:
        read_children: returns the children of nodes.
        layers: returns the layer of each id.
        roots: ids of the roots, of a layer above 2.
        most: for a root with more L2 nodes, only their number is returned, or a lower bound of it.
    """
    walk = _Walk(sorted_unique(roots), most)
    owners: Places = np.arange(len(walk.roots))
    nodes = walk.roots
    while len(nodes):
        owners, nodes = walk.step(read_children, layers, owners, nodes)
    return walk.result()


@dataclass
class _Walk:
    """State of `descend`: for each root, what was found so far.

    ``l2`` has pairs of parallel arrays: indices of roots, and L2 nodes of these roots.
    """

    roots: Ids
    most: int
    found: RootNodes = field(default_factory=RootNodes)
    l2: list[tuple[Places, Ids]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = np.zeros(len(self.roots), dtype=np.int64)
        self.active = np.ones(len(self.roots), dtype=bool)

    def step(
        self, read_children: ReadLists, layers: Layers, owners: Places, nodes: Ids
    ) -> tuple[Places, Ids]:
        """Read the children of nodes; add those of layer 2 to ``l2``, and return those of higher layers.

        ``owners`` (n,) are indices of the nodes' roots. Returns a tuple: owners and ids of the children.
        """
        unique, inverse = np.unique(nodes, return_inverse=True)
        read = read_children(unique)
        self._check_lists(read, owners, nodes, inverse)
        kept = self.active[owners]
        owners, parents = owners[kept], nodes[kept]
        children = read.lists.take(inverse[kept])
        owners, parents = np.repeat(owners, children.lengths), np.repeat(parents, children.lengths)
        child_layers = layers(children.values)
        self._fail(owners, (child_layers < L2) | (child_layers >= layers(parents)), parents, children.values)
        is_l2 = child_layers == L2
        self.l2.append((owners[is_l2], children.values[is_l2]))
        self.counts += np.bincount(owners[is_l2], minlength=len(self.roots))
        self._limit(owners[~is_l2])
        above = ~is_l2 & self.active[owners]
        return owners[above], children.values[above]

    def _check_lists(self, read: NodeLists, owners: Places, nodes: Ids, inverse: Places) -> None:
        """Drop unknown roots; drop roots with a node that has no valid children, and record the error."""
        empty = (read.lists.lengths == 0)[inverse]
        for owner, node, known in zip(
            owners[empty].tolist(), nodes[empty].tolist(), read.known[inverse][empty].tolist(), strict=True
        ):
            self.active[owner] = False
            if known or node != self.roots[owner]:
                error = read.errors.get(node, f"node {node} has no children: expected one or more")
                self.found.errors.setdefault(int(self.roots[owner]), error)

    def _fail(self, owners: Places, wrong: npt.NDArray[np.bool_], parents: Ids, children: Ids) -> None:
        failed, first = np.unique(owners[wrong], return_index=True)
        self.active[failed] = False
        for owner, parent, child in zip(failed, parents[wrong][first], children[wrong][first], strict=True):
            error = f"node {parent}: child {child}: expected a layer of 2 or higher, but below its parent's"
            self.found.errors.setdefault(int(self.roots[owner]), error)

    def _limit(self, owners: Places) -> None:
        """Drop roots with more than ``most`` L2 nodes.

        ``owners`` (n,) has the index of the root for each child above layer 2. Such a child counts as one L2
        node, because at least one L2 node is below it.
        """
        least = self.counts + np.bincount(owners, minlength=len(self.roots))
        over = self.active & (least > self.most)
        self.active &= ~over
        self.found.too_large |= dict(zip(self.roots[over].tolist(), least[over].tolist(), strict=True))

    def result(self) -> RootNodes:
        owners = np.concatenate([np.empty(0, dtype=np.int64), *(part[0] for part in self.l2)])
        ids = np.concatenate([as_ids([]), *(part[1] for part in self.l2)])
        order = np.argsort(owners, kind="stable")
        ends = np.searchsorted(owners[order], np.arange(len(self.roots)), side="right")
        lists = Lists(ids[order], np.concatenate([[0], ends])).take(np.flatnonzero(self.active))
        for root, nodes in zip(self.roots[self.active].tolist(), lists.parts(), strict=True):
            self.found.l2_ids[root] = sorted_unique(nodes)
        return self.found


def ascend(read_parents: Callable[[Ids], Ids], layers: Layers, ids: Ids, top: int) -> Ids:
    """Return the highest ancestor of each id, shape (n,); the id itself if it has no parent.

    Args:
        read_parents: returns the parents of sorted, unique ids; 0 for an id without a parent.
        layers: returns the layer of each id.
        ids: the ids, shape (n,).
        top: layer of the roots; parents of this layer's nodes are not read.

    Raises GraphError if a node's parent is not of a higher layer than the node.
    """
    unique, inverse = np.unique(ids, return_inverse=True)
    last, climbing = unique.copy(), np.flatnonzero(layers(unique) < top)
    while len(climbing):
        nodes, back = np.unique(last[climbing], return_inverse=True)
        parents = read_parents(nodes)
        check_parents(layers, nodes[parents != 0], parents[parents != 0])
        found = parents[back]
        climbing, found = climbing[found != 0], found[found != 0]
        last[climbing] = found
        climbing = climbing[layers(found) < top]
    return last[inverse]


def highest_among(layers: Layers, nodes: Ids, parents: Ids) -> Ids:
    """Return the highest ancestor that is found from each node by following ``parents``, shape (n,).

    ``parents`` (n,) are the parents of the sorted, unique ``nodes`` (n,). A walk up ends at an ancestor that
    is not in ``nodes``. Raises GraphError if a node's parent is not of a higher layer than the node.
    """
    check_parents(layers, nodes, parents)
    at, inside = places_of(nodes, parents)
    highest, changes = parents.copy(), np.flatnonzero(np.diff(layers(nodes))) + 1
    for first, end in reversed(list(pairwise([0, *changes.tolist(), len(nodes)]))):  # higher layers first
        climbing = first + np.flatnonzero(inside[first:end])
        highest[climbing] = highest[at[climbing]]
    return highest


def check_parents(layers: Layers, nodes: Ids, parents: Ids) -> None:
    """Raise GraphError if a node's parent is not of a higher layer than the node."""
    wrong = layers(parents) <= layers(nodes)
    if wrong.any():
        node, parent = nodes[wrong][0], parents[wrong][0]
        raise GraphError(f"node {node}: parent {parent} is not of a higher layer than the node")
