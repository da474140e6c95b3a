"""An in-memory table and graph of random roots, and instances of `NeuronReader` that read both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

from l2features.core.ids import Ids
from l2features.core.rows import Rows, served_column
from l2features.graph.base import Graph
from l2features.neurons.neuron_reader import NeuronReader
from l2features.neurons.root_summaries import RootStatus, Summaries
from l2features.query.cache import RowCache
from l2features.query.reader import Reader
from tests.support.known_roots import (
    GEOMETRY,
    KnownGraph,
    MemoryTable,
    random_roots,
    table_of,
)

ROOTS = random_roots([40, 7, 1, 300, 12])
READY, INCOMPLETE, UNKNOWN, NOT_A_ROOT, TOO_LARGE = RootStatus


class Setting:
    """A table and a graph. `NeuronReader` instances of it share nothing else, as if in separate processes."""

    def __init__(self, roots: Mapping[int, Ids] = ROOTS, permanent: bool = True) -> None:
        self.table, self.graph = table_of(roots), KnownGraph(roots, permanent)

    def reader(self, cache_bytes: int = 0, cache: RowCache | None = None, **options: Any) -> NeuronReader:
        rows = Reader(self.table, GEOMETRY, cache)  # type: ignore[arg-type]
        graph = cast(Graph, self.graph)
        return NeuronReader(rows, graph, cache_bytes=cache_bytes, **{"keep": True, **options})

    def uses(self) -> tuple[list[str], int]:
        """Return the graph's calls and the number of row reads since the last call of this method."""
        found = self.graph.calls, len(self.table.reads)
        self.graph.calls, self.table.reads = [], []
        return found


@pytest.fixture
def setting() -> Setting:
    return Setting()


def sums(table: MemoryTable, ids: Ids) -> dict[str, Any]:
    """Return the expected summary of nodes, added up row by row."""
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
    """Check that summaries equal the sums over the rows in the table."""
    for root, summary, status in zip(found.roots.tolist(), found.summary, found.status, strict=True):
        expected = sums(setting.table, roots[root])
        assert {name: int(summary[name]) for name in expected} == expected
        assert status == (INCOMPLETE if expected["n_missing"] else READY)


def first_of(found: Summaries, n: int) -> Summaries:
    return replace(found, roots=found.roots[:n], status=found.status[:n], summary=found.summary[:n])
