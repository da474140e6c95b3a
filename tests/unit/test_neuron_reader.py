"""Neurons are read from what is kept, or computed; what is kept is never wrong."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from l2features.core.errors import GraphUnavailable, StoreError, StoreUnavailable, UnknownFormat
from l2features.core.ids import Ids, as_ids
from l2features.core.rows import Rows, served_column
from l2features.graph.base import Graph
from l2features.neurons import neuron_reader
from l2features.neurons.kept import FORMAT, MAGIC
from l2features.neurons.neuron_reader import NeuronReader
from l2features.neurons.neuron_summary import GRAPH_SUMMARIES, SUMMARIES
from l2features.neurons.root_summaries import RootError, RootStatus, Summaries
from l2features.query.cache import RowCache
from l2features.query.reader import Reader, Status
from l2features.store.rewrites import Rewriting, end_rewrites
from l2features.testing.stores import features_of
from tests.support.known_roots import (
    FIRST_ROOT,
    GEOMETRY,
    T0,
    KnownGraph,
    MemoryTable,
    chain,
    random_roots,
    table_of,
)

ROOTS = random_roots([40, 7, 1, 300, 12])
READY, INCOMPLETE, UNKNOWN, NOT_A_ROOT, TOO_LARGE = RootStatus


class Setting:
    """A table, a graph, and readers of them that share nothing else, as processes do."""

    def __init__(self, roots: Mapping[int, Ids] = ROOTS, permanent: bool = True) -> None:
        self.table, self.graph = table_of(roots), KnownGraph(roots, permanent)

    def reader(self, cache_bytes: int = 0, cache: RowCache | None = None, **options: Any) -> NeuronReader:
        rows = Reader(self.table, GEOMETRY, cache)  # type: ignore[arg-type]
        graph = cast(Graph, self.graph)
        return NeuronReader(rows, graph, cache_bytes=cache_bytes, **{"keep": True, **options})

    def uses(self) -> tuple[list[str], int]:
        """Return the calls of the graph, and the number of reads of rows, since the last call of this."""
        found = self.graph.calls, len(self.table.reads)
        self.graph.calls, self.table.reads = [], []
        return found


@pytest.fixture
def setting() -> Setting:
    return Setting()


def sums(table: MemoryTable, ids: Ids) -> dict[str, Any]:
    """The sums over nodes, row by row."""
    rows = Rows.complete(table.features)
    present = table.features["label"].tolist()
    known = dict(zip(present, served_column(rows, GEOMETRY, "size_nm3")[0], strict=True))
    area = dict(zip(present, table.features["area_nm2"].tolist(), strict=True))
    wanted = [node for node in ids.tolist() if node in known]
    return {
        "n_nodes": len(ids),
        "n_missing": len(ids) - len(wanted),
        "n_empty": sum(known[node] == 0 for node in wanted),
        "size_nm3": sum(int(known[node]) for node in wanted),
        "area_nm2": sum(area[node] for node in wanted if known[node]),
    }


def check(setting: Setting, found: Summaries, roots: Mapping[int, Ids] = ROOTS) -> None:
    """Compare summaries with sums over the rows in the table."""
    for root, summary, status in zip(found.roots.tolist(), found.summary, found.status, strict=True):
        expected = sums(setting.table, roots[root])
        assert {name: int(summary[name]) for name in expected} == expected
        assert status == (INCOMPLETE if expected["n_missing"] else READY)


def first_of(found: Summaries, n: int) -> Summaries:
    return replace(found, roots=found.roots[:n], status=found.status[:n], summary=found.summary[:n])


def test_each_root_has_a_status_in_the_requested_order(setting: Setting) -> None:
    first, *_, largest, last = ROOTS
    unknown, broken, node = FIRST_ROOT + 999, FIRST_ROOT + 998, int(ROOTS[first][0])
    setting.graph.errors[broken] = "node 5: it has no children"
    asked = [last, node, unknown, first, largest, broken, 0, last]
    reader = setting.reader(most_nodes=100)
    for _ in range(2):  # the second is from what was kept
        found = reader.summaries(as_ids(asked))
        assert found.roots.tolist() == asked
        assert found.status.tolist() == [
            READY, NOT_A_ROOT, UNKNOWN, READY, TOO_LARGE, UNKNOWN, NOT_A_ROOT, READY,
        ]  # fmt: skip
        assert found.sizes == {largest: 101}
        assert found.reasons.keys() == {node, 0, largest, broken}
        assert found.reasons[broken] == "node 5: it has no children"
        assert found.reasons[largest] == "it has 101 L2 nodes or more, expected 100 at most"
        assert found.missing.tolist() == []
        null = found.summary[[1, 2, 4, 5, 6]]
        assert null["n_nodes"].tolist() == [0] * 5
        assert np.isnan(null["centroid_nm"]).all()
        assert found.summary["n_nodes"][[0, 3, 7]].tolist() == [12, 40, 12]


@pytest.mark.parametrize("cache_bytes", [0, 1_000_000])
def test_sums_are_exact_and_kept(setting: Setting, cache_bytes: int) -> None:
    roots = as_ids(list(ROOTS))
    check(setting, setting.reader().summaries(roots))
    assert setting.uses() == (["root_nodes"], 1)
    reader = setting.reader(cache_bytes)
    before = len(setting.table.asked)
    check(setting, first := reader.summaries(roots))
    assert first.summary.dtype == SUMMARIES
    check(setting, second := reader.summaries(roots[::-1]))
    assert second.summary[::-1].tobytes() == first.summary.tobytes()
    assert setting.uses() == ([], 0)
    assert len(setting.table.asked) - before == (1 if cache_bytes else 2)


def test_no_roots(setting: Setting) -> None:
    found = setting.reader().summaries(as_ids([]))
    assert (len(found.status), len(found.summary), found.missing.tolist()) == (0, 0, [])
    assert setting.uses() == ([], 0)


def test_incomplete_summaries_are_never_kept(setting: Setting) -> None:
    (first, ids), (second, others), *_ = ROOTS.items()
    gone = np.array([ids[3], ids[5], others[2]])
    lost = setting.table.features[np.isin(setting.table.features["label"], gone)]
    setting.table.delete(gone)
    reader = setting.reader(1_000_000)
    for _ in range(2):
        found = reader.summaries(as_ids(list(ROOTS)))
        check(setting, found)
        assert found.missing.tolist() == sorted(gone.tolist())
        assert (found.status == INCOMPLETE).tolist() == [True, True, False, False, False]
    assert setting.uses() == (["root_nodes"], 2)
    setting.table.write(lost[:2])
    check(setting, reader.summaries(as_ids([first, second])))
    setting.table.write(lost)  # as an updater does, which gives no new generation
    found = reader.summaries(as_ids([first, second]))
    check(setting, found)
    assert found.status.tolist() == [READY, READY]
    setting.uses()
    check(setting, setting.reader().summaries(as_ids(list(ROOTS))))
    assert setting.uses() == ([], 0)


def rewrite(setting: Setting, ids: Ids, seed: int) -> None:
    """Replace rows as a job does that computes them again."""
    with Rewriting(setting.table).open():  # type: ignore[arg-type]
        features = features_of(ids, seed)
        features["rep_coord_nm"] %= np.array([64, 64, 32], dtype=np.uint16)
        setting.table.write(features)


@pytest.mark.parametrize("cache_bytes", [0, 1_000_000])
def test_summaries_of_replaced_rows_are_computed_again(setting: Setting, cache_bytes: int) -> None:
    roots, ids = as_ids(list(ROOTS)), np.unique(np.concatenate(list(ROOTS.values())))
    readers = [setting.reader(cache_bytes, RowCache(10_000)) for _ in range(2)]
    for reader in readers:
        check(setting, reader.summaries(roots))
    for seed in (2, 3):
        rewrite(setting, ids, seed)
        for reader in readers:  # nothing is kept while the window is open
            setting.uses()
            for _ in range(2):
                check(setting, reader.summaries(roots))
            assert setting.uses() == ([], 2)  # L2 ids stay
        end_rewrites(setting.table)  # type: ignore[arg-type]
        for reader in readers:
            check(setting, reader.summaries(roots))
        assert setting.uses() == ([], 1)
        check(setting, setting.reader().summaries(roots))
        assert setting.uses() == ([], 0)


def test_rows_that_are_replaced_while_they_are_summed_are_not_kept(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots, ids = as_ids(list(ROOTS)), np.unique(np.concatenate(list(ROOTS.values())))
    read, reader = setting.table.read, setting.reader(1_000_000, RowCache(10_000))

    def read_and_replace(*arguments: Any) -> Rows:
        rows = read(*arguments)
        monkeypatch.undo()
        rewrite(setting, ids, 2)
        end_rewrites(setting.table)  # type: ignore[arg-type]
        return rows

    monkeypatch.setattr(setting.table, "read", read_and_replace)
    reader.summaries(roots)
    for again in (reader, setting.reader()):
        check(setting, again.summaries(roots))


def test_a_flat_root_may_get_more_nodes(setting: Setting) -> None:
    grown = dict(ROOTS)
    first, second = list(ROOTS)[:2]
    setting = Setting(ROOTS, permanent=False)
    grown[first] = ROOTS[first][:-3]
    setting.graph.roots = grown
    reader = setting.reader(1_000_000)
    for roots in (grown, ROOTS, grown, ROOTS):
        setting.graph.roots = dict(roots)
        for again in (reader, setting.reader()):
            check(setting, again.summaries(as_ids([first, second])), roots)
        assert setting.uses() == (["root_nodes"] * 2, 1)
    check(setting, setting.reader().summaries(as_ids([first, second])))
    assert setting.uses() == (["root_nodes"], 0)
    assert {name for cells in setting.table.cells.values() for name in cells} == {"summary"}


def test_a_reader_that_does_not_keep_uses_what_is_kept(setting: Setting) -> None:
    roots = as_ids(list(ROOTS))
    check(setting, setting.reader(keep=False).summaries(roots))
    assert setting.table.puts == 0
    setting.uses()
    check(setting, setting.reader().summaries(roots[:3]))
    setting.uses()
    check(setting, setting.reader(keep=False).summaries(roots[:3]))
    assert setting.uses() == ([], 0)


@pytest.mark.parametrize("error", [StoreError("403 Forbidden"), StoreUnavailable("no answer in 5 s")])
def test_a_store_that_refuses_writes_delays_no_read(
    setting: Setting, error: StoreError, caplog: pytest.LogCaptureFixture
) -> None:
    setting.table.error = error
    reader = setting.reader()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            check(setting, reader.summaries(as_ids(list(ROOTS))))
    assert setting.table.puts == 1
    assert [str(error) in record.getMessage() for record in caplog.records] == [True]


def test_malformed_cells_are_computed_again_and_newer_ones_refused(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    roots = as_ids(list(ROOTS))
    setting.reader().summaries(roots)
    first, second = list(ROOTS)[:2]
    setting.table.cells[first] = {name: cell[:-1] for name, cell in setting.table.cells[first].items()}
    setting.table.cells[second]["summary"] = b"nonsense" * 10
    with caplog.at_level(logging.WARNING):
        check(setting, setting.reader().summaries(roots))
    assert len(caplog.records) == 3
    setting.uses()
    check(setting, setting.reader().summaries(roots))
    assert setting.uses() == ([], 0)
    newer = MAGIC + (FORMAT + 1).to_bytes(2, "little") + setting.table.cells[first]["summary"][4:]
    setting.table.cells[first]["summary"] = newer
    with pytest.raises(UnknownFormat, match=f"table a_table: root {first}: the cell 'summary': format 2"):
        setting.reader().summaries(roots)
    assert setting.table.cells[first]["summary"] == newer


def test_large_roots_among_many_are_read_in_bounded_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    roots = random_roots([3, 900, 5, 40, 700, 60, 1, 200, *[10] * 20, 1001])
    monkeypatch.setattr(neuron_reader, "ROOTS", 8)
    monkeypatch.setattr(neuron_reader, "IDS", 2_000)
    monkeypatch.setattr(neuron_reader, "NODES", 256)
    monkeypatch.setattr(neuron_reader, "READ_NODES", 100)
    setting = Setting(roots)
    largest = list(roots)[-1]
    for again in (False, True):
        found = setting.reader(most_nodes=1_000).summaries(as_ids(list(roots)))
        assert found.sizes == {largest: 1_001}
        assert found.status[-1] == TOO_LARGE
        check(setting, first_of(found, len(roots) - 1), roots)
        assert all(len(ids) <= 100 for ids in setting.table.reads)
        assert all(count * most <= 2_000 for count, most in setting.graph.limits)
        if again:
            assert setting.uses() == (["root_nodes"], 0)
        setting.uses()
    for cells in setting.table.cells.values():
        cells.pop("summary", None)
    lower = setting.reader(most_nodes=500).summaries(as_ids(list(roots)))
    assert lower.sizes.keys() == {root for root, ids in roots.items() if len(ids) > 500}


def test_graph_errors_are_raised_but_not_for_what_is_kept(setting: Setting) -> None:
    *kept, last = ROOTS
    setting.reader().summaries(as_ids(kept))
    setting.graph.failure = GraphUnavailable("no answer")
    check(setting, setting.reader().summaries(as_ids(kept)))
    for use in (lambda r: r.summaries(as_ids([kept[0], last])), lambda r: r.nodes(last)):
        with pytest.raises(GraphUnavailable, match="no answer"):
            use(setting.reader())


def test_histories_are_looked_up_each_time(setting: Setting) -> None:
    reader, root = setting.reader(1_000_000), next(iter(ROOTS))
    for _ in range(2):
        assert reader.histories(as_ids([root, FIRST_ROOT + 999])).keys() == {root}
    assert reader.histories(as_ids([root]))[root].created == T0
    assert setting.uses()[0] == ["histories"] * 3


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
    assert f"root {other}: its kept edges do not fit its nodes" in caplog.text


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
    setting.graph.bad_edges = {bad: "node 5: its cross-chunk edges are 7 bytes: expected 8 for each"}
    for _ in range(2):  # the second is from what was kept
        found = setting.reader().summaries(as_ids(roots), with_graph=True)
        assert found.status.tolist() == [UNKNOWN if root == bad else READY for root in roots]
        assert found.reasons == setting.graph.bad_edges
        others = found.roots != bad
        assert found.summary[others].tobytes() == expected.summary[others].tobytes()
    for read in (setting.reader().edges, setting.reader().graph, setting.reader().skeleton):
        with pytest.raises(
            RootError, match=f"root {bad}: node 5: its cross-chunk edges are 7 bytes"
        ) as error:
            read(bad)
        assert error.value.status == UNKNOWN
    assert setting.reader().summaries(as_ids([bad])).status.tolist() == [READY]


# ------------------------------------------------------------------ at once
@pytest.mark.parametrize("read", ["summaries", "graph", "edges", "l2_ids"])
def test_requests_at_once_share_one_computation(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """The second begins while the first reads the nodes of the root, and keeps nothing."""
    root, second, original = next(iter(ROOTS)), threading.Event(), KnownGraph.root_nodes

    def slow(graph: KnownGraph, *arguments: Any) -> Any:
        second.wait(10)
        time.sleep(0.2)
        return original(graph, *arguments)

    monkeypatch.setattr(KnownGraph, "root_nodes", slow)
    reader = setting.reader(keep=False)
    use = (
        (lambda: reader.summaries(as_ids([root])))
        if read == "summaries"
        else lambda: getattr(reader, read)(root)
    )
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(use)
        pool.submit(second.set)
        assert repr(use()) == repr(first.result())
    assert setting.uses()[0].count("root_nodes") == 1


def test_what_may_change_is_not_shared(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    (root, ids), *_ = ROOTS.items()
    lost = setting.table.features[setting.table.features["label"] == ids[3]]
    setting.table.delete(ids[3:4])
    reader, reading, original = setting.reader(keep=False), threading.Event(), setting.table.read

    def slow(*arguments: Any) -> Rows:
        rows = original(*arguments)
        if not reading.is_set():
            reading.set()
            time.sleep(0.2)
        return rows

    monkeypatch.setattr(setting.table, "read", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(reader.summaries, as_ids([root]))
        reading.wait(10)
        setting.table.write(lost)
        assert reader.summaries(as_ids([root])).status.tolist() == [READY]
        assert first.result().status.tolist() == [INCOMPLETE]
