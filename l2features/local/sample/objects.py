"""The nodes and edges of some of a sample's objects, and the parts into which a split can divide a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...core.geometry import Geometry
from ...core.ids import L2, Ids, as_ids
from .graph_table import SampleTable
from .hierarchy import components, nodes_of


class Objects:
    """The nodes and edges below some roots.

    Attributes:
        tree: the children of each node, from the roots down to layer 2.
        nodes: the supervoxels of each L2 node.
        edges: the cross-chunk edges as pairs of supervoxels, (n, 2), each edge in both directions.
    """

    def __init__(self, table: SampleTable, geometry: Geometry, roots: Sequence[int]) -> None:
        self.tree = table.tree(as_ids(roots))
        ids = as_ids(self.tree)
        self.nodes = {node: self.tree[node] for node in ids[geometry.layout.layers(ids) == L2].tolist()}
        self.edges = table.cross_edges(as_ids(self.nodes))


def parts_of(supervoxels: Ids, others: Mapping[int, Ids], edges: Ids) -> list[Ids]:
    """Divide a node's supervoxels into the groups that are connected through the object's other nodes.

    Larger groups come first. The size of a group is the number of its supervoxels plus the number of other
    nodes connected to them.

    Args:
        supervoxels: the node's supervoxels, (n,), sorted.
        others: maps each other node of the object to its supervoxels.
        edges: the cross-chunk edges of the object as pairs of supervoxels, (m, 2).
    """
    alone = {supervoxel: as_ids([supervoxel]) for supervoxel in supervoxels.tolist()}
    vertices = as_ids(sorted([*alone, *others]))
    ends = np.searchsorted(vertices, nodes_of({**alone, **others}, edges.ravel()).reshape(-1, 2))
    groups = components(len(vertices), ends, np.ones(len(vertices), dtype=np.bool_))
    parts = [np.intersect1d(vertices[group], supervoxels) for group in sorted(groups, key=len, reverse=True)]
    return [part for part in parts if len(part)]
