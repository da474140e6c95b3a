"""Tests of the nodes and the graph of one root, and of simultaneous requests for it."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from l2features.core.ids import as_ids
from l2features.core.rows import Rows
from l2features.neurons.neuron_summary import GRAPH_SUMMARIES, SUMMARIES
from l2features.neurons.root_summaries import RootError, RootStatus
from l2features.query.cache import RowCache
from l2features.query.reader import Status
from l2features.store.rewrites import end_rewrites
from tests.support.known_roots import (
    FIRST_ROOT,
    KnownGraph,
    chain,
)
from tests.support.neuron_setting import (
    INCOMPLETE,
    NOT_A_ROOT,
    READY,
    ROOTS,
    TOO_LARGE,
    UNKNOWN,
    Setting,
    check,
    setting,
)
from tests.support.shared_calls import when_shared

__all__ = ["setting"]


def test_nodes_of_a_root(setting: Setting) -> None:
    (root, ids), *_ = ROOTS.items()
    setting.table.delete(ids[:1])
    for reader in (setting.reader(1_000_000), setting.reader()):
        answer = reader.nodes(root, ("size_nm3", "pca"))
        assert answer.rows.ids.tolist() == ids.tolist()
        assert answer.missing.tolist() == ids[:1].tolist()
        assert (answer.status == Status.EMPTY).any()
        assert answer.rows.present.any(axis=0).sum() == 2
    assert setting.uses()[0] == ["root_nodes"]


@pytest.mark.parametrize(
    ("root", "status", "size"),
    [
        (FIRST_ROOT + 999, UNKNOWN, 0),
        (int(next(iter(ROOTS.values()))[0]), NOT_A_ROOT, 0),
        (list(ROOTS)[3], TOO_LARGE, 101),
    ],
)
def test_a_root_without_nodes(setting: Setting, root: int, status: RootStatus, size: int) -> None:
    reader = setting.reader(most_nodes=100)
    for use in (reader.nodes, reader.graph, reader.skeleton):
        with pytest.raises(RootError, match=f"root {root}: ") as raised:
            use(root)
        assert (raised.value.root, raised.value.status, raised.value.size) == (root, status, size)


def test_threads_share_a_reader(setting: Setting) -> None:
    reader, barrier = setting.reader(20_000, RowCache(100)), threading.Barrier(8)
    expected = setting.reader(keep=False).summaries(as_ids(list(ROOTS))).summary.tobytes()

    def use(_: int) -> bool:
        barrier.wait()
        return all(reader.summaries(as_ids(list(ROOTS))).summary.tobytes() == expected for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(8)))


def test_measures_of_graphs_are_kept_with_the_sums(setting: Setting) -> None:
    roots = as_ids(list(ROOTS))
    found = setting.reader().summaries(roots, with_graph=True)
    check(setting, found)
    assert found.summary.dtype == GRAPH_SUMMARIES
    assert found.summary["n_edges"].tolist() == [len(ids) - 1 for ids in ROOTS.values()]
    assert setting.uses() == (["root_nodes", "root_edges"], 1)
    again = setting.reader().summaries(roots, with_graph=True)
    assert again.summary.tobytes() == found.summary.tobytes()
    assert setting.reader().summaries(roots).summary.dtype == SUMMARIES
    assert setting.uses() == ([], 0)
    end_rewrites(setting.table)  # type: ignore[arg-type]
    check(setting, setting.reader().summaries(roots, with_graph=True))
    assert setting.uses() == ([], 1)


def test_sums_that_are_kept_have_no_measures_of_graphs(setting: Setting) -> None:
    roots = as_ids(list(ROOTS))
    reader = setting.reader(1_000_000)
    reader.summaries(roots)
    assert (
        reader.summaries(roots, with_graph=True).summary["n_edges"].sum() == sum(map(len, ROOTS.values())) - 5
    )
    assert setting.uses() == (["root_nodes", "root_edges"], 2)


def test_the_graph_of_a_root(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    (root, ids), (other, _), *_ = ROOTS.items()
    for reader in (setting.reader(), setting.reader()):
        graph = reader.graph(root)
        assert graph.node_ids.tolist() == ids.tolist()
        assert graph.node_ids[graph.edges].tolist() == chain(ids).tolist()
        assert graph.rows.ids.tolist() == ids.tolist()
        assert graph.component.tolist() == [0] * len(ids)
        assert len(reader.skeleton(root, invalidation_nm=1.0)) > 1
    assert setting.uses()[0] == ["root_nodes", "root_edges"]
    setting.reader().graph(other)
    setting.table.cells[other]["edges"] = setting.table.cells[root]["edges"]  # valid, but not its own
    with caplog.at_level(logging.WARNING):
        assert len(setting.reader().graph(other).edges) == len(ROOTS[other]) - 1
    assert f"root {other}: cached edges do not fit the root's nodes" in caplog.text


def test_an_edge_to_another_root_is_an_error(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    (root, ids), (other, others), *_ = ROOTS.items()
    pairs = {root: np.array([[ids[0], others[-1]]]), other: chain(others)}
    monkeypatch.setattr(setting.graph, "root_edges", lambda *_: pairs)
    with pytest.raises(RootError, match=f"root {root} has an edge to node {others[-1]}") as error:
        setting.reader().graph(root)
    assert error.value.status == UNKNOWN
    found = setting.reader().summaries(as_ids([root, other]), with_graph=True)
    assert found.status.tolist() == [UNKNOWN, READY]


def test_malformed_edges_fail_only_their_root(setting: Setting) -> None:
    roots, bad = list(ROOTS), list(ROOTS)[1]
    expected = setting.reader(keep=False).summaries(as_ids(roots), with_graph=True)
    setting.graph.bad_edges = {bad: "node 5: cross-chunk edges have 7 bytes: expected 8 per id"}
    for _ in range(2):  # the second is from what was kept
        found = setting.reader().summaries(as_ids(roots), with_graph=True)
        assert found.status.tolist() == [UNKNOWN if root == bad else READY for root in roots]
        assert found.reasons == setting.graph.bad_edges
        others = found.roots != bad
        assert found.summary[others].tobytes() == expected.summary[others].tobytes()
    for read in (setting.reader().edges, setting.reader().graph, setting.reader().skeleton):
        with pytest.raises(RootError, match=f"root {bad}: node 5: cross-chunk edges have 7 bytes") as error:
            read(bad)
        assert error.value.status == UNKNOWN
    assert setting.reader().summaries(as_ids([bad])).status.tolist() == [READY]


# ------------------------------------------------------------------ at once
@pytest.mark.parametrize("read", ["summaries", "graph", "edges", "l2_ids"])
def test_requests_at_once_share_one_computation(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """The first request blocks in its read until the second one waits for its result. Nothing is stored."""
    root, original = next(iter(ROOTS)), KnownGraph.root_nodes
    reading, waiting = threading.Event(), when_shared(monkeypatch)

    def slow(graph: KnownGraph, *arguments: Any) -> Any:
        reading.set()
        assert waiting.wait(30)
        return original(graph, *arguments)

    monkeypatch.setattr(KnownGraph, "root_nodes", slow)
    reader = setting.reader(keep=False)
    use = (
        (lambda: reader.summaries(as_ids([root])))
        if read == "summaries"
        else lambda: getattr(reader, read)(root)
    )
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(use)
        assert reading.wait(30)
        assert repr(use()) == repr(first.result())
    assert setting.uses()[0].count("root_nodes") == 1


def test_what_may_change_is_not_shared(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    (root, ids), *_ = ROOTS.items()
    lost = setting.table.features[setting.table.features["label"] == ids[3]]
    setting.table.delete(ids[3:4])
    reader, original = setting.reader(keep=False), setting.table.read
    reading, waiting = threading.Event(), when_shared(monkeypatch)

    def slow(*arguments: Any) -> Rows:
        rows = original(*arguments)
        if not reading.is_set():
            reading.set()
            assert waiting.wait(30)
        return rows

    monkeypatch.setattr(setting.table, "read", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(reader.summaries, as_ids([root]))
        assert reading.wait(30)
        setting.table.write(lost)
        assert reader.summaries(as_ids([root])).status.tolist() == [READY]
        assert first.result().status.tolist() == [INCOMPLETE]
