"""Tests of the files of a partition: the same rows give the same bytes, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from l2features.core.errors import VersionError
from l2features.core.ids import Ids
from l2features.core.rows import Rows
from l2features.core.schema import ATTRIBUTES, COLUMN, SIZE
from l2features.graph.base import NodeRoots
from l2features.query.reader import Status
from l2features.testing.stores import features_of
from l2features.testing.unprivileged import readable_folder, unprivileged
from l2features.versions.folders import Folder
from l2features.versions.manifest import BY_NODE, BY_ROOT, Layout
from l2features.versions.node_rows import NODE_ROW, blank, labels, put_rows, stated
from l2features.versions.partitions import (
    Partition,
    PartitionWriter,
    Sizes,
    Written,
    divide,
    partitions,
)
from l2features.versions.plan import Plan, bounds_of
from tests.support.known_roots import FIRST_ROOT, GEOMETRY, features_in_chunks
from tests.support.version_chains import node_ids

ONE_FILE = Sizes(file_rows=10_000, group_rows=64, most_rows=10_000, summary_rows=50)
MANY_FILES = Sizes(file_rows=130, group_rows=50, most_rows=10_000, summary_rows=50)


def rows_of(count: int, roots: int = 12, seed: int = 0) -> np.ndarray:
    """Return nodes of random roots with random features; every eighth has no row in the store."""
    ids, rng = node_ids(count, seed), np.random.default_rng(seed)
    owners = np.uint64(FIRST_ROOT + 1) + rng.integers(0, roots, count).astype(np.uint64)
    rows, features = blank(NodeRoots(ids, owners)), features_in_chunks(ids, seed)
    put_rows(rows, Rows.complete(features[np.arange(count) % 8 != 3]))
    return rows


def write(folder: Path, layout: Layout, parts: Sequence[np.ndarray], sizes: Sizes) -> Written:
    writer = PartitionWriter(Folder(str(folder)), GEOMETRY, 1, sizes)
    return writer.write(Partition(layout, 0), lambda: iter(parts))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def columns(folder: Path, written: Written, layout: str) -> list[Any]:
    tables = [pq.read_table(folder / file.path) for file in written.files if file.layout == layout]
    return [row for table in tables for row in table.to_pylist()]


@pytest.mark.parametrize("layout", [BY_ROOT, BY_NODE])
@pytest.mark.parametrize("sizes", [ONE_FILE, MANY_FILES])
@pytest.mark.parametrize(("cuts", "most"), [([7, 7, 200], 10_000), ([], 40), ([50, 333], 150)])
def test_order_division_and_memory_leave_the_bytes(
    tmp_path: Path, layout: Layout, sizes: Sizes, cuts: list[int], most: int
) -> None:
    rows = rows_of(400)
    one = write(tmp_path / "one", layout, [rows], sizes)
    mixed = np.split(np.random.default_rng(most).permutation(rows), cuts)
    assert write(tmp_path / "other", layout, mixed, sizes._replace(most_rows=most)) == one
    assert content(tmp_path / "other") == content(tmp_path / "one")
    assert len([file for file in one.files if file.layout == layout]) == -(-400 // sizes.file_rows)


def test_rows_are_sorted_and_counted(tmp_path: Path) -> None:
    rows = rows_of(300)
    written = write(tmp_path, BY_ROOT, [rows], MANY_FILES)
    found = [(row["root_id"], row["l2_id"], row["missing"]) for row in columns(tmp_path, written, BY_ROOT)]
    ids, owners = labels(rows).tolist(), rows["root"].tolist()
    assert found == sorted(zip(owners, ids, rows["missing"].tolist(), strict=True))
    roots = columns(tmp_path, written, "roots")
    assert [row["root_id"] for row in roots] == sorted(set(owners))
    assert sum(row["n_nodes"] for row in roots) == written.nodes == 300
    assert sum(row["n_missing"] for row in roots) == written.missing == rows["missing"].sum() > 30
    empty = (stated(rows).status == Status.EMPTY).sum()
    assert sum(row["n_empty"] for row in roots) == written.empty == empty > 10
    gone = [(row["root_id"], row["l2_id"]) for row in columns(tmp_path, written, "missing_nodes")]
    assert gone == [(root, l2_id) for root, l2_id, missing in found if missing]
    nodes = write(tmp_path, BY_NODE, [rows], MANY_FILES)
    assert [row["l2_id"] for row in columns(tmp_path, nodes, BY_NODE)] == ids
    assert (nodes.nodes, nodes.roots, nodes.missing, nodes.empty) == (0, 0, 0, 0)
    for file in (*written.files, *nodes.files):
        table = pq.read_table(tmp_path / file.path)
        assert (len(table), (tmp_path / file.path).stat().st_size) == (file.rows, file.bytes)
        owners = table["root_id"].to_pylist()
        assert (min(owners), max(owners)) == (file.min_root, file.max_root)


def test_a_root_larger_than_all_limits_is_one_row_of_roots(tmp_path: Path) -> None:
    small = Sizes(file_rows=130, group_rows=50, most_rows=100, summary_rows=60)
    written = write(tmp_path, BY_ROOT, np.array_split(rows_of(400, roots=1), 5), small)
    assert [row["n_nodes"] for row in columns(tmp_path, written, "roots")] == [400]
    assert [file.rows for file in written.files if file.layout == BY_ROOT] == [130, 130, 130, 10]


@pytest.mark.parametrize("parts", [[], [np.empty(0, dtype=NODE_ROW)]])
def test_a_partition_without_rows_has_no_files(tmp_path: Path, parts: list[np.ndarray]) -> None:
    for layout in (BY_ROOT, BY_NODE):
        assert write(tmp_path, layout, parts, ONE_FILE) == Written(layout=layout)
    assert content(tmp_path) == {}


def test_the_file_of_retired_roots_is_sorted_and_may_be_empty(tmp_path: Path) -> None:
    writer = PartitionWriter(Folder(str(tmp_path)), GEOMETRY, 2)
    for roots in ([7, 3, 5], []):
        file = writer.retired(np.array(roots, dtype=np.uint64))
        assert (file.path, file.rows) == ("000002/retired.parquet", len(roots))
        assert pq.read_table(tmp_path / file.path)["root_id"].to_pylist() == sorted(roots)


def test_partitions_share_out_all_rows_once() -> None:
    rows = rows_of(300)
    ids: list[Ids] = [labels(rows), np.ascontiguousarray(rows["root"])]
    node_bounds, root_bounds = (bounds_of([own], 4) for own in ids)
    plan = a_plan(root_bounds=root_bounds, node_bounds=node_bounds)
    parts = dict(divide(rows, plan))
    assert set(parts) <= set(partitions(plan))
    for layout, keys in ((BY_ROOT, "root"), (BY_NODE, "label")):
        own = [part for partition, part in sorted(parts.items()) if partition.layout == layout]
        assert len(own) > 2
        values = [part["root"] if keys == "root" else labels(part) for part in own]
        assert all(a.max() < b.min() for a, b in pairwise(values))
        together = np.concatenate(own)
        assert np.sort(labels(together)).tolist() == labels(rows).tolist()


def test_a_block_without_nodes_has_no_part() -> None:
    assert list(divide(rows_of(300)[:0], a_plan())) == []


def a_plan(**fields: Any) -> Plan:
    about = {"dataset": "d", "l2cache_id": "t", "graph_id": "g", "cv_path": "c", "box": "0:1,0:1,0:1"}
    known = {"number": 1, "timestamp": "2026-11-21T00:00:00Z", "units": 1, **about}
    return Plan.model_validate(known | fields)


# ------------------------------------------------------------------ rows of nodes
def test_a_node_is_missing_empty_or_ready() -> None:
    ids = node_ids(9)
    features = features_of(ids)
    rows = blank(NodeRoots(ids, np.full(9, 77, dtype=np.uint64)))
    put_rows(rows, Rows.complete(features[1:]))
    found = stated(rows)
    assert found.status.tolist() == [Status.MISSING, *[Status.READY] * 5, Status.EMPTY, *[Status.READY] * 2]
    assert found.rows.ids.tolist() == ids.tolist()
    assert not found.rows.present[[0, 6]].any()
    optional = [COLUMN[a.name] for a in ATTRIBUTES if a.condition]
    assert optional
    assert found.rows.present[1:, optional].any(axis=1).tolist() == [
        bool(row["label"] and i % 3 != 2 and i != 6) for i, row in enumerate(features) if i
    ]
    assert (found.rows.features[SIZE][1:] == features[SIZE][1:]).all()


def test_rows_of_other_nodes_and_none_are_left_out() -> None:
    ids = node_ids(4)
    rows = blank(NodeRoots(ids[[0, 2]], np.full(2, 77, dtype=np.uint64)))
    put_rows(rows, Rows.complete(features_of(ids[:0])))
    assert rows["missing"].all()
    put_rows(rows, Rows.empty(ids))
    assert rows["missing"].all()
    put_rows(rows, Rows.complete(features_of(ids[1:])))
    assert rows["missing"].tolist() == [True, False]
    put_rows(rows[:0], Rows.complete(features_of(ids)))
    assert (stated(rows[:0]).status == []).all()


# ------------------------------------------------------------------ failures
def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    def parts() -> Any:
        yield rows_of(100)
        raise OSError(28, "No space left on device")

    writer = PartitionWriter(Folder(str(tmp_path)), GEOMETRY, 1, MANY_FILES)
    with pytest.raises(OSError, match="No space left"):
        writer.write(Partition(BY_ROOT, 0), parts)
    huge = rows_of(300)
    huge["root"][250:] = 1 << 63
    with pytest.raises(VersionError, match=r"by_node, partition 0: .*expected less than 2\^63"):
        writer.write(Partition(BY_NODE, 0), lambda: [huge])
    assert not [path for path in content(tmp_path) if "/." in path]


def test_a_folder_without_permission() -> None:
    rows = rows_of(5)
    with (
        readable_folder() as folder,
        unprivileged(),
        pytest.raises(VersionError, match=r"cannot write .*/by_node/part-00000-000.parquet: .*ermission"),
    ):
        write(folder, BY_NODE, [rows], ONE_FILE)
