"""Tests of reading edges and writing L2 ids while rows are read, and of failures meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from l2features.core.errors import GraphUnavailable, StoreUnavailable
from l2features.core.ids import as_ids
from l2features.core.rows import Rows
from tests.support.neuron_setting import ROOTS, Setting, check, setting

__all__ = ["setting"]
LONG_S = 10.0


class Gate:
    """Make a method wait until `open` is set, and count its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.entered, self.open, self.calls = threading.Event(), threading.Event(), 0
        original = getattr(owner, name)

        def waiting(*arguments: Any) -> Any:
            self.calls += 1
            self.entered.set()
            assert self.open.wait(LONG_S)
            return original(*arguments)

        monkeypatch.setattr(owner, name, waiting)


@pytest.fixture
def edges(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch, setting.graph, "root_edges")
    yield gate
    gate.open.set()


@pytest.fixture
def write(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch, setting.table, "put_root_cells")
    yield gate
    gate.open.set()


def when_rows_are_read(setting: Setting, monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    original = setting.table.read

    def read(*arguments: Any) -> Rows:
        act()
        return original(*arguments)

    monkeypatch.setattr(setting.table, "read", read)


@pytest.mark.parametrize("use", ["summaries", "graph"])
def test_edges_are_read_while_rows_are(
    setting: Setting, edges: Gate, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    root, reader = next(iter(ROOTS)), setting.reader(keep=False)

    def during_the_read() -> None:
        assert edges.entered.wait(LONG_S)
        edges.open.set()

    when_rows_are_read(setting, monkeypatch, during_the_read)
    if use == "graph":
        assert len(reader.graph(root).edges) == len(ROOTS[root]) - 1
    else:
        check(setting, reader.summaries(as_ids([root]), with_graph=True))


def test_a_graph_that_needs_the_rows_receives_them(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    received, original = list[Rows | None](), setting.graph.root_edges

    def root_edges(geometry: Any, nodes: Any, rows: Rows | None = None) -> Any:
        received.append(rows)
        return original(geometry, nodes, rows)

    monkeypatch.setattr(setting.graph, "root_edges", root_edges)
    root, ids = next(iter(ROOTS.items()))
    for needed in (True, False):
        setting.graph.edges_need_rows = needed
        setting.reader(keep=False).graph(root)
    [rows, none] = received
    assert none is None
    assert rows is not None
    assert rows.ids.tolist() == ids.tolist()


def test_without_a_free_thread_edges_are_read_after_the_rows(
    setting: Setting, edges: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = setting.reader(keep=False)
    monkeypatch.setattr(reader._beside, "_free", threading.BoundedSemaphore(1))
    reader._beside.start(lambda: edges.open.wait(LONG_S))  # takes the only one
    when_rows_are_read(setting, monkeypatch, lambda: edges.open.set() if not edges.calls else 1 / 0)
    check(setting, reader.summaries(as_ids(list(ROOTS)), with_graph=True))
    assert edges.calls == 1


def test_a_graph_that_fails_while_rows_are_read(setting: Setting, edges: Gate) -> None:
    roots, reader = as_ids(list(ROOTS)), setting.reader()
    edges.open.set()
    reader.l2_ids(int(roots[0]))
    setting.graph.roots = {int(root): setting.graph.roots[int(root)] for root in roots[:1]}
    setting.graph.failure = GraphUnavailable("no answer")
    for use in (lambda: reader.graph(int(roots[0])), lambda: reader.summaries(roots[:1], with_graph=True)):
        with pytest.raises(GraphUnavailable, match="no answer"):
            use()
    assert setting.table.cells[int(roots[0])].keys() == {"l2_ids"}
    setting.graph.failure = None
    check(setting, reader.summaries(roots[:1], with_graph=True))


@pytest.mark.parametrize("use", ["summaries", "graph"])
def test_an_error_of_the_rows_does_not_wait_for_the_edges(
    setting: Setting, edges: Gate, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    root, reader = next(iter(ROOTS)), setting.reader()

    def fail() -> None:
        assert edges.entered.wait(LONG_S)
        raise StoreUnavailable("no rows")

    when_rows_are_read(setting, monkeypatch, fail)
    start = time.monotonic()
    with pytest.raises(StoreUnavailable, match="no rows"):
        reader.graph(root) if use == "graph" else reader.summaries(as_ids([root]), with_graph=True)
    assert time.monotonic() - start < LONG_S / 2


def test_rows_are_read_while_l2_ids_are_written(
    setting: Setting, write: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def during_the_write() -> None:
        assert write.entered.wait(LONG_S)
        write.open.set()

    when_rows_are_read(setting, monkeypatch, during_the_write)
    roots = as_ids(list(ROOTS))
    check(setting, setting.reader().summaries(roots))
    assert write.calls == 2
    assert all(cells.keys() == {"l2_ids", "summary"} for cells in setting.table.cells.values())
    setting.uses()
    check(setting, setting.reader().summaries(roots))
    assert setting.uses() == ([], 0)


def test_an_answer_waits_for_a_write_that_hangs_until_it_fails(
    setting: Setting, write: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    setting.table.error = StoreUnavailable("no answer in 60 s")
    threading.Timer(0.3, write.open.set).start()
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        check(setting, setting.reader().summaries(as_ids(list(ROOTS))))
    assert time.monotonic() - start > 0.25
    assert write.calls == 1
    assert ["no answer in 60 s" in record.getMessage() for record in caplog.records] == [True]
