"""Tests of changed roots when the times in the operation log differ from those in the roots' rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta

import pytest
from google.cloud import bigtable
from google.cloud.bigtable.data import BigtableDataClient, SetCell

from l2features.core.errors import GraphError
from l2features.core.ids import as_ids, row_keys
from l2features.graph import operation_log
from l2features.graph.bigtable import BigtableGraph
from l2features.graph.root_lives import LATE
from l2features.local.sample.graph_cells import graph_meta, id_bytes
from l2features.testing.emulators import Emulator
from l2features.testing.graph_history import at
from l2features.testing.graph_tables import GEOMETRY
from l2features.testing.stores import INSTANCE, PROJECT

TOP = 3
FIRST = 1_800_000_000_000
"""When the first roots were made."""


def root(number: int) -> int:
    return (TOP << 56) + number


class Log:
    """A table of roots and operations; times are seconds after `FIRST`."""

    def __init__(self, name: str) -> None:
        table = bigtable.Client(project=PROJECT, admin=True).instance(INSTANCE).table(name)
        table.create(column_families={"0": None, "2": None})
        self.table = BigtableDataClient(project=PROJECT).get_table(INSTANCE, name)
        self.graph = BigtableGraph(f"bigtable://{PROJECT}/{INSTANCE}/{name}")
        self.table.mutate_row(b"meta", [SetCell("0", b"meta", graph_meta(GEOMETRY, "g", TOP, ""))])

    def put(self, node: int, column: str, ids: Sequence[int], seconds: float, family: str = "0") -> None:
        micros = 1000 * (FIRST + round(1000 * seconds))
        (key,) = row_keys(as_ids([node]))
        self.table.mutate_row(key, [SetCell(family, column.encode(), id_bytes(ids), timestamp_micros=micros)])

    def make(self, number: int, seconds: float, former: Sequence[int] = ()) -> None:
        self.put(root(number), "children", [2 << 56], seconds)
        if former:
            self.put(root(number), "former_parents", [root(i) for i in former], seconds)

    def retire(self, number: int, seconds: float, new: Sequence[int]) -> None:
        self.put(root(number), "new_parents", [root(i) for i in new], seconds)

    def log(self, operation: int, numbers: Sequence[int], seconds: float) -> None:
        self.put(operation, "roots", [root(i) for i in numbers], seconds, "2")

    def changed(self, since: float, until: float) -> tuple[list[int], list[int]]:
        """Return the retired and the new roots, each as the ``number`` from which `root` makes its id."""
        times = (at(FIRST + round(1000 * seconds)) for seconds in (since, until))
        found = self.graph.changed_roots(GEOMETRY, *times)
        retired, made = ([i - root(0) for i in ids.tolist()] for ids in found)
        return retired, made


@pytest.fixture(scope="module")
def log(emulator: Emulator) -> Log:
    log = Log("changed_roots")
    for number in (1, 2, 3, 4, 5, 6):
        log.make(number, 0)
    # operation 7, logged a while after its time
    log.log(7, [], 1000)
    log.retire(1, 1000, [11, 12])
    log.make(11, 1000, [1])
    log.make(12, 1000, [1])
    log.log(7, [11, 12], 1000.3)
    # operation 2, which is later than 7
    log.retire(11, 2000, [21])
    log.retire(2, 2000, [21])
    log.make(21, 2000, [2, 11])
    log.log(2, [21], 2000.2)
    # operation 8 failed: what it logged was never written; 9 failed before that
    log.log(8, [81], 2100)
    log.log(9, [], 2200)
    # operation 10 failed, and was repaired much later
    log.log(10, [], 2500)
    log.retire(3, 2500, [31])
    log.make(31, 2500, [3])
    log.log(10, [31], 90_000)
    # operation 400 was logged shortly before its cells, whose times differ
    log.log(400, [41], 2999.9)
    log.retire(4, 3000, [41])
    log.make(41, 3000.003, [4])
    # operation 401 is the clock's of another machine
    log.retire(5, 5000, [51])
    log.make(51, 5000, [5])
    log.log(401, [51], 5000 - LATE.total_seconds())
    return log


@pytest.mark.parametrize("at_once", [1, 3, 50_000])
def test_the_roots_own_times_decide(log: Log, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(operation_log, "AT_ONCE", at_once)
    for (since, until), expected in {
        (0, 999.999): ([], []),
        (0, 1000): ([1], [11, 12]),
        (999.999, 1000): ([1], [11, 12]),
        (1000, 1000): ([], []),
        (1000, 1999.999): ([], []),
        (0, 2000): ([1, 2], [12, 21]),
        (1000, 2000): ([2, 11], [21]),
        (2000, 2400): ([], []),
        (2000, 2500): ([3], [31]),
        (2000, 2999.999): ([3], [31]),
        (2500, 3000): ([4], []),
        (2500, 3000.003): ([4], [41]),
        (3000, 3000.003): ([], [41]),
        (4999, 5000): ([5], [51]),
        (4999.999, 99_000): ([5], [51]),
        (0, 99_000): ([1, 2, 3, 4, 5], [12, 21, 31, 41, 51]),
        (99_000, 99_000): ([], []),
    }.items():
        assert log.changed(since, until) == expected, (since, until)


def test_a_graph_that_was_never_edited(emulator: Emulator) -> None:
    log = Log("changed_nothing")
    log.make(1, 0)
    assert log.changed(0, 1000) == ([], [])


def test_malformed_predecessors_are_an_error(emulator: Emulator) -> None:
    log = Log("changed_malformed")
    log.make(1, 1)
    log.log(1, [1], 1)
    log.table.mutate_row(row_keys(as_ids([root(1)]))[0], [SetCell("0", b"former_parents", b"123")])
    with closing(log.graph), pytest.raises(GraphError, match=f"root {root(1)}: predecessors have 3 bytes"):
        log.graph.changed_roots(GEOMETRY, at(FIRST), at(FIRST) + timedelta(seconds=2))
