"""Tests of skeletons: equality with pcg_skel on a real neuron, components, joins, radii, and tiny roots."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2features.neurons import branches
from l2features.neurons.joining import gaps_between
from l2features.neurons.node_graph import NeuronGraph
from l2features.neurons.skeleton import Skeleton, skeletonize
from tests.support.neurons import graph_at, random_tree, real_neuron

Shared = Callable[[str], Path]
LINE = np.stack([np.arange(0, 40_000, 1000), np.zeros(40), np.zeros(40)], axis=1)
ALONG = np.stack([np.arange(39), np.arange(1, 40)], axis=1)


def check_is_forest(skeleton: Skeleton) -> None:
    """Check that parents have no cycles, and that there is one edge per vertex with a parent."""
    at = np.arange(len(skeleton))
    for _ in range(len(skeleton)):
        if (skeleton.parents[at] < 0).all():
            break
        at = np.where(skeleton.parents[at] < 0, at, skeleton.parents[at])
    assert (skeleton.parents[at] < 0).all()
    assert skeleton.parents[skeleton.root] == -1
    assert len(skeleton.edges) == len(skeleton) - np.count_nonzero(skeleton.parents < 0)


# ------------------------------------------------------------------ as pcg_skel
@pytest.mark.parametrize(
    ("kind", "options"), [("plain", {}), ("soma", {"collapse_nm": 7500})], ids=["plain", "soma"]
)
def test_a_real_neuron(shared: Shared, kind: str, options: dict[str, Any]) -> None:
    graph, recorded = real_neuron(shared("data"))
    point = {"root_point": recorded["soma_pt_nm"]} if kind == "soma" else {}
    ours = skeletonize(graph, **options, **point)
    theirs = {name: recorded[f"{kind}_{name}"] for name in ("vertices", "edges", "root", "mesh_to_skel")}
    np.testing.assert_array_equal(ours.vertices, theirs["vertices"])
    np.testing.assert_array_equal(ours.edges, theirs["edges"][theirs["edges"][:, 0].argsort()])
    np.testing.assert_array_equal(ours.vertex_of_node, theirs["mesh_to_skel"])
    assert ours.root == theirs["root"]
    assert ours.path_length_nm == pytest.approx(float(recorded[f"{kind}_path_length_nm"]), rel=1e-6)
    assert len(ours.end_points) == recorded[f"{kind}_n_end"] == 44
    assert len(ours.branch_points) == recorded[f"{kind}_n_branch"]
    nodes = np.flatnonzero(ours.l2_ids)
    assert len(nodes) == len(ours) - (kind == "soma")
    np.testing.assert_array_equal(graph.positions[ours_nodes(graph, ours)[nodes]], ours.vertices[nodes])


def ours_nodes(graph: NeuronGraph, skeleton: Skeleton) -> np.ndarray:
    """Return each vertex's index into ``graph.node_ids``. These ids may be unsorted."""
    order = np.argsort(graph.node_ids)
    return order[np.searchsorted(graph.node_ids, skeleton.l2_ids, sorter=order).clip(max=len(graph) - 1)]


def test_the_defaults_are_those_of_pcg_skel(shared: Shared) -> None:
    graph, _ = real_neuron(shared("data"))
    assert skeletonize(graph).parameters == {
        "invalidation_nm": 7500.0,
        "root_point_nm": None,
        "collapse_nm": None,
        "join": False,
    }


def test_a_root_point_without_collapse_only_moves_the_root(shared: Shared) -> None:
    graph, recorded = real_neuron(shared("data"))
    plain, moved = skeletonize(graph), skeletonize(graph, root_point=recorded["soma_pt_nm"])
    np.testing.assert_array_equal(plain.vertices, moved.vertices)
    edges, moved_edges = (np.unique(np.sort(s.edges, 1), axis=0) for s in (plain, moved))
    np.testing.assert_array_equal(edges, moved_edges)
    nearest = np.linalg.norm(plain.vertices - recorded["soma_pt_nm"], axis=1).argmin()
    assert (moved.root, moved.parents[nearest]) == (nearest, -1)


