"""Tests of a custom graph source, which needs only one file and its registration."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from l2features.audit.chunk_audit import Audit, audit_chunk, prepare_audit
from l2features.audit.summary import AuditSummary
from l2features.config.datasets import Dataset, load_dataset
from l2features.core.chunks import ChunkBox
from l2features.core.errors import ConfigError, GraphError
from l2features.core.geometry import Chunk, Geometry
from l2features.core.ids import IdLayout, Ids, as_ids
from l2features.core.rows import Rows
from l2features.core.times import parse_time
from l2features.graph.base import (
    Children,
    Graph,
    GraphInfo,
    OpenTable,
    Pairs,
    RootHistory,
    RootNodes,
    check_children,
)
from l2features.graph.l2_edges import unique_pairs
from l2features.graph.sources import SOURCES
from l2features.ingest.source import open_dataset_graph
from l2features.ingest.steps import Ingest, compute_chunk, prepare, save_chunk
from l2features.testing.layers import make_layer
from tests.support.jobs import dataset_file

CHUNK_SIZE, GRID = (32, 32, 16), (2, 1, 1)
LAYOUT = IdLayout({1: 10, 2: 10})
TOP, ROOT = 3, (3 << 56) + 1
BEFORE, AFTER = "2026-01-01 00:00:00", "2026-01-03 00:00:00"
EDIT = "2026-01-02T00:00:00+00:00"


class ToyGraph(Graph):
    """A graph in a JSON file, ``toy:///path``, with each node's supervoxels and period of validity."""

    pattern, expected = re.compile(r"toy:///.+"), "toy:///path"

    def __init__(self, url: str, open_table: OpenTable) -> None:
        super().__init__(url, open_table)
        try:
            self.content = json.loads(Path(url.removeprefix("toy://")).read_text())
        except OSError as error:
            raise GraphError(f"cannot read {url}: {error.strerror}") from error

    def info(self) -> GraphInfo:
        x, y, z = self.content["chunk_size"]
        return GraphInfo((x, y, z), LAYOUT)

    def l2_ids(self, geometry: Geometry, chunk: Chunk, supervoxels: Ids, time: datetime) -> Ids:
        parents = {child: n["id"] for n in self._valid(time) for child in n["children"]}
        return as_ids([parents.get(supervoxel, 0) for supervoxel in supervoxels.tolist()])

    def children(self, geometry: Geometry, chunk: Chunk, ids: Ids) -> Children:
        known = {n["id"]: as_ids(n["children"]) for n in self.content["nodes"] if n["id"] in ids.tolist()}
        return check_children(geometry, chunk, Children(known))

    def nodes(self, geometry: Geometry, chunk: Chunk, time: datetime | None = None) -> Ids:
        nodes = as_ids([n["id"] for n in (self._valid(time) if time else self.content["nodes"])])
        return np.sort(nodes[geometry.layout.chunk_ids(nodes) == np.uint64(geometry.chunk_id(chunk))])

    def is_root(self, geometry: Geometry, ids: Ids) -> npt.NDArray[np.bool_]:
        return np.asarray(geometry.layout.layers(ids) == TOP)

    def root_nodes(self, geometry: Geometry, roots: Ids, most: int) -> RootNodes:
        owned = {root: as_ids(self._nodes_of(root)) for root in roots.tolist()}
        return RootNodes(
            {root: np.sort(ids) for root, ids in owned.items() if 0 < len(ids) <= most},
            {root: len(ids) for root, ids in owned.items() if len(ids) > most},
        )

    def root_edges(
        self, geometry: Geometry, nodes: Mapping[int, Ids], rows: Rows | None = None
    ) -> dict[int, Pairs]:
        """Join each node of a root to the next."""
        return {root: unique_pairs(ids[:-1], ids[1:]) for root, ids in nodes.items()}

    def roots_of(self, geometry: Geometry, l2_ids: Ids, time: datetime) -> Ids:
        roots = {n["id"]: n["root"] for n in self._valid(time)}
        return as_ids([roots.get(i, 0) for i in l2_ids.tolist()])

    def histories(self, geometry: Geometry, roots: Ids) -> dict[int, RootHistory]:
        return {root: RootHistory(parse_time(BEFORE)) for root in roots.tolist() if self._nodes_of(root)}

    def close(self) -> None:
        self.content = {}

    def _nodes_of(self, root: int) -> list[int]:
        return [n["id"] for n in self.content["nodes"] if n["root"] == root]

    def _valid(self, time: datetime) -> list[dict[str, Any]]:
        return [n for n in self.content["nodes"] if n["from"] <= time.isoformat() < n["until"]]


def supervoxel(x: int, number: int) -> int:
    return LAYOUT.chunk_id(x, 0, 0, layer=1) + number


