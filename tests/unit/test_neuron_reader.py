"""Tests of summaries of roots. Incomplete ones are never stored, and outdated ones are computed again."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from l2features.core.errors import GraphUnavailable, StoreError, StoreUnavailable, UnknownFormat
from l2features.core.ids import Ids, as_ids
from l2features.core.rows import Rows
from l2features.neurons import neuron_reader
from l2features.neurons.kept import FORMAT, MAGIC
from l2features.neurons.neuron_summary import SUMMARIES
from l2features.query.cache import RowCache
from l2features.store.rewrites import Rewriting, end_rewrites
from tests.support.known_roots import (
    FIRST_ROOT,
    T0,
    features_in_chunks,
    random_roots,
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
    first_of,
    setting,
)

__all__ = ["setting"]


def test_each_root_has_a_status_in_the_requested_order(setting: Setting) -> None:
    first, *_, largest, last = ROOTS
    unknown, broken, node = FIRST_ROOT + 999, FIRST_ROOT + 998, int(ROOTS[first][0])
    setting.graph.errors[broken] = "node 5: no children"
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
        assert found.reasons[broken] == "node 5: no children"
        assert found.reasons[largest] == "101 L2 nodes or more, expected 100 at most"
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
    """Replace these nodes' rows, as a job does that recomputes them."""
    with Rewriting(setting.table).open():  # type: ignore[arg-type]
        setting.table.write(features_in_chunks(ids, seed))


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
