"""Tests of verifying a version, comparing two versions, and deleting versions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from l2features.core.errors import VersionError, VersionNotFound
from l2features.core.ids import Ids, as_ids
from l2features.query.reader import Reader
from l2features.testing.stores import features_of
from l2features.testing.version_files import TIME, NodeRows, VersionWriter, visible_rows
from l2features.versions.diff import node_differences, root_differences
from l2features.versions.folders import Folder
from l2features.versions.lookup import VersionReader
from l2features.versions.manifest import Manifest, VersionFile
from l2features.versions.parquet_files import ParquetFiles
from l2features.versions.plan import Plan, plan_path
from l2features.versions.removal import delete_version, is_unfinished
from l2features.versions.sampling import verify_samples
from l2features.versions.verify import Findings, verify_files
from tests.support.known_roots import GEOMETRY, KnownGraph, MemoryTable, features_in_chunks
from tests.support.version_chains import Chain, write_chain


def reader_of(folder: Folder, manifest: Manifest) -> VersionReader:
    return VersionReader(ParquetFiles(folder), manifest)


def findings_of(folder: Folder, manifest: Manifest) -> list[str]:
    found = Findings()
    verify_files(reader_of(folder, manifest), found, lambda _: None)
    assert found.count == len(found.lines)
    return found.lines


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return write_chain(tmp_path_factory.mktemp("versions"), renewals=3)


# ------------------------------------------------------------------ verify
@pytest.mark.parametrize("number", range(4))
def test_a_whole_version_has_no_findings(chain: Chain, number: int) -> None:
    assert findings_of(chain.folder, chain.manifests[number]) == []


def test_progress_counts_all_bytes(chain: Chain) -> None:
    done: list[int] = []
    verify_files(reader_of(chain.folder, chain.manifests[-1]), Findings(), done.append)
    assert sum(done) == sum(file.bytes for layer in chain.manifests[-1].layers for file in layer.files)


def rewritten(
    folder: Folder, manifest: Manifest, layout: str, change: Callable[[Any], Any], **fields: Any
) -> Manifest:
    """Apply ``change`` to a layout's first file; return the manifest with the new hash and ``fields``."""
    writer = VersionWriter(folder, GEOMETRY)
    file = next(f for f in manifest.layers[-1].files if f.layout == layout)
    content = folder.read(file.path)
    assert content
    table = change(pq.ParquetFile(pa.BufferReader(content)).read())
    new = writer.file(file.path, file.layout, table).model_copy(update=fields)
    files = tuple(new if f.path == file.path else f for f in manifest.layers[-1].files)
    layers = (*manifest.layers[:-1], manifest.layers[-1].model_copy(update={"files": files}))
    return manifest.model_copy(update={"layers": layers})


def without_last(table: Any) -> Any:
    return table.slice(0, len(table) - 1)


def reversed_rows(table: Any) -> Any:
    return table.take(pa.array(np.arange(len(table))[::-1]))


def with_other_root(table: Any) -> Any:
    roots = table["root_id"].to_numpy().copy()
    roots[-1] += 1
    return table.set_column(0, table.field(0), pa.array(roots))


@pytest.mark.parametrize(
    ("layout", "change", "fields", "expected"),
    [
        ("by_root", without_last, {}, "nodes in by_root: 299, expected 300"),
        ("by_node", without_last, {}, "nodes in by_node: 299, expected 300"),
        ("by_node", reversed_rows, {}, "row group 0 is not sorted, or repeats a row"),
        (
            "by_root",
            with_other_root,
            {},
            "by_root and by_node differ in their nodes, or in the roots of these nodes",
        ),
        ("roots", without_last, {}, "roots: 39, expected 40"),
        ("roots", lambda table: table, {"max_root": 7}, "largest root: 432345564227567656, expected 7"),
        ("by_node", lambda table: table, {"min_node": 7}, "smallest node: 144115188142964739, expected 7"),
        ("roots", lambda table: table, {"sha256": "0" * 64}, ", expected 0000"),
        ("roots", lambda table: table, {"rows": 7}, "has 40 rows, expected 7"),
    ],
)
def test_findings(
    tmp_path: Path, layout: str, change: Callable[[Any], Any], fields: dict[str, Any], expected: str
) -> None:
    chain = write_chain(tmp_path, renewals=0, parts=1)
    manifest = rewritten(chain.folder, chain.manifests[0], layout, change, **fields)
    lines = findings_of(chain.folder, manifest)
    assert any(expected in line for line in lines), lines


