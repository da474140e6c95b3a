"""Nodes above layer 2, nested as in PyChunkedGraph.

Nodes in layer n that are connected by cross-chunk edges of layer n (see `cross_layers`) get a common parent
in layer n + 1. Any other node gets a parent in the next higher layer in which it has cross-chunk edges.
Without such edges, its parent is a root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from ...core.geometry import Geometry
from ...core.ids import L2, IdLayout, Ids, as_ids
from ...graph.l2_edges import owners_of
from ...graph.table_meta import FAN_OUT, layout_above
from .graph_cells import n_layers


def upper_layout(geometry: Geometry) -> IdLayout:
    """Return the layout of ids in all layers, including the layers above 2."""
    return layout_above(geometry.layout, n_layers(geometry), FAN_OUT)


def cross_layers(geometry: Geometry, pairs: Ids) -> npt.NDArray[np.int64]:
    """Return the layers (n,) of edges between pairs of supervoxels (n, 2).

    The layer of an edge is the highest layer in which its ends lie in different chunks; 1 if there is none.
    """
    one, other = (geometry.layout.chunk_coordinates(side) for side in pairs.T)
    layers = np.ones(len(pairs), dtype=np.int64)
    for shift in range(n_layers(geometry) - L2):
        layers += ((one >> shift) != (other >> shift)).any(axis=1)
    return layers


def nodes_of(children: Mapping[int, Ids], supervoxels: Ids) -> Ids:
    """Return the node of each supervoxel, (n,), or 0; ``children`` maps each node to its supervoxels."""
    nodes = np.repeat(as_ids(children), [len(own) for own in children.values()])
    return owners_of(np.concatenate([as_ids([]), *children.values()]), nodes, supervoxels)


def parents_above(
    geometry: Geometry,
    nodes: Ids,
    ends: Ids,
    layers: npt.NDArray[np.int64],
    name: Callable[[int, Ids], int],
) -> Iterator[tuple[int, Ids]]:
    """Yield each node above layer 2 with its children, from the lowest layer to the roots.

    Args:
        geometry: the graph's geometry.
        nodes: the L2 nodes, (n,), sorted.
        ends: the L2 nodes that each cross-chunk edge joins, (m, 2).
        layers: the layer of each edge, (m,).
        name: returns the id of a new node from the id of its chunk and its children.
    """
    top, layout = n_layers(geometry), upper_layout(geometry)
    at, above = np.searchsorted(nodes, ends), nodes.copy()
    for layer in range(L2, top):
        here, index = np.unique(above, return_inverse=True)
        joined, later = index[at[layers == layer]], layers > layer
        following = np.full(len(here), top)
        np.minimum.at(following, index[at[later]].ravel(), np.repeat(layers[later], 2))
        parents = here.copy()
        for members in components(len(here), joined, layout.layers(here) == layer):
            first = here[members[:1]]
            parent_layer = layer + 1 if len(members) > 1 else int(following[members[0]])
            chunk = layout.chunk_coordinates(first) >> (parent_layer - layer)
            parent = name(int(layout.chunk_id_array(chunk, parent_layer)[0]), here[members])
            parents[members] = parent
            yield parent, here[members]
        above = parents[index]


def components(
    n: int, edges: npt.NDArray[np.int64], wanted: npt.NDArray[np.bool_]
) -> list[npt.NDArray[np.int64]]:
    """Return the wanted vertices of each connected component, without components that have none.

    The graph has ``n`` vertices and the edges (m, 2), pairs of vertices; ``wanted`` is (n,).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    matrix = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n, n))
    _, component = connected_components(matrix, directed=False)
    vertices = np.flatnonzero(wanted)
    order = vertices[np.argsort(component[vertices], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(component[order])) + 1) if len(order) else []