# ------------------------------------------------------------------ every vertex is near a path
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("invalidation", [500, 3000, 50_000])
def test_every_node_is_near_its_vertex(seed: int, invalidation: float) -> None:
    from scipy.sparse.csgraph import dijkstra

    from l2features.neurons.forest import weighted

    graph = graph_at(*random_tree(300, seed))
    skeleton = skeletonize(graph, invalidation)
    check_is_forest(skeleton)
    vertices = ours_nodes(graph, skeleton)
    along = dijkstra(weighted(graph.positions, graph.edges), indices=vertices)
    np.testing.assert_array_equal(along[skeleton.vertex_of_node, np.arange(300)], along.min(axis=0))
    assert along.min(axis=0).max() <= invalidation
    np.testing.assert_array_equal(skeleton.vertex_of_node[vertices], np.arange(len(skeleton)))


def test_equal_targets_are_taken_in_their_order() -> None:
    """Check that a star with equal arms has the same skeleton for every order of its edges."""
    arms = np.concatenate([np.arange(1, 11)[:, None] * 1000 * np.array(d) for d in np.eye(3, dtype=int)])
    star = np.concatenate([[[0, 0, 0]], arms])
    edges = np.concatenate(
        [
            [[0, 10 * a + 1] for a in range(3)],
            *([[[10 * a + i, 10 * a + i + 1] for i in range(1, 10)] for a in range(3)]),
        ]
    )
    first = skeletonize(graph_at(star, edges), 1500)
    for seed in range(5):
        again = skeletonize(graph_at(star, np.random.default_rng(seed).permutation(edges)), 1500)
        assert (first.root, first.parents.tolist()) == (again.root, again.parents.tolist())
    assert len(first.end_points) == 2
    assert len(first.branch_points) == 1


@pytest.mark.parametrize("invalidation", [500, 3000])
def test_the_compiled_loop_makes_the_same_skeletons(
    monkeypatch: pytest.MonkeyPatch, invalidation: float
) -> None:
    graphs = [graph_at(*random_tree(300, seed)) for seed in range(4)]
    monkeypatch.setattr(branches, "_compiled", [])
    plain = [skeletonize(graph, invalidation) for graph in graphs]
    branches.warm_up()
    for one, graph in zip(plain, graphs, strict=True):
        compiled = skeletonize(graph, invalidation)
        np.testing.assert_array_equal(compiled.parents, one.parents)
        np.testing.assert_array_equal(compiled.vertex_of_node, one.vertex_of_node)
    assert len(plain[0].branch_points) > 3


# ------------------------------------------------------------------ components
def test_components_do_not_change_each_other() -> None:
    trees = [random_tree(n, seed) for seed, n in enumerate((40, 200, 1, 90))]
    shift = np.cumsum([0, 40, 200, 1])
    positions = np.concatenate([np.add(p, [i * 10**6, 0, 0]) for i, (p, _) in enumerate(trees)])
    together = skeletonize(
        graph_at(positions, np.concatenate([e + s for (_, e), s in zip(trees, shift, strict=True)]))
    )
    check_is_forest(together)
    assert together.n_components == 4
    assert together.component[together.root] == 0
    sizes = [200, 90, 40, 1]
    for component, n in enumerate(sizes):
        index = [len(p) for p, _ in trees].index(n)
        alone = skeletonize(graph_at(positions[shift[index] : shift[index] + n], trees[index][1]))
        here = np.flatnonzero(together.component == component)
        np.testing.assert_array_equal(together.vertices[here], alone.vertices)
        parents = together.parents[here]
        np.testing.assert_array_equal(np.where(parents < 0, -1, parents - here[0]), alone.parents)


def test_components_are_joined_only_when_asked_and_marked() -> None:
    positions = np.concatenate([LINE, np.add(LINE, [45_000, 0, 0]), np.add(LINE, [45_000, 3000, 0])])
    graph = graph_at(positions, np.concatenate([ALONG, ALONG + 40, ALONG + 80]))
    apart, joined = skeletonize(graph), skeletonize(graph, join=True)
    assert (apart.n_components, np.count_nonzero(apart.parents < 0), apart.gaps.any()) == (3, 3, False)
    assert (joined.n_components, np.count_nonzero(joined.parents < 0), joined.gaps.sum()) == (3, 1, 2)
    check_is_forest(joined)
    gaps = np.stack([np.flatnonzero(joined.gaps), joined.parents[joined.gaps]], axis=1)
    distance = np.linalg.norm(np.diff(joined.vertices[gaps], axis=1)[:, 0], axis=1)
    assert sorted(distance.tolist()) == [3000, 6000]
    assert joined.path_length_nm == apart.path_length_nm == 3 * 39_000


