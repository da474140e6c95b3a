"""Tests of the layers above L2 nodes, and of the parts into which an object can be split."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from l2features.core.geometry import Chunk, Geometry
from l2features.core.ids import IdLayout, Ids, as_ids
from l2features.local.sample.hierarchy import cross_layers, nodes_of, parents_above, upper_layout
from l2features.local.sample.objects import parts_of
from l2features.local.sample.segmentation_files import SampleChunk
from l2features.local.sample.touching import Touching

LAYOUT = IdLayout({1: 10, 2: 10})
LINE = Geometry((1.0, 1.0, 1.0), (0, 0, 0), (8, 1, 1), (1, 1, 1), LAYOUT)
"""Eight chunks in a row: the roots are of layer 5."""


def supervoxel(x: int, number: int = 1) -> int:
    return LAYOUT.chunk_id(x, 0, 0, layer=1) + number


def node(x: int, number: int = 1) -> int:
    return LAYOUT.chunk_id(x, 0, 0) + number


def named(chunk_id: int, made: Counter[int]) -> int:
    made[chunk_id] += 1
    return chunk_id + made[chunk_id]


def tree(nodes: list[int], ends: list[tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
    """Return the children of each node above layer 2, by its layer and its chunk's x."""
    pairs = np.array(ends, dtype=np.uint64).reshape(-1, 2)
    supervoxels = pairs - np.uint64(1 << 56)
    made: Counter[int] = Counter()
    found = parents_above(
        LINE, as_ids(nodes), pairs, cross_layers(LINE, supervoxels), lambda chunk, _: named(chunk, made)
    )
    layout = upper_layout(LINE)
    return {
        (parent >> 56, int(layout.chunk_coordinates(as_ids([parent]))[0, 0])): children.tolist()
        for parent, children in found
    }


def test_layers_of_edges_are_the_last_in_which_the_chunks_differ() -> None:
    pairs = [(0, 0), (0, 1), (1, 2), (3, 4), (5, 6)]
    ids = np.array([[supervoxel(a), supervoxel(b, 2)] for a, b in pairs], dtype=np.uint64)
    assert cross_layers(LINE, ids).tolist() == [1, 2, 3, 4, 3]
    assert cross_layers(LINE, ids[:0]).tolist() == []


def test_a_lone_node_skips_to_the_roots() -> None:
    assert tree([node(5)], []) == {(5, 0): [node(5)]}


def test_a_chain_nests_by_two() -> None:
    found = tree([node(x) for x in range(8)], [(node(x), node(x + 1)) for x in range(7)])
    assert {key: len(children) for key, children in found.items()} == {
        **{(3, x): 2 for x in range(4)},
        (4, 0): 2,
        (4, 1): 2,
        (5, 0): 2,
    }
    assert found[3, 2] == [node(4), node(5)]


def test_a_node_skips_to_the_layer_of_its_first_edge() -> None:
    """The nodes' chunks differ up to layer 4, so their edge is of layer 4. Layer 3 has no parents."""
    found = tree([node(3), node(4)], [(node(3), node(4))])
    assert found == {(4, 0): [node(3)], (4, 1): [node(4)], (5, 0): found[5, 0]}
    assert {child >> 56 for child in found[5, 0]} == {4}


def test_nodes_that_nothing_connects_have_roots_of_their_own() -> None:
    ends = np.empty((0, 2), dtype=np.uint64)
    made: Counter[int] = Counter()
    nodes = as_ids([node(0), node(0, 2), node(1)])
    none = np.empty(0, dtype=np.int64)
    found = dict(parents_above(LINE, nodes, ends, none, lambda chunk, _: named(chunk, made)))
    assert [children.tolist() for children in found.values()] == [[i] for i in nodes.tolist()]


def test_nodes_of_supervoxels() -> None:
    children = {7: as_ids([3, 1]), 8: as_ids([2])}
    assert nodes_of(children, as_ids([1, 2, 3, 4, 0])).tolist() == [7, 8, 7, 0, 0]
    assert nodes_of({}, as_ids([1])).tolist() == [0]


@pytest.mark.parametrize(
    ("edges", "parts"),
    [
        ([], [[1], [2], [3]]),
        ([(1, 0), (2, 4)], [[1], [2], [3]]),
        ([(1, 0), (2, 0), (3, 4)], [[1, 2], [3]]),
        ([(1, 0), (2, 4), (0, 4)], [[1, 2], [3]]),
        ([(1, 0), (2, 0), (3, 0)], [[1, 2, 3]]),
    ],
)
def test_parts_that_only_a_node_connects(edges: list[tuple[int, int]], parts: list[list[int]]) -> None:
    """Supervoxels 1 to 3 are one node in chunk 2. Chunks 0 and 4 each have a node of one supervoxel."""
    ids = {number: supervoxel(2, number) for number in (1, 2, 3)} | {x: supervoxel(x) for x in (0, 4)}
    both = [(ids[a], ids[b]) for pair in edges for a, b in (pair, pair[::-1])]
    others = {node(x): as_ids([ids[x]]) for x in (0, 4)}
    own = as_ids([ids[number] for number in (1, 2, 3)])
    found = parts_of(own, others, np.array(both, dtype=np.uint64).reshape(-1, 2))
    assert sorted(part.tolist() for part in found) == [[ids[n] for n in part] for part in parts]


def chunk_of(x: int, labels: list[list[int]]) -> SampleChunk:
    array: Ids = np.array([labels], dtype=np.uint64)
    place = np.array([x, 0, 0])
    return SampleChunk(Chunk(x, 0, 0), place, place + array.shape, array, {})


def test_touching_supervoxels_across_faces() -> None:
    touching = Touching((3, 1, 1))
    touching.add(chunk_of(0, [[1, 1], [0, 2]]))
    touching.add(chunk_of(1, [[3, 3], [3, 4]]))
    touching.add(chunk_of(2, [[0, 5], [5, 0]]))
    assert touching.pairs().tolist() == [[1, 3], [2, 4], [3, 5]]
    assert Touching((1, 1, 1)).pairs().shape == (0, 2)
