"""Tests of the L2 graph of a root, and of the measures of many graphs at once."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest

from l2features.core.errors import GraphError
from l2features.core.rows import Rows
from l2features.neurons.neuron_summary import GRAPH_SUMMARIES, SUMMARIES, summarize, with_graph
from l2features.neurons.node_graph import NeuronGraph
from l2features.neurons.skeleton import skeletonize
from tests.support.neurons import graph_at, random_tree


def sorted_graph(positions: np.ndarray, edges: np.ndarray, root: int = 7) -> NeuronGraph:
    """Return a graph made by `NeuronGraph.of`, from sorted node ids and from edges as pairs of ids."""
    graph = graph_at(positions, edges, root=root)
    order = np.argsort(graph.node_ids)
    pairs = np.sort(graph.node_ids[graph.edges], axis=1)
    rows, status = graph.rows.take(order), graph.status[order]
    return NeuronGraph.of(root, rows.ids, np.unique(pairs, axis=0), rows, status, graph.geometry)


def test_edges_are_pairs_of_the_ids() -> None:
    positions, edges = random_tree(50)
    graph, made = graph_at(positions, edges), sorted_graph(positions, edges)
    assert (np.diff(made.node_ids) > 0).all()
    expected = np.unique(np.sort(graph.node_ids[graph.edges], axis=1), axis=0)
    np.testing.assert_array_equal(made.node_ids[made.edges], expected)
    np.testing.assert_array_equal(np.sort(made.positions, axis=0), np.sort(positions, axis=0))


def test_an_edge_to_a_node_of_another_root() -> None:
    graph = sorted_graph(*random_tree(5))
    for unknown in (graph.node_ids[-1] + np.uint64(1), graph.node_ids[0] - np.uint64(1)):
        pairs = np.array([[graph.node_ids[1], unknown]])
        with pytest.raises(
            GraphError, match=f"root 7 has an edge to node {unknown}: expected edges between the"
        ):
            NeuronGraph.of(7, graph.node_ids, pairs, graph.rows, graph.status, graph.geometry)


def test_a_node_of_another_layer() -> None:
    graph = sorted_graph(*random_tree(5))
    ids = graph.node_ids + np.uint64(1 << 56)
    with pytest.raises(GraphError, match=f"root 7 has node {ids[0]} of layer 3: expected layer 2"):
        NeuronGraph.of(7, ids, np.zeros((0, 2), np.uint64), graph.rows, graph.status, graph.geometry)


def test_components_are_numbered_by_size() -> None:
    graph = graph_at(np.arange(24).reshape(8, 3) * 100, [[1, 2], [3, 4], [4, 5], [6, 7]])
    assert graph.component.tolist() == [3, 1, 1, 0, 0, 0, 2, 2]


# ------------------------------------------------------------------ measures
def graphs_of_many_roots() -> list[NeuronGraph]:
    """Return graphs of one or several components, of one node, without edges, or with missing nodes."""
    made = [sorted_graph(*random_tree(n, seed=n), root=n) for n in (60, 1, 200, 2)]
    positions, edges = random_tree(80, seed=9)
    made.append(sorted_graph(positions, edges[edges.max(axis=1) < 70], root=5))
    made.append(sorted_graph(positions, edges[:0], root=6))
    hollow = made[2].rows.present.copy()
    hollow[10:14] = False
    status = made[2].status.copy()
    status[10:14] = 1
    made[2] = replace(made[2], rows=Rows(made[2].rows.features, hollow), status=status)
    geometry = replace(made[2].geometry, voxel_offset=(0, 0, 0))
    return [replace(graph, geometry=geometry) for graph in made]


def summaries_of(graphs: list[NeuronGraph]) -> np.ndarray:
    starts = np.cumsum([0, *map(len, graphs)])
    features = np.concatenate([g.rows.features for g in graphs])
    rows = Rows(features, np.concatenate([g.rows.present for g in graphs]))
    status = np.concatenate([g.status for g in graphs])
    return summarize(rows, status, starts, graphs[0].geometry)


def test_measures_of_many_roots_at_once() -> None:
    graphs = graphs_of_many_roots()
    summaries = summaries_of(graphs)
    together = with_graph(summaries, graphs)
    assert together.dtype == GRAPH_SUMMARIES
    for name in SUMMARIES.names or ():
        np.testing.assert_array_equal(together[name], summaries[name])
    for graph, found in zip(graphs, together, strict=True):
        network = nx.Graph()
        network.add_nodes_from(range(len(graph)))
        for one, other in graph.edges.tolist():
            length = np.linalg.norm(graph.positions[one] - graph.positions[other])
            network.add_edge(one, other, weight=length)
        tree = nx.minimum_spanning_tree(network)
        assert found["n_components"] == nx.number_connected_components(network)
        assert found["n_edges"] == len(graph.edges)
        assert found["mst_length_nm"] == pytest.approx(tree.size(weight="weight"))
        assert found["cable_length_nm"] == pytest.approx(skeletonize(graph).path_length_nm)
    assert together["cable_length_nm"][0] > 0


def test_measures_of_no_roots_and_of_no_nodes() -> None:
    assert len(with_graph(np.zeros(0, SUMMARIES), [])) == 0
    graph = sorted_graph(*random_tree(3))
    none = NeuronGraph(
        7, graph.node_ids[:0], graph.edges[:0], graph.rows[:0], graph.status[:0], graph.geometry
    )
    for graphs in ([none], [none, graph, none]):
        measured = with_graph(np.zeros(len(graphs), SUMMARIES), graphs)
        assert measured["n_components"].tolist() == [int(len(g) > 0) for g in graphs]