@pytest.mark.parametrize("seed", range(3))
def test_gaps_are_the_minimum_spanning_tree_of_components(seed: int) -> None:
    from scipy.sparse.csgraph import minimum_spanning_tree
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(seed)
    positions, component = rng.normal(size=(300, 3)), rng.integers(0, 23, 300)
    gaps = gaps_between(positions, component)
    between = np.array(
        [
            [
                0 if a == b else cdist(positions[component == a], positions[component == b]).min()
                for b in range(23)
            ]
            for a in range(23)
        ]
    )
    assert len(gaps) == 22
    length = np.linalg.norm(positions[gaps[:, 0]] - positions[gaps[:, 1]], axis=1).sum()
    assert length == pytest.approx(minimum_spanning_tree(between).sum())


def test_components_at_the_same_place_are_joined() -> None:
    graph = graph_at(np.zeros((5, 3)), [])
    joined = skeletonize(graph, join=True)
    assert (np.count_nonzero(joined.parents < 0), joined.gaps.sum(), joined.path_length_nm) == (1, 4, 0)


# ------------------------------------------------------------------ little to follow
def test_a_root_of_one_node() -> None:
    skeleton = skeletonize(graph_at([[5, 6, 7]], []))
    assert (len(skeleton), skeleton.root, skeleton.parents.tolist()) == (1, 0, [-1])
    assert (skeleton.edges.shape, skeleton.path_length_nm) == ((0, 2), 0)
    assert (skeleton.end_points.tolist(), skeleton.branch_points.tolist()) == ([0], [])
    assert skeleton.vertices.tolist() == [[5, 6, 7]]
    assert skeleton.segment_radius_nm[0] == pytest.approx((0.75 * 1000 / np.pi) ** (1 / 3))
    collapsed = skeletonize(graph_at([[5, 6, 7]], []), root_point=(8, 6, 7), collapse_nm=10)
    assert (collapsed.l2_ids.tolist(), collapsed.vertices.tolist()) == ([0], [[8, 6, 7]])
    assert collapsed.vertex_of_node.tolist() == [0]


def test_a_root_without_edges() -> None:
    skeleton = skeletonize(graph_at(LINE, []))
    assert (len(skeleton), skeleton.n_components, len(skeleton.edges)) == (40, 40, 0)


def test_a_root_whose_nodes_are_all_missing() -> None:
    graph = graph_at(LINE, ALONG, missing=range(40))
    skeleton = skeletonize(graph)
    assert skeleton.interpolated.all()
    assert np.isnan(skeleton.radius_nm).all()
    assert np.isnan(skeleton.segment_radius_nm).all()
    chunk = graph.geometry.chunk_size[0]
    assert (np.abs(skeleton.vertices - LINE[ours_nodes(graph, skeleton)]) <= chunk).all()


def test_missing_nodes_are_interpolated_and_marked() -> None:
    graph = graph_at(LINE, ALONG, missing=[0, 10, 20, 21])
    positions = graph.positions
    np.testing.assert_array_equal(np.flatnonzero(graph.interpolated), [0, 10, 20, 21])
    assert positions[[0, 10, 20, 21]].tolist() == [
        [1000, 0, 1],
        [10_000, 0, 0],
        [19_000, 0, 0],
        [22_000, 0, 0],
    ]
    skeleton = skeletonize(graph)
    assert set(graph.node_ids[[0, 10]].tolist()) <= set(skeleton.l2_ids[skeleton.interpolated].tolist())
    assert len(skeleton) == 38, "two vertices lie where their neighbours do: they are merged"
    assert skeleton.path_length_nm == pytest.approx(38_000, abs=2)
    np.testing.assert_array_equal(np.unique(skeleton.vertex_of_node), np.arange(38))


