"""Tests of skeletons against pcg_skel, MeshParty and navis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from l2features.neurons.node_graph import NeuronGraph
from l2features.neurons.skeleton import Skeleton, skeletonize
from l2features.neurons.skeleton_files import networkx_graph, skeleton_json, swc
from tests.support.neurons import graph_at, random_tree, real_neuron

BLOCK = np.argwhere(np.ones((9, 8, 7)))


def block_graph() -> NeuronGraph:
    """Return a solid block with random offsets, so that competing paths differ in length."""
    index = np.arange(len(BLOCK)).reshape(9, 8, 7)
    pairs = [(index[1:], index[:-1]), (index[:, 1:], index[:, :-1]), (index[:, :, 1:], index[:, :, :-1])]
    edges = np.concatenate([np.stack([low.ravel(), high.ravel()], axis=1) for high, low in pairs])
    jitter = np.random.default_rng(0).integers(0, 100, BLOCK.shape)
    return graph_at(BLOCK * 1000 + jitter, np.unique(edges, axis=0))


GRAPHS = {
    **{f"tree {seed}": graph_at(*random_tree(400, seed)) for seed in range(6)},
    "block": block_graph(),
    "pair": graph_at([[0, 0, 0], [900, 0, 0]], [[0, 1]]),
}


def check_equal(ours: Skeleton, theirs: object) -> None:
    def of(name: str) -> np.ndarray:
        return np.asarray(getattr(theirs, name))

    np.testing.assert_allclose(ours.vertices, of("vertices"), rtol=0, atol=1e-6)
    edges = of("edges")
    np.testing.assert_array_equal(ours.edges, edges[edges[:, 0].argsort()])
    np.testing.assert_array_equal(ours.vertex_of_node, of("mesh_to_skel_map"))
    assert ours.root == of("root")
    np.testing.assert_array_equal(np.sort(ours.end_points), np.sort(of("end_points")))
    np.testing.assert_array_equal(ours.branch_points, of("branch_points"))


@pytest.mark.parametrize("invalidation", [1500, 7500])
@pytest.mark.parametrize("name", GRAPHS)
def test_pcg_skel_makes_the_same(name: str, invalidation: float) -> None:
    from pcg_skel import pcg_skeleton_direct

    graph = GRAPHS[name]
    theirs = pcg_skeleton_direct(graph.positions.copy(), graph.edges, invalidation)
    check_equal(skeletonize(graph, invalidation), theirs)


@pytest.mark.parametrize("collapse", [0.0, 800.0, 5000.0])
@pytest.mark.parametrize("name", [name for name in GRAPHS if name != "pair"])
def test_pcg_skel_makes_the_same_around_a_soma(name: str, collapse: float) -> None:
    from pcg_skel import pcg_skeleton_direct

    graph = GRAPHS[name]
    point = np.add(graph.positions.mean(axis=0), [111, 0, 0])
    theirs = pcg_skeleton_direct(graph.positions.copy(), graph.edges, 3000, point, True, collapse)
    check_equal(skeletonize(graph, 3000, point, collapse), theirs)


@pytest.mark.parametrize("seed", range(4))
def test_pcg_skel_places_missing_nodes_the_same(seed: int) -> None:
    """Equally long paths may have different vertices, so skeletons are compared by length and ends."""
    from meshparty.trimesh_io import Mesh
    from pcg_skel import pcg_skeleton_direct
    from pcg_skel.skel_utils import fix_nan_verts_mesh

    positions, edges = random_tree(300, seed)
    missing = np.random.default_rng(seed).choice(np.arange(1, 300), 60, replace=False)
    graph = graph_at(positions, edges, missing=missing)
    mesh = Mesh(vertices=positions.copy(), faces=[[0, 0, 0]], link_edges=graph.edges, process=False)
    mesh.vertices[missing] = np.nan
    fix_nan_verts_mesh(mesh, 10)
    np.testing.assert_allclose(graph.positions, mesh.vertices, rtol=0, atol=1e-6)
    ours = skeletonize(graph, 3000)
    theirs = pcg_skeleton_direct(np.array(mesh.vertices), graph.edges, 3000)
    assert ours.path_length_nm == pytest.approx(theirs.path_length(), rel=1e-5)
    assert len(ours.end_points) == theirs.n_end_points


def test_navis_reads_swc_and_networkx(shared: object, tmp_path: Path) -> None:
    import navis

    graph, recorded = real_neuron(shared("data"))  # type: ignore[operator]
    skeleton = skeletonize(graph, root_point=recorded["soma_pt_nm"], collapse_nm=7500)
    path = tmp_path / "neuron.swc"
    path.write_bytes(swc(skeleton, {"dataset": "minnie"}))
    network = networkx_graph(skeleton)
    converted = navis.nx2neuron(network, root=skeleton.root, units="1 nm")
    for neuron in (navis.read_swc(path), converted):
        assert neuron.n_nodes == len(skeleton)
        assert neuron.cable_length == pytest.approx(skeleton.path_length_nm, rel=1e-6)
        assert (neuron.n_leafs, neuron.n_branches) == (44, 34), "of 35, navis does not count the root"
        assert neuron.units.to("nm").magnitude == 1
    read = navis.read_swc(path)
    assert read.id == str(skeleton.root_id)
    assert read.dataset == "minnie"
    assert len(read.root) == 1


def test_mesh_party_reads_json() -> None:
    import json

    from meshparty.skeleton import Skeleton as MeshPartySkeleton

    skeleton = skeletonize(GRAPHS["tree 1"], 1500)
    read = MeshPartySkeleton.from_dict(json.loads(skeleton_json(skeleton)))
    assert (read.n_vertices, read.root) == (len(skeleton), skeleton.root)
    assert read.path_length() == pytest.approx(skeleton.path_length_nm, rel=1e-6)
    np.testing.assert_array_equal(read.end_points, skeleton.end_points)
