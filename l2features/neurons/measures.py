"""The measures of L2 graphs: components, edges, lengths of the spanning tree and of the skeleton."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse.csgraph import minimum_spanning_tree

from ..core.rows import Rows
from .forest import components, cover, far_ends, lengths, weighted, weighted_once
from .node_graph import NeuronGraph, place_nodes
from .skeleton import INVALIDATION_NM


def graph_measures(graphs: Sequence[NeuronGraph]) -> dict[str, np.ndarray]:
    """Return the measures of `neuron_summary.SUMMARY` that need L2 graphs, by name; (R,) for R graphs.

    All graphs must be of one data set. They are processed as one graph of many components.
    """
    names = "n_components", "n_edges", "mst_length_nm", "cable_length_nm"
    sizes = [len(graph) for graph in graphs]
    if not sum(sizes):
        return {name: np.zeros(len(graphs)) for name in names}
    starts = np.cumsum([0, *sizes])
    root = np.repeat(np.arange(len(graphs)), sizes)
    edges = np.concatenate([graph.edges + start for graph, start in zip(graphs, starts[:-1], strict=True)])
    rows = Rows(
        np.concatenate([graph.rows.features for graph in graphs]),
        np.concatenate([graph.rows.present for graph in graphs]),
    )
    status = np.concatenate([graph.status for graph in graphs])
    positions, _ = place_nodes(rows, status, edges, graphs[0].geometry)
    parts, weights = components(edges, len(rows)), weighted(positions, edges)
    tree = minimum_spanning_tree(weighted_once(positions, edges)).tocoo()
    path = cover(weights, far_ends(weights, parts), INVALIDATION_NM).edges
    sums = (
        np.bincount(root[parts.first], minlength=len(graphs)),
        np.bincount(root[edges[:, 0]], minlength=len(graphs)),
        np.bincount(root[tree.row], tree.data, len(graphs)),
        np.bincount(root[path[:, 0]], lengths(positions, path), len(graphs)),
    )
    return dict(zip(names, sums, strict=True))