def test_a_long_chain_of_missing_nodes_takes_the_centres_of_its_chunks() -> None:
    graph = graph_at(LINE, ALONG, missing=range(5, 40))
    assert graph.positions[5:15, 0].tolist() == [4000] * 10
    centres = LINE[15:, 0] // 256 * 256 + 128
    assert graph.positions[15:, 0].tolist() == centres.tolist()


# ------------------------------------------------------------------ radii
def test_radii_of_vertices_and_segments() -> None:
    """A path of 10 edges with a branch of 5 in its middle has three segments of 5 edges."""
    path = np.stack([np.arange(11) * 2000, np.zeros(11), np.zeros(11)], axis=1)
    branch = np.stack([np.full(5, 10_000), np.arange(1, 6) * 2000, np.zeros(5)], axis=1)
    edges = [*([i, i + 1] for i in range(10)), [5, 11], *([i, i + 1] for i in range(11, 15))]
    graph = graph_at(np.concatenate([path, branch]), edges)
    graph.rows.features["size_nm3"] = np.arange(1, 17) * 1000
    graph.rows.features["max_dt_nm"][:3] = [7, 65535, 9]
    graph.rows.present[4] = False
    skeleton = skeletonize(graph, 1000)
    assert skeleton.root == 0
    assert skeleton.branch_points.tolist() == [5]
    np.testing.assert_array_equal(skeleton.radius_nm[:5], [7, np.nan, 9, 50, np.nan])
    volumes = {(0, 6): 1 + 2 + 3 + 4 + 6, (6, 11): 7 + 8 + 9 + 10 + 11, (11, 16): 12 + 13 + 14 + 15 + 16}
    for (start, end), volume in volumes.items():
        expected = np.sqrt(1000 * volume / (np.pi * 10_000))
        np.testing.assert_allclose(skeleton.segment_radius_nm[start:end], expected)


def test_a_collapsed_soma_is_a_sphere_with_the_largest_radius() -> None:
    graph = graph_at(LINE, ALONG)
    graph.rows.features["max_dt_nm"][20] = 444
    skeleton = skeletonize(graph, root_point=LINE[20] + [0, 100, 0], collapse_nm=2500)
    soma = skeleton.root
    assert (soma, skeleton.l2_ids[soma], skeleton.radius_nm[soma]) == (len(skeleton) - 1, 0, 444)
    assert skeleton.vertices[soma].tolist() == [20_000, 100, 0]
    inside = np.count_nonzero(skeleton.vertex_of_node == soma)
    assert inside == 7, "5 within the sphere, and one at each of the edges that leave it"
    assert skeleton.segment_radius_nm[soma] == pytest.approx((0.75 * 1000 * inside / np.pi) ** (1 / 3))
    assert not (skeleton.segment_radius_nm[:-1] == skeleton.segment_radius_nm[soma]).any()


# ------------------------------------------------------------------ limits
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"invalidation_nm": 0}, "invalidation_nm 0: expected a positive number"),
        ({"invalidation_nm": float("nan")}, "invalidation_nm nan: expected a positive number"),
        ({"root_point": (1, 2)}, r"root_point \(1, 2\): expected x, y and z in nm"),
        ({"root_point": (1, 2, float("inf"))}, "expected x, y and z in nm"),
        ({"root_point": (1, 2, 3), "collapse_nm": -1}, "collapse_nm -1: expected 0 or a positive number"),
        ({"collapse_nm": 5}, "collapse_nm 5 without root_point: expected both"),
    ],
)
def test_parameters_that_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        skeletonize(graph_at(LINE, ALONG), **options)


def test_a_graph_without_nodes_is_refused() -> None:
    graph = graph_at(LINE, ALONG)
    empty = replace(graph, node_ids=graph.node_ids[:0], edges=graph.edges[:0], rows=graph.rows[:0])
    with pytest.raises(ValueError, match=f"root {graph.root_id} has no nodes: expected one or more"):
        skeletonize(empty)


def test_memory_grows_with_the_number_of_nodes() -> None:
    graph = graph_at(*random_tree(3000, seed=5))
    tracemalloc.start()
    skeleton = skeletonize(graph)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(skeleton.end_points) > 20
    assert peak < 2000 * len(graph)
