"""Tests of summaries of the recorded roots, in both stores: their values, and when they are cached."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import pytest

from l2features.core.ids import Ids, as_ids
from l2features.graph.bigtable import BigtableGraph
from l2features.neurons.neuron_reader import NeuronReader
from l2features.neurons.root_summaries import RootStatus, Summaries
from l2features.query.reader import Reader
from l2features.store.base import Meta, Store, open_store
from l2features.store.rewrites import Rewriting, end_rewrites
from l2features.testing.stores import INSTANCE, PROJECT, NewStore, forget
from tests.support.graph_roots import GEOMETRY, UNKNOWN_ROOT, features_of_recording, roots_of_recording
from tests.support.jobs import Recordings

GRAPH = f"bigtable://{PROJECT}/{INSTANCE}/fixture_v2"
VOXEL_NM3 = 16 * 16 * 40
READY, INCOMPLETE, UNKNOWN, *_ = RootStatus


@pytest.fixture
def features(recordings: Recordings) -> np.ndarray:
    return features_of_recording(recordings)


@pytest.fixture
def table(new_store: NewStore, features: np.ndarray) -> Store:
    store = new_store()
    store.create(Meta("fixture_v2", "graphene://x", "2026-11-21 00:27:44", GEOMETRY))
    store.write(features)
    return store


class Calls(BigtableGraph):
    calls = 0

    def root_nodes(self, *arguments: Any) -> Any:
        self.calls += 1
        return super().root_nodes(*arguments)

    def root_edges(self, *arguments: Any) -> Any:
        self.calls += 1
        return super().root_edges(*arguments)


class Process:
    """The store, graph and reader of one process."""

    def __init__(self, store: Store, stack: ExitStack) -> None:
        self.store = stack.enter_context(closing(open_store(store.url, store.name)))
        self.graph = stack.enter_context(closing(Calls(GRAPH)))
        self.reader = NeuronReader(Reader(self.store, GEOMETRY), self.graph, keep=True)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def check(found: Summaries, recordings: Recordings, lost: Ids = as_ids([])) -> None:  # noqa: B008
    """Compare the summaries with plain Python sums over the recorded features."""
    roots, features = roots_of_recording(recordings), recordings.json("features.json")["features"]
    gone = set(lost.tolist())
    for root, status, summary in zip(found.roots.tolist(), found.status, found.summary, strict=True):
        nodes = roots[root]["l2_ids"]
        rows = [features[str(node)] for node in nodes if node not in gone]
        assert summary["n_nodes"] == len(nodes)
        assert summary["n_missing"] == len(nodes) - len(rows)
        assert summary["size_nm3"] == sum(row["size_nm3"] for row in rows) * VOXEL_NM3
        assert summary["area_nm2"] == sum(row["area_nm2"] for row in rows)
        assert status == (READY if len(rows) == len(nodes) else INCOMPLETE)
    assert set(found.missing.tolist()) == gone


def test_every_root_equals_the_sums_over_its_nodes(
    table: Store, recordings: Recordings, stack: ExitStack
) -> None:
    roots = as_ids([*roots_of_recording(recordings)])
    first, second = Process(table, stack), Process(table, stack)
    found = first.reader.summaries(roots)
    check(found, recordings)
    assert (len(roots), first.graph.calls) == (77, 1)
    again = second.reader.summaries(roots)
    assert second.graph.calls == 0
    assert again.summary.tobytes() == found.summary.tobytes()
    unknown = second.reader.summaries(as_ids([UNKNOWN_ROOT, *roots]))
    assert unknown.status.tolist() == [UNKNOWN, *[READY] * len(roots)]
    assert second.graph.calls == 1


def test_a_root_is_complete_when_its_rows_are_written_again(
    table: Store, features: np.ndarray, recordings: Recordings, stack: ExitStack
) -> None:
    roots = as_ids([*roots_of_recording(recordings)])
    lost = np.sort(features["label"][::17])
    forget(table, lost)
    for _ in range(2):
        check(Process(table, stack).reader.summaries(roots), recordings, lost)
    table.write(features)
    check(Process(table, stack).reader.summaries(roots), recordings)
    process = Process(table, stack)
    check(process.reader.summaries(roots), recordings)
    assert process.graph.calls == 0


def test_rows_that_are_computed_again_change_the_summaries(
    table: Store, features: np.ndarray, recordings: Recordings, stack: ExitStack
) -> None:
    roots, processes = as_ids([*roots_of_recording(recordings)]), [Process(table, stack) for _ in range(2)]
    wrong = features.copy()
    wrong["size_nm3"] += 1
    table.write(wrong)
    assert {len(p.reader.summaries(roots).missing) for p in processes} == {0}
    with Rewriting(table).open():
        table.write(features)
        for process in processes:
            check(process.reader.summaries(roots), recordings)
    end_rewrites(table)
    for process in processes:
        check(process.reader.summaries(roots), recordings)
    assert [p.graph.calls for p in processes] == [1, 0]  # L2 ids are kept


KILLED = """
import os, sys
from l2features.graph.bigtable import BigtableGraph
from l2features.neurons.neuron_reader import NeuronReader
from l2features.query.reader import Reader
from l2features.store.base import open_store
from l2features.core.ids import as_ids

