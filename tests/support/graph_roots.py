"""Helpers that convert recorded roots to what `Graph` methods return, and check graphs against them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from l2features.core.geometry import Geometry
from l2features.core.ids import IdLayout, as_ids
from l2features.core.schema import FEATURES, NAMES
from l2features.graph.base import Graph, RootHistory
from l2features.testing.graph_history import KnownHistory, KnownRoot
from tests.support.jobs import Recordings

MOST = 1_000
LAYOUTS = {"fixture_v2": IdLayout({1: 10, 2: 10}), "fixture_v1": IdLayout({1: 8, 2: 2})}
GEOMETRIES = {
    name: Geometry((16, 16, 40), (1024, 512, 20), (160, 128, 48), (64, 64, 32), layout)
    for name, layout in LAYOUTS.items()
}
GEOMETRY = GEOMETRIES["fixture_v2"]
UNKNOWN_ROOT = (4 << 56) + 999_999


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // 1000, UTC) + timedelta(milliseconds=ms % 1000)


def roots_of_recording(recordings: Recordings) -> dict[int, dict[str, Any]]:
    return {int(root): entry for root, entry in recordings.json("roots.json")["roots"].items()}


def features_of_recording(recordings: Recordings) -> np.ndarray:
    recorded = recordings.json("features.json")["features"]
    rows = np.zeros(len(recorded), FEATURES)
    for row, (node, values) in zip(rows, recorded.items(), strict=True):
        row["label"] = int(node)
        for name in NAMES:
            if values[name]:
                row[name] = values[name]
        row["has_pca"] = bool(values["pca_val"])
    return rows


def history_of(entry: dict[str, Any]) -> RootHistory:
    retired = entry["retired_ms"]
    return RootHistory(
        at(entry["created_ms"]),
        None if retired is None else at(retired),
        tuple(sorted(entry["successors"])),
        tuple(sorted(entry["predecessors"])),
    )


def in_order(history: RootHistory) -> RootHistory:
    return history._replace(
        successors=tuple(sorted(history.successors)), predecessors=tuple(sorted(history.predecessors))
    )


def pairs_of(edges: Any) -> list[tuple[int, ...]]:
    """Return edges as graphs do: unique and sorted, each with its lower id first."""
    return sorted({tuple(sorted(edge)) for edge in edges})


def check_roots(graph: Graph, recordings: Recordings, geometry: Geometry = GEOMETRY) -> None:
    """Check that a graph returns the recorded nodes, edges and histories of all recorded roots."""
    recorded = roots_of_recording(recordings)
    shuffled = np.random.default_rng(1).permutation(as_ids([*recorded]))
    found = graph.root_nodes(geometry, shuffled, MOST)
    assert (found.too_large, found.errors) == ({}, {})
    assert {root: ids.tolist() for root, ids in found.l2_ids.items()} == {
        root: sorted(entry["l2_ids"]) for root, entry in recorded.items()
    }
    edges = graph.root_edges(geometry, found.l2_ids)
    assert {root: [tuple(pair) for pair in pairs.tolist()] for root, pairs in edges.items()} == {
        root: pairs_of(entry["l2_edges"]) for root, entry in recorded.items()
    }
    histories = graph.histories(geometry, shuffled)
    assert {root: in_order(history) for root, history in histories.items()} == {
        root: history_of(entry) for root, entry in recorded.items()
    }


def check_roots_at_times(graph: Graph, recordings: Recordings, geometry: Geometry = GEOMETRY) -> None:
    """Check the root of each recorded L2 id at three times. Ids that are not recorded must have no root."""
    recording = recordings.json("roots.json")
    every = as_ids([int(i) for i in recordings.json("l2_children.json")["l2"]])
    others = as_ids([0, UNKNOWN_ROOT, int(every.max()) + 1_000, (1 << 56) + 1])
    ids = np.concatenate([every, others, every[:3]])
    counts = []
    for when in ("t0", "tm", "t1"):
        expected = {int(i): root for i, root in recording["l2_to_root"][when].items()}
        found = graph.roots_of(geometry, ids, at(recording[f"{when}_ms"]))
        assert found.tolist() == [expected.get(i, 0) for i in ids.tolist()], when
        counts.append(len(expected))
    assert counts == [159, 157, 166]
    long_ago = graph.roots_of(geometry, every, datetime(2020, 1, 1, tzinfo=UTC))
    assert not long_ago.any()


def known_history(recordings: Recordings) -> KnownHistory:
    return KnownHistory(
        {
            root: KnownRoot(entry["created_ms"], entry["retired_ms"], tuple(entry["l2_ids"]))
            for root, entry in roots_of_recording(recordings).items()
        }
    )
