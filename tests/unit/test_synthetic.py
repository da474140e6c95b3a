"""Tests of the benchmarks' synthetic data set: a consistent graph, and rows equal to the oracle's."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

from l2features.core.geometry import Chunk
from l2features.core.ids import as_ids
from l2features.graph.id_cells import decode_ids
from l2features.graph.table_meta import info_of_meta
from l2features.messages.decoding import decode
from l2features.testing.oracle import check_equal, plain_features
from l2features.testing.random_edits import random_edits
from l2features.testing.synthetic import CHILDREN, ProofreadGraph, Segmentation, Spec, graph_meta

SPEC = Spec(grid=(3, 3, 2), seed=3)


@pytest.fixture(scope="module")
def segmentation() -> Segmentation:
    return Segmentation(SPEC)


def test_edits_of_edits_leave_every_supervoxel_with_one_valid_node(segmentation: Segmentation) -> None:
    graph = ProofreadGraph(segmentation.geometry, segmentation.objects, 1_000)
    cells = list(graph.first)
    for edit in itertools.islice(random_edits(graph, 1, 2_000), 200):
        chunks = {graph.chunk_id(node) for node in edit.new_l2_ids}
        assert 1 <= len(edit.new_l2_ids) <= 6
        assert 1 <= len(chunks) <= 3
        assert len(edit.old_root_ids) + len(edit.new_root_ids) == 3
        message = edit.message("t")
        assert pickle.loads(message.data)["old_root_ids"] == list(edit.old_root_ids)
        assert decode(*message).ids.tolist() == sorted(edit.new_l2_ids)
        cells += edit.cells
    supervoxels = np.concatenate([graph.children[node] for node in graph.roots])
    assert sorted(supervoxels.tolist()) == sorted(segmentation.objects)
    assert {root: nodes for root, nodes in graph.nodes.items() if nodes} == {
        root: {node for node, own in graph.roots.items() if own == root} for root in graph.roots.values()
    }
    newest = {c.node: int.from_bytes(c.value, "little") for c in cells if c.column != CHILDREN}
    assert newest == {int(i): node for node in graph.roots for i in graph.children[node]}
    made = {c.node: decode_ids(c.value, 100, "children").tolist() for c in cells if c.column == CHILDREN}
    assert made == {node: own.tolist() for node, own in graph.children.items()}


def test_the_truth_is_the_oracles(segmentation: Segmentation) -> None:
    graph = ProofreadGraph(segmentation.geometry, segmentation.objects, 1_000)
    nodes = list(graph.children.items())[::5]
    assert len(nodes) > 10
    for node, supervoxels in nodes:
        chunk = Chunk(*graph.geometry.layout.chunk_coordinates(as_ids([node]))[0].tolist())
        plain = plain_features(segmentation.mask(chunk, node, supervoxels), SPEC.resolution)
        check_equal(segmentation.true_row(node, supervoxels), plain)


def test_the_meta_is_read_as_that_of_a_graph() -> None:
    info = info_of_meta(graph_meta(SPEC.geometry, "t", 4, "file:///ws"))
    assert info.chunk_size == SPEC.chunk_size
    assert info.layout == SPEC.geometry.layout
