"""Tests of skeleton files; cloud-volume reads the SWC and precomputed files."""

from __future__ import annotations

import json

import networkx as nx
import numpy as np
import pyarrow as pa
import pytest
from cloudvolume import Skeleton as CloudSkeleton

from l2features.neurons.skeleton import Skeleton, skeletonize
from l2features.neurons.skeleton_files import (
    VERTEX_COLUMNS,
    networkx_graph,
    node_table,
    precomputed,
    precomputed_info,
    skeleton_json,
    swc,
    vertex_table,
)
from l2features.query.answers import arrow_stream, parquet
from tests.support.neurons import ROOT, graph_at, random_tree

PROVENANCE = {"dataset": "minnie", "cv_path": "graphene://https://host/segmentation/table/t"}


def skeletons() -> dict[str, Skeleton]:
    """Return three skeletons of a graph with several components (plain, soma, joined), and one of a node."""
    positions, edges = random_tree(400, seed=3)
    graph = graph_at(positions, edges[edges.max(axis=1) < 390], missing=range(0, 400, 7))
    point = graph.positions[100] + [30, 0, 0]
    return {
        "plain": skeletonize(graph, 2000),
        "soma": skeletonize(graph, 2000, root_point=point, collapse_nm=2500),
        "joined": skeletonize(graph, 2000, join=True),
        "node": skeletonize(graph_at([[1, 2, 3]], [])),
    }


SKELETONS = skeletons()
every = pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)


def edge_positions(vertices: np.ndarray, edges: np.ndarray) -> set[tuple[float, ...]]:
    """Return each edge as the positions of its ends, the lower one first, in whole nm."""
    ends = np.rint(np.asarray(vertices, dtype=np.float64))[np.asarray(edges).reshape(-1, 2)]
    return {tuple(np.concatenate(sorted(pair.tolist())).tolist()) for pair in ends}


@every
def test_swc_is_read_by_cloud_volume(skeleton: Skeleton) -> None:
    read = CloudSkeleton.from_swc(swc(skeleton, PROVENANCE).decode())
    assert len(read.vertices) == len(skeleton)
    assert edge_positions(read.vertices, read.edges) == edge_positions(skeleton.vertices, skeleton.edges)
    assert sorted(read.radius.tolist()) == sorted(np.nan_to_num(skeleton.radius_nm).tolist())
    assert np.count_nonzero(read.vertex_types == 1) == np.count_nonzero(skeleton.l2_ids == 0)


@every
def test_swc_lists_parents_before_children(skeleton: Skeleton) -> None:
    lines = swc(skeleton, PROVENANCE).decode().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    ids, parents = [int(row[0]) for row in rows], [int(row[6]) for row in rows]
    assert ids == list(range(1, len(skeleton) + 1))
    assert all(parent < child for child, parent in zip(ids, parents, strict=True))
    assert parents.count(-1) == np.count_nonzero(skeleton.parents < 0)
    said = {key: json.loads(text) for key, text in (line[2:].split(": ", 1) for line in lines[1:3])}
    assert said["Meta"] == {"id": str(ROOT), "units": "1 nanometer", **PROVENANCE}
    assert said["Skeleton"] == {
        **skeleton.parameters,
        "n_components": skeleton.n_components,
        "n_gaps": skeleton.gaps.sum(),
        "path_length_nm": skeleton.path_length_nm,
    }


@every
def test_precomputed_is_read_by_cloud_volume(skeleton: Skeleton) -> None:
    info = precomputed_info()
    assert {a["data_type"] for a in info["vertex_attributes"]} == {"float32"}
    read = CloudSkeleton.from_precomputed(precomputed(skeleton), vertex_attributes=info["vertex_attributes"])
    np.testing.assert_array_equal(read.vertices, skeleton.vertices.astype(np.float32))
    np.testing.assert_array_equal(read.edges, skeleton.edges)
    np.testing.assert_allclose(read.radius, np.nan_to_num(skeleton.radius_nm))
    np.testing.assert_allclose(read.segment_radius, np.nan_to_num(skeleton.segment_radius_nm), rtol=1e-6)
    np.testing.assert_array_equal(read.interpolated, skeleton.interpolated)
    np.testing.assert_array_equal(read.component, skeleton.component)
    size = 8 + len(skeleton) * 4 * (3 + len(info["vertex_attributes"])) + len(skeleton.edges) * 8
    assert len(precomputed(skeleton)) == size


@every
@pytest.mark.parametrize("as_str", [False, True], ids=["int", "str"])
def test_json(skeleton: Skeleton, as_str: bool) -> None:
    read = json.loads(skeleton_json(skeleton, PROVENANCE, int64_as_str=as_str))
    make = str if as_str else int
    assert read["root_id"] == make(skeleton.root_id)
    assert read["l2_ids"] == [make(node) for node in skeleton.l2_ids.tolist()]
    assert read["node_ids"] == [make(node) for node in skeleton.node_ids.tolist()]
    assert read["vertices"] == skeleton.vertices.tolist()
    assert (read["edges"], read["root"]) == (skeleton.edges.tolist(), skeleton.root)
    assert read["mesh_to_skel_map"] == skeleton.vertex_of_node.tolist()
    assert read["radius"] == [None if np.isnan(r) else r for r in skeleton.radius_nm.tolist()]
    assert read["gaps"] == skeleton.gaps.tolist()
    assert read["meta"]["units"] == "nm"
    assert read["meta"].items() >= PROVENANCE.items()


@every
def test_arrow(skeleton: Skeleton) -> None:
    table = pa.ipc.open_stream(arrow_stream(vertex_table(skeleton, PROVENANCE))).read_all()
    assert table.column_names == list(VERTEX_COLUMNS)
    columns = table.to_pydict()
    assert columns["parent"] == [None if p < 0 else p for p in skeleton.parents.tolist()]
    assert columns["l2_id"] == [node or None for node in skeleton.l2_ids.tolist()]
    assert columns["position_nm"] == skeleton.vertices.tolist()
    assert columns["radius_nm"] == [None if np.isnan(r) else r for r in skeleton.radius_nm.tolist()]
    assert columns["gap"] == skeleton.gaps.tolist()
    said = {key.decode(): json.loads(value) for key, value in table.schema.metadata.items()}
    assert said["root_id"] == str(ROOT)
    assert said.items() >= PROVENANCE.items()
    assert table.schema.field("radius_nm").metadata[b"unit"] == b"nm"
    assert len(parquet(vertex_table(skeleton))) > 0
    nodes = node_table(skeleton).to_pydict()
    assert nodes == {"l2_id": skeleton.node_ids.tolist(), "vertex": skeleton.vertex_of_node.tolist()}


@every
def test_networkx(skeleton: Skeleton) -> None:
    graph = networkx_graph(skeleton)
    assert set(graph.edges) == set(map(tuple, skeleton.edges.tolist()))
    assert nx.number_weakly_connected_components(graph) == np.count_nonzero(skeleton.parents < 0)
    length = graph.size(weight="weight")
    assert (length == pytest.approx(skeleton.path_length_nm, rel=1e-9)) == (not skeleton.gaps.any())
    assert [graph.nodes[v]["l2_id"] for v in range(len(skeleton))] == skeleton.l2_ids.tolist()