@pytest.mark.parametrize("content", [None, b"", b"text"])
def test_every_damaged_file_is_a_finding(tmp_path: Path, content: bytes | None) -> None:
    chain = write_chain(tmp_path, renewals=1)
    files: list[VersionFile] = [f for layer in chain.manifests[1].layers for f in layer.files]
    for file in files:
        if content is None:
            chain.folder.delete(file.path)
        else:
            chain.folder.write(file.path, content)
    lines = findings_of(chain.folder, chain.manifests[1])
    assert [line.split()[0] for line in lines] == [file.path for file in files]


def test_a_root_in_two_layers_is_a_finding(tmp_path: Path) -> None:
    chain = write_chain(tmp_path, renewals=0)
    rows = visible_rows(chain.folder, chain.manifests[0], "by_node")[:5]
    ids, roots = (as_ids([row[name] for row in rows]) for name in ("l2_id", "root_id"))
    manifest = VersionWriter(chain.folder, GEOMETRY).write(2, NodeRows.of(roots, features_of(ids)), base=1)
    lines = findings_of(chain.folder, manifest)
    assert f"by_node: l2_id {ids[0]} occurs twice in the version" in lines
    assert any(line.startswith("roots: root_id") and "occurs twice" in line for line in lines)


# ------------------------------------------------------------------ samples
class GraphAtTime(KnownGraph):
    def roots_of(self, _geometry: Any, l2_ids: Ids, _time: Any) -> Ids:
        owners = {int(node): root for root, nodes in self.roots.items() for node in nodes}
        return as_ids([owners.get(node, 0) for node in l2_ids.tolist()])


def known_version(folder: Path) -> tuple[VersionReader, GraphAtTime, MemoryTable]:
    chain = write_chain(folder, renewals=0)
    rows = visible_rows(chain.folder, chain.manifests[0], "by_root")
    roots: dict[int, list[int]] = {}
    for row in rows:
        roots.setdefault(row["root_id"], []).append(row["l2_id"])
    table = MemoryTable()
    nodes = as_ids(sorted(row["l2_id"] for row in rows))
    table.write(features_in_chunks(nodes, 0))
    table.delete(as_ids([row["l2_id"] for row in rows if row["missing"]]))
    graph = GraphAtTime({root: as_ids(nodes) for root, nodes in roots.items()})
    return reader_of(chain.folder, chain.manifests[0]), graph, table


def sample(version: VersionReader, graph: GraphAtTime, table: MemoryTable) -> list[str]:
    found = Findings()
    assert verify_samples(version, Reader(table, GEOMETRY), graph, found) > 250  # type: ignore[arg-type]
    return found.lines


def test_samples_agree_with_graph_and_table(tmp_path: Path) -> None:
    version, graph, table = known_version(tmp_path)
    assert sample(version, graph, table) == []
    table.write(features_of(as_ids([row["l2_id"] for row in missing_of(version)])))
    assert sample(version, graph, table) == []  # what was missing may be known since


def missing_of(version: VersionReader) -> list[dict[str, Any]]:
    return [r for r in visible_rows(version.files.folder, version.manifest, "by_node") if r["missing"]]


def test_samples_that_differ(tmp_path: Path) -> None:
    version, graph, table = known_version(tmp_path)
    large = max(graph.roots, key=lambda root: len(graph.roots[root]))
    lost = int(graph.roots[large][0])
    graph.roots[large] = graph.roots[large][1:]
    changed, gone = table.features["label"][-2:].tolist()
    table.features["size_nm3"][-2] = 77
    table.delete(as_ids([gone]))
    lines = sample(version, graph, table)
    assert f"node {lost}: root is {large}, expected 0 as in the graph" in lines
    assert any(line.startswith(f"node {changed}: size_nm3 is ") for line in lines)
    assert f"node {gone}: has a row in the version, but none in the table" in lines