url, name, graph, left, *roots = sys.argv[1:]
store = open_store(url, name)
put, left = store.put_root_cells, int(left)

def put_or_die(cells):
    global left
    if left == 0:
        os._exit(9)
    left -= 1
    put(cells)

store.put_root_cells = put_or_die
reader = NeuronReader(Reader(store, store.geometry()), BigtableGraph(graph), keep=True)
reader.summaries(as_ids([int(root) for root in roots]), with_graph=True)
"""


@pytest.mark.parametrize("left", [1, 2])
def test_a_process_that_is_killed_between_its_writes(
    table: Store, recordings: Recordings, stack: ExitStack, left: int
) -> None:
    roots = as_ids([*roots_of_recording(recordings)])
    arguments = (table.url, table.name, GRAPH, left, *roots.tolist())
    dead = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], timeout=120, check=False)
    assert dead.returncode == 9
    process = Process(table, stack)
    found = process.reader.summaries(roots, with_graph=True)
    check(found, recordings)
    assert process.graph.calls == (1 if left == 1 else 0)  # the edges, or the L2 ids; nothing
    recorded = roots_of_recording(recordings)
    assert found.summary["n_edges"].tolist() == [
        len({tuple(sorted(edge)) for edge in recorded[root]["l2_edges"]}) for root in roots.tolist()
    ]


def test_processes_may_keep_the_same_roots_at_once(
    table: Store, recordings: Recordings, stack: ExitStack
) -> None:
    roots = as_ids([*roots_of_recording(recordings)])
    arguments = list(map(str, (table.url, table.name, GRAPH, -1, *roots.tolist())))
    running = [subprocess.Popen([sys.executable, "-c", KILLED, *arguments]) for _ in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    process = Process(table, stack)
    check(process.reader.summaries(roots, with_graph=True), recordings)
    assert process.graph.calls == 0


def cells_of(store: Store, roots: Ids) -> Mapping[int, Mapping[str, bytes]]:
    return store.root_cells(roots, ["l2_ids", "edges", "summary", "graph_summary"])


def test_nothing_is_kept_of_roots_that_are_unknown_or_too_large(
    table: Store, recordings: Recordings, stack: ExitStack
) -> None:
    recorded, process = roots_of_recording(recordings), Process(table, stack)
    large = [root for root, entry in recorded.items() if len(entry["l2_ids"]) > 10]
    process.reader.most_nodes = 10
    found = process.reader.summaries(as_ids([UNKNOWN_ROOT, *large]))
    assert found.sizes.keys() == set(large) != set()
    assert cells_of(table, found.roots) == {}
