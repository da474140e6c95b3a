"""An in-memory table and a graph of given roots, which record how they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from l2features.core.errors import StoreError
from l2features.core.geometry import Chunk, Geometry
from l2features.core.ids import IdLayout, Ids, as_ids, sorted_unique
from l2features.core.rows import Rows
from l2features.core.schema import FEATURES, NAMES
from l2features.graph.base import Graph, MalformedEdges, Pairs, RootHistory, RootNodes
from l2features.testing.stores import features_of

GEOMETRY = Geometry((16.0, 16.0, 40.0), (0, 0, 0), (640, 640, 320), (64, 64, 32), IdLayout({2: 10, 6: 4}))
ROOT_LAYER = 6
FIRST_ROOT = GEOMETRY.layout.chunk_id(0, 0, 0, layer=ROOT_LAYER)
T0 = datetime(2026, 11, 21, tzinfo=UTC)


class CellTable:
    """An in-memory table of root cells."""

    def __init__(self) -> None:
        self.cells: dict[int, dict[str, bytes]] = {}
        self.asked: list[list[str]] = []
        self.puts = 0
        self.error: StoreError | None = None

    def root_cells(self, roots: Ids, names: Sequence[str]) -> dict[int, dict[str, bytes]]:
        self.asked.append(list(names))
        known = {root: self.cells.get(root, {}) for root in roots.tolist()}
        found = {root: {n: cells[n] for n in names if n in cells} for root, cells in known.items()}
        return {root: cells for root, cells in found.items() if cells}

    def put_root_cells(self, cells: Mapping[int, Mapping[str, bytes]]) -> None:
        self.puts += 1
        if self.error:
            raise self.error
        for root, values in cells.items():
            assert all(len(value) < 10_000_000 for value in values.values())
            self.cells.setdefault(root, {}).update(values)

    def delete_root_cells(self, roots: Ids) -> None:
        for root in roots.tolist():
            self.cells.pop(root, None)


class MemoryTable(CellTable):
    """An in-memory table of node features, table notes and root cells (bytes by root id and cell name)."""

    name = "a_table"

    def __init__(self) -> None:
        super().__init__()
        self.features = np.zeros(0, FEATURES)
        self.notes: dict[str, str] = {}
        self.reads: list[Ids] = []

    def write(self, features: np.ndarray) -> None:
        kept = self.features[~np.isin(self.features["label"], features["label"])]
        both = np.concatenate([kept, features])
        self.features = both[np.argsort(both["label"])]

    def delete(self, ids: Ids) -> None:
        self.features = self.features[~np.isin(self.features["label"], ids)]

    def read(self, ids: Any, names: Sequence[str] = NAMES) -> Rows:
        ids = as_ids(ids)
        self.reads.append(ids)
        rows = Rows.empty(ids)
        at = np.searchsorted(self.features["label"], ids).clip(max=max(len(self.features) - 1, 0))
        found = np.zeros(len(ids), bool) if not len(self.features) else self.features["label"][at] == ids
        rows.put(found, Rows.complete(self.features[at[found]]))
        return Rows(rows.features, rows.present & np.isin(NAMES, names))

    def failures(self, chunk_ids: Ids) -> dict[int, str]:
        return {}

    def note(self, name: str) -> str | None:
        return self.notes.get(name)

    def put_note(self, name: str, text: str) -> None:
        self.notes[name] = text


def features_in_chunks(ids: Ids, seed: int = 1) -> np.ndarray:
    """Return random features; each node's representative coordinate lies in its chunk."""
    rows = features_of(ids, seed)
    rows["rep_coord_nm"] %= np.array(GEOMETRY.chunk_size, dtype=np.uint16)
    return rows


class KnownGraph:
    """A graph of given roots; ``calls`` lists the called methods."""

    expected_root = Graph.expected_root
    edges_need_rows = False

    def __init__(self, roots: Mapping[int, Ids], permanent: bool = True) -> None:
        self.roots, self.permanent = dict(roots), permanent
        self.calls: list[str] = []
        self.limits: list[tuple[int, int]] = []
        self.errors: dict[int, str] = {}
        self.bad_edges: dict[int, str] = {}
        self.failure: Exception | None = None

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.failure:
            raise self.failure

    def is_root(self, geometry: Geometry, ids: Ids) -> npt.NDArray[np.bool_]:
        return np.asarray(geometry.layout.layers(ids) == ROOT_LAYER)

    def root_nodes(self, geometry: Geometry, roots: Ids, most: int) -> RootNodes:
        self._called("root_nodes")
        self.limits.append((len(roots), most))
        known = {root: self.roots[root] for root in roots.tolist() if root in self.roots}
        return RootNodes(
            {root: ids for root, ids in known.items() if len(ids) <= most},
            {root: most + 1 for root, ids in known.items() if len(ids) > most},
            {root: self.errors[root] for root in roots.tolist() if root in self.errors},
        )

    def root_edges(
        self, geometry: Geometry, nodes: Mapping[int, Ids], rows: Rows | None = None
    ) -> dict[int, Pairs]:
        self._called("root_edges")
        malformed = {root: self.bad_edges[root] for root in nodes if root in self.bad_edges}
        if malformed:
            raise MalformedEdges(malformed)
        return {root: chain(ids) for root, ids in nodes.items()}

    def histories(self, geometry: Geometry, roots: Ids) -> dict[int, RootHistory]:
        self._called("histories")
        return {root: RootHistory(T0, None, (), ()) for root in roots.tolist() if root in self.roots}

    def nodes(self, geometry: Geometry, chunk: Chunk, time: datetime | None = None) -> Ids:
        self._called("nodes")
        ids, first = self._ids(), geometry.chunk_id(chunk)
        return ids[(ids > first) & (ids <= geometry.layout.last_id(first))]

    def roots_of(self, geometry: Geometry, l2_ids: Ids, time: datetime) -> Ids:
        self._called("roots_of")
        of_node = {node: root for root, ids in self.roots.items() for node in ids.tolist()}
        return as_ids([of_node.get(node, 0) for node in l2_ids.tolist()])

    def _ids(self) -> Ids:
        return sorted_unique(np.concatenate([as_ids([]), *self.roots.values()]))

    def close(self) -> None:
        return


def chain(ids: Ids) -> Pairs:
    """Return edges from each node to the next."""
    return np.stack([ids[:-1], ids[1:]], axis=1)


def random_roots(counts: Sequence[int], seed: int = 0) -> dict[int, Ids]:
    """Return a root of n nodes in random chunks per n in ``counts``. The first two roots share a node."""
    rng, layout = np.random.default_rng(seed), GEOMETRY.layout
    roots = {}
    for i, n in enumerate(counts):
        chunks = layout.chunk_id_array(rng.integers(0, GEOMETRY.grid, (n, 3)))
        numbers = np.arange(n, dtype=np.uint64) + np.uint64(1 + i * 1_000_000)
        roots[FIRST_ROOT + 1 + i] = np.sort(chunks + numbers)
    if len(counts) > 1:
        first, second = list(roots)[:2]
        roots[second] = sorted_unique(np.append(roots[second][1:], roots[first][0]))
    return roots


def table_of(roots: Mapping[int, Ids]) -> MemoryTable:
    """Return a table with a row of random values for each node; every seventh row is empty."""
    table = MemoryTable()
    table.write(features_in_chunks(sorted_unique(np.concatenate(list(roots.values())))))
    return table
