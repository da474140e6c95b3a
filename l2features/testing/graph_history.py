"""Tests of what frozen versions read from a graph: the nodes valid at a time, and the roots that changed.

The tests of a graph source inherit from `GraphHistorySuite` and define the fixtures ``graph``, ``geometry``
and ``history``, a `KnownHistory`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import combinations_with_replacement, pairwise
from typing import ClassVar

import numpy as np
import pytest

from ..core.chunks import ChunkBox, whole_box
from ..core.geometry import Geometry, as_triple
from ..core.ids import as_ids
from ..graph.base import Graph, NodeRoots


@dataclass(frozen=True)
class KnownRoot:
    """When a root was made and retired (ms since 1970), and its L2 nodes."""

    created_ms: int
    retired_ms: int | None
    l2_ids: tuple[int, ...]

    def valid(self, ms: int) -> bool:
        return self.created_ms <= ms and (self.retired_ms is None or ms < self.retired_ms)


@dataclass(frozen=True)
class KnownHistory:
    """All roots that a graph ever had."""

    roots: Mapping[int, KnownRoot]

    @property
    def edits_ms(self) -> list[int]:
        """Times at which roots were made or retired, sorted."""
        times = {time for root in self.roots.values() for time in (root.created_ms, root.retired_ms)}
        return sorted(time for time in times if time is not None)

    def nodes(self, ms: int) -> dict[int, int]:
        """Return the root of each L2 node that is valid at ``ms`` (ms since 1970)."""
        valid = {root: known for root, known in self.roots.items() if known.valid(ms)}
        return {node: root for root, known in valid.items() for node in known.l2_ids}

    def changed(self, since_ms: int, until_ms: int) -> tuple[list[int], list[int]]:
        """Return two sorted lists: roots valid only at ``since_ms``, and roots valid only at ``until_ms``."""
        before, after = (
            {root for root, known in self.roots.items() if known.valid(ms)} for ms in (since_ms, until_ms)
        )
        return sorted(before - after), sorted(after - before)


class GraphHistorySuite:
    """Tests of `Graph.valid_nodes` and `Graph.changed_roots` on a graph with a known history."""

    every: ClassVar[int] = 1
    """Test only one edit in this many, for a graph that answers slowly."""

    def test_nodes_that_are_valid_before_at_and_after_each_edit(
        self, graph: Graph, geometry: Geometry, history: KnownHistory
    ) -> None:
        counts = set()
        for ms in around(history.edits_ms[:: self.every]):
            found = roots_by_node(graph.valid_nodes(geometry, whole_box(geometry.grid), at(ms)))
            assert found == history.nodes(ms), ms
            counts.add(len(found))
        assert 0 in counts
        assert len(counts) > 1

    @pytest.mark.parametrize("seed", range(4))
    def test_boxes_together_have_the_nodes_of_the_grid(
        self, graph: Graph, geometry: Geometry, history: KnownHistory, seed: int
    ) -> None:
        """Boxes are single chunks, aligned blocks, or random boxes. Only random boxes exceed the grid."""
        random = np.random.default_rng(seed)
        for ms in random.choice(history.edits_ms, 3).tolist():
            found: dict[int, int] = {}
            for box in boxes_of(geometry, random, seed):
                nodes = roots_by_node(graph.valid_nodes(geometry, box, at(ms)))
                assert not found.keys() & nodes.keys()
                assert all(inside(geometry, box, node) for node in nodes)
                found |= nodes
            assert found == history.nodes(ms)

    def test_boxes_without_chunks_have_no_nodes(self, graph: Graph, geometry: Geometry) -> None:
        x, y, z = geometry.grid
        for box in (ChunkBox((0, 0, 0), (0, y, z)), ChunkBox((x, 0, 0), (x + 3, y, z))):
            found = graph.valid_nodes(geometry, box, datetime.now(UTC))
            assert [ids.tolist() for ids in found] == [[], []]
            assert {ids.dtype for ids in found} == {np.dtype(np.uint64)}

    def test_roots_that_changed_between_each_two_edits(
        self, graph: Graph, geometry: Geometry, history: KnownHistory
    ) -> None:
        ingest, *edits = history.edits_ms[:: self.every]
        times = [ingest, *around(edits)]
        for since, until in [*combinations_with_replacement([ingest, *edits], 2), *pairwise(times)]:
            found = graph.changed_roots(geometry, at(since), at(until))
            assert tuple(ids.tolist() for ids in found) == history.changed(since, until), (since, until)
            assert {ids.dtype for ids in found} == {np.dtype(np.uint64)}


def at(ms: int) -> datetime:
    """Convert milliseconds since 1970 to a time."""
    return datetime.fromtimestamp(ms // 1000, UTC) + timedelta(milliseconds=ms % 1000)


def around(times_ms: Iterable[int]) -> list[int]:
    """Return these times, and the milliseconds before and after each."""
    return sorted({ms + shift for ms in times_ms for shift in (-1, 0, 1)})


def roots_by_node(found: NodeRoots) -> dict[int, int]:
    """Return the roots by node. Raises AssertionError unless the nodes ascend."""
    assert (found.l2_ids[1:] > found.l2_ids[:-1]).all()
    return dict(zip(found.l2_ids.tolist(), found.roots.tolist(), strict=True))


def boxes_of(geometry: Geometry, random: np.random.Generator, step: int) -> list[ChunkBox]:
    """Cut the grid into boxes at multiples of ``step``; 0 cuts at random and lets boxes exceed the grid."""
    cuts = []
    for n in geometry.grid:
        inner = np.arange(step, n, step) if step else random.permutation(n)[: n // 2]
        cuts.append(sorted({0, *inner.tolist(), n + (0 if step else 2)}))
    return [
        ChunkBox(as_triple(start), as_triple(stop))
        for start, stop in (
            zip(*sides, strict=True)
            for sides in (
                (a, b, c) for a in pairwise(cuts[0]) for b in pairwise(cuts[1]) for c in pairwise(cuts[2])
            )
        )
    ]


def inside(geometry: Geometry, box: ChunkBox, node: int) -> bool:
    """Return whether a node's chunk lies in a box."""
    chunk = geometry.layout.chunk_coordinates(as_ids([node]))[0]
    return bool(((chunk >= box.start) & (chunk < box.stop)).all())