def node(x: int, number: int, children: list[int], valid: tuple[str, str] = ("", "9")) -> dict[str, Any]:
    ids = [supervoxel(x, child) for child in children]
    made = {"id": LAYOUT.chunk_id(x, 0, 0) + number, "children": ids, "root": ROOT}
    return made | {"from": valid[0], "until": valid[1]}


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Return a data set of two chunks, each of four supervoxels. At `EDIT`, a node of the first splits."""
    monkeypatch.setitem(SOURCES, "toy", ToyGraph)
    labels = np.zeros([a * b for a, b in zip(CHUNK_SIZE, GRID, strict=True)], dtype=np.uint64)
    for x in range(GRID[0]):
        for number in range(4):
            labels[32 * x : 32 * x + 32, 8 * number : 8 * number + 8] = supervoxel(x, number + 1)
    make_layer(tmp_path / "ws", labels, chunk_size=(32, 32, 16))
    nodes = [
        node(0, 1, [1, 2]),
        node(0, 2, [3, 4], ("", EDIT)),
        node(0, 3, [3], (EDIT, "9")),
        node(0, 4, [4], (EDIT, "9")),
        node(1, 1, [1, 2, 3]),
    ]
    (tmp_path / "graph.json").write_text(json.dumps({"chunk_size": CHUNK_SIZE, "nodes": nodes}))
    config = dataset_file(tmp_path, tmp_path / "ws", graph=f"toy://{tmp_path}/graph.json", chunk_size=None)
    return load_dataset("sample", config)


def chunks_of(run: Ingest | Audit) -> list[Chunk]:
    return [Chunk(*xyz) for shard in run.shards() for xyz in run.box.positions(*shard).tolist()]


def ingested(dataset: Dataset, timestamp: str) -> Ingest:
    ingest = prepare(dataset, timestamp, create=True)
    source, store = ingest.open_source(), ingest.open_store()
    for chunk in chunks_of(ingest):
        save_chunk(store, ingest.geometry, compute_chunk(source, chunk))
    store.close()
    return ingest


def rows_of(ingest: Ingest) -> dict[int, bytes]:
    store = ingest.open_store()
    found: dict[int, bytes] = {}
    for chunk in chunks_of(ingest):
        first = ingest.geometry.chunk_id(chunk)
        rows = store.scan_chunk(first, ingest.geometry.layout.last_id(first))
        found |= {int(row["label"]): row.tobytes() for row in rows.features}
    store.close()
    return found


def audited(audit: Audit) -> AuditSummary:
    source, summary = audit.open_source(), AuditSummary()
    for chunk in chunks_of(audit):
        summary.add(AuditSummary.of(audit_chunk(source, chunk)))
    source.close()
    return summary


def test_an_ingest_and_an_audit(dataset: Dataset, tmp_path: Path) -> None:
    ingest = ingested(dataset, BEFORE)
    assert (ingest.geometry.chunk_size, ingest.geometry.grid) == (CHUNK_SIZE, GRID)
    assert ingest.meta.graph_id == "graph.json"
    first, second = (LAYOUT.chunk_id(x, 0, 0) for x in (0, 1))
    assert sorted(rows_of(ingest)) == [first + 1, first + 2, second + 1]
    assert audited(prepare_audit(dataset, BEFORE)).complete

    summary = audited(prepare_audit(dataset))
    assert (summary.complete, summary.missing_ids) == (False, [str(first + 3), str(first + 4)])
    summary = audited(prepare_audit(dataset, AFTER, repair=True))
    assert (summary.complete, summary.repaired, summary.other) == (True, 2, 1)
    assert sorted(rows_of(ingest)) == [first + 1, first + 2, first + 3, first + 4, second + 1]
    after = rows_of(ingested(dataset.model_copy(update={"l2cache_id": "after"}), AFTER))
    assert after == {i: row for i, row in rows_of(ingest).items() if i != first + 2}


def test_its_roots(dataset: Dataset) -> None:
    ingest = ingested(dataset, BEFORE)
    with closing(open_dataset_graph(dataset)) as graph:
        nodes = graph.root_nodes(ingest.geometry, as_ids([ROOT, ROOT + 1]), 10)
        assert [len(ids) for ids in nodes.l2_ids.values()] == [5]
        [pairs] = graph.root_edges(ingest.geometry, nodes.l2_ids).values()
        assert pairs.shape == (4, 2)
        valid = graph.roots_of(ingest.geometry, nodes.l2_ids[ROOT], parse_time(BEFORE))
        assert (valid == np.uint64(ROOT)).sum() == 3
        assert list(graph.histories(ingest.geometry, as_ids([ROOT, 5]))) == [ROOT]


def test_its_valid_nodes(dataset: Dataset) -> None:
    """Check methods inherited from `Graph`: `valid_nodes` works, and `changed_roots` raises GraphError."""
    geometry, first, second = ingested(dataset, BEFORE).geometry, *(LAYOUT.chunk_id(x, 0, 0) for x in (0, 1))
    with closing(open_dataset_graph(dataset)) as graph:
        for box, time, numbers in (
            (ChunkBox((0, 0, 0), (9, 9, 9)), BEFORE, [first + 1, first + 2, second + 1]),
            (ChunkBox((0, 0, 0), (1, 1, 1)), AFTER, [first + 1, first + 3, first + 4]),
            (ChunkBox((2, 0, 0), (9, 9, 9)), AFTER, []),
        ):
            found = graph.valid_nodes(geometry, box, parse_time(time))
            assert found.l2_ids.tolist() == numbers
            assert found.roots.tolist() == [ROOT] * len(numbers)
        with pytest.raises(GraphError, match=r"toy:///\S+ has no history of roots: make a version"):
            graph.changed_roots(geometry, parse_time(BEFORE), parse_time(AFTER))


def test_its_contradictions_are_found(dataset: Dataset) -> None:
    other = dataset.model_copy(update={"chunk_size": (16, 16, 16)})
    with pytest.raises(ConfigError, match=r"chunk_size: the data sets file has .*, but toy:///\S+ has "):
        prepare(other, BEFORE, create=True)


def test_a_url_of_another_source(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key 'graph': expected "):
        load_dataset("sample", dataset_file(tmp_path, tmp_path / "ws", graph="toy://relative"))
    gone = dataset.model_copy(update={"graph": "toy:///no/such/file"})
    with pytest.raises(GraphError, match="cannot read toy:///no/such/file: No such file"):
        prepare(gone, BEFORE, create=True)
