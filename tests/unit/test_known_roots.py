"""Tests of the cache of nodes' roots, and of walks from nodes up to their highest known ancestors."""

from __future__ import annotations

import numpy as np
import pytest

from l2features.core.errors import GraphError
from l2features.core.ids import IdLayout, Ids, as_ids
from l2features.graph.known_roots import KnownRoots
from l2features.graph.root_walk import ascend, highest_among

LAYOUT = IdLayout()
TOP = 6


class Reads:
    """Return each id times ten as its root, and record the ids that were read."""

    def __init__(self) -> None:
        self.ids: list[list[int]] = []

    def __call__(self, ids: Ids) -> Ids:
        self.ids.append(ids.tolist())
        return ids * np.uint64(10)


def test_a_root_is_read_once() -> None:
    known, read = KnownRoots(), Reads()
    assert known.roots(as_ids([5, 7]), read).tolist() == [50, 70]
    assert known.roots(as_ids([3, 5, 6, 7, 9]), read).tolist() == [30, 50, 60, 70, 90]
    assert known.roots(as_ids([3, 9]), read).tolist() == [30, 90]
    assert known.roots(as_ids([]), read).tolist() == []
    assert read.ids == [[5, 7], [3, 6, 9]]
    assert len(known) == 5


def test_the_least_recently_used_ids_are_dropped() -> None:
    known, read = KnownRoots(most=3), Reads()
    for ids in ([1, 2], [3], [1], [4], [1, 3, 4]):
        known.roots(as_ids(ids), read)
    assert read.ids == [[1, 2], [3], [4]]
    assert known.roots(as_ids([2]), read).tolist() == [20]
    assert read.ids[-1] == [2]
    assert known.roots(as_ids(list(range(100, 200))), read)[-1] == 1990
    assert len(known) == 3


def test_a_failed_read_leaves_the_cache_as_it_was() -> None:
    known, read = KnownRoots(), Reads()
    known.roots(as_ids([1]), read)

    def fail(ids: Ids) -> Ids:
        raise GraphError("gone")

    with pytest.raises(GraphError, match="gone"):
        known.roots(as_ids([1, 2]), fail)
    assert known.roots(as_ids([1, 2]), read).tolist() == [10, 20]
    assert read.ids == [[1], [2]]


@pytest.mark.parametrize("seed", range(5))
def test_walks_end_where_the_nodes_do(seed: int) -> None:
    """Parents lie in any higher layer. About half of the nodes of layers 3 and 4 have no known parent."""
    random = np.random.default_rng(seed)
    layers = [
        (np.uint64(layer) << np.uint64(56)) + np.arange(1, 200, dtype=np.uint64) for layer in (2, 3, 4, 5)
    ]
    parents: dict[int, int] = {}
    for i, ids in enumerate(layers[:-1]):
        above = np.concatenate(layers[i + 1 :])
        parents |= dict(zip(ids.tolist(), random.choice(above, len(ids)).tolist(), strict=True))
    known = {node: p for node, p in parents.items() if node >> 56 == 2 or random.random() < 0.5}
    nodes = as_ids(sorted(known))
    found = highest_among(LAYOUT.layers, nodes, as_ids([known[node] for node in nodes.tolist()]))

    def read(ids: Ids) -> Ids:
        return as_ids([known.get(node, 0) for node in ids.tolist()])

    assert found.tolist() == ascend(read, LAYOUT.layers, nodes, TOP).tolist()
    assert len(set(LAYOUT.layers(found).tolist())) == 3


def test_walks_refuse_a_parent_of_no_higher_layer() -> None:
    nodes = as_ids([2 << 56, 3 << 56])
    assert highest_among(LAYOUT.layers, nodes[:0], nodes[:0]).tolist() == []
    with pytest.raises(GraphError, match=f"node {3 << 56}: parent {2 << 56} is not of a higher layer"):
        highest_among(LAYOUT.layers, nodes, nodes[::-1])


def test_a_walk_does_not_read_the_parents_of_roots() -> None:
    read = Reads()
    roots = as_ids([TOP << 56, (TOP << 56) + 1])
    assert ascend(read, LAYOUT.layers, roots, TOP).tolist() == roots.tolist()
    assert read.ids == []