# ------------------------------------------------------------------ diff
@pytest.mark.parametrize(("a", "b"), [(0, 0), (0, 1), (1, 0), (1, 3), (0, 3)])
def test_differences_are_those_of_all_rows(chain: Chain, a: int, b: int) -> None:
    manifests = [chain.manifests[a], chain.manifests[b]]
    readers = [reader_of(chain.folder, manifest) for manifest in manifests]
    owners = [
        {row["l2_id"]: row["root_id"] for row in visible_rows(chain.folder, m, "by_node")} for m in manifests
    ]
    found = list(node_differences(*readers))
    listed = [row for _, part in found for row in zip(*(ids.tolist() for ids in part), strict=True)]
    nodes = sorted({*owners[0], *owners[1]})
    pairs = [(node, owners[0].get(node, 0), owners[1].get(node, 0)) for node in nodes]
    assert listed == [pair for pair in pairs if pair[1] != pair[2]]
    assert bool(listed) == (a != b)
    roots = [set(of.values()) for of in owners]
    parts = list(root_differences(*readers))
    assert [root for part in parts for root in part.only_a.tolist()] == sorted(roots[0] - roots[1])
    assert [root for part in parts for root in part.only_b.tolist()] == sorted(roots[1] - roots[0])


# ------------------------------------------------------------------ delete
def test_a_version_that_others_stand_on_stays(tmp_path: Path) -> None:
    chain = write_chain(tmp_path, renewals=2)
    for number, others in ((1, "2, 3"), (2, "3")):
        with pytest.raises(
            VersionError, match=f"version {number} is needed by version {others}: delete {others} first"
        ):
            delete_version(chain.folder, number)
    assert findings_of(chain.folder, chain.manifests[2]) == []
    for number in (3, 2, 1):
        delete_version(chain.folder, number)
        assert not chain.folder.exists(f"{number:06d}")
    with pytest.raises(VersionNotFound, match="existing versions: none"):
        delete_version(chain.folder, 1)


def write_plan(folder: Folder, number: int, base: int) -> None:
    names = ("dataset", "l2cache_id", "graph_id", "cv_path")
    same = dict.fromkeys(names, "x")
    plan = Plan(number=number, timestamp=TIME, base=base, box="0:1,0:1,0:1", units=1, **same)
    folder.write(plan_path(number), plan.model_dump_json().encode())


def test_a_version_in_the_making_stays(tmp_path: Path) -> None:
    chain = write_chain(tmp_path, renewals=0)
    write_plan(chain.folder, 2, base=1)
    with chain.folder.locked(plan_path(2)) as locked:
        assert locked
        with pytest.raises(VersionError, match=r"a job is making version 2 in .*: stop it first"):
            delete_version(chain.folder, 2)
    assert chain.folder.exists("000002/plan.json")


def test_an_unfinished_version(tmp_path: Path) -> None:
    chain = write_chain(tmp_path, renewals=0)
    write_plan(chain.folder, 2, base=1)
    chain.folder.write("000002/work/part", b"")
    assert is_unfinished(chain.folder, 2)
    assert not is_unfinished(chain.folder, 1)
    with pytest.raises(VersionError, match="version 1 is needed by version 2"):
        delete_version(chain.folder, 1)
    delete_version(chain.folder, 2)
    delete_version(chain.folder, 1)
    assert chain.folder.names() == []


def test_an_interrupted_deletion_continues(tmp_path: Path) -> None:
    chain = write_chain(tmp_path, renewals=0)
    chain.folder.delete("000001/manifest.json")
    chain.folder.delete_folder("000001/by_root")
    delete_version(chain.folder, 1)
    assert chain.folder.names() == []


def test_a_foreign_folder_stays(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("000001/photo.jpg", b"")
    folder.write("notes.txt", b"")
    with pytest.raises(VersionError, match=r"is not a version's folder: it contains photo\.jpg"):
        delete_version(folder, 1)
    assert folder.names() == ["000001", "notes.txt"]


@pytest.mark.parametrize("content", [b"{", b'{"format": 9}', b"[]"])
def test_nothing_is_deleted_beside_a_malformed_manifest(tmp_path: Path, content: bytes) -> None:
    chain = write_chain(tmp_path, renewals=0)
    chain.folder.write("000002/manifest.json", content)
    with pytest.raises(VersionError, match=r"000002/manifest\.json"):
        delete_version(chain.folder, 1)
    chain.folder.write("000003/plan.json", b"{")
    chain.folder.delete_folder("000002")
    with pytest.raises(VersionError, match=r"000003/plan\.json is not a plan"):
        delete_version(chain.folder, 1)
    assert findings_of(chain.folder, chain.manifests[0]) == []
