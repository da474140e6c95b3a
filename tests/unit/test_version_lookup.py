"""Tests of lookups in versions: they find what a full read finds, read few row groups, and report damage."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2features.core.errors import ConfigError, DamagedVersion, LookupTooLarge, VersionError
from l2features.core.ids import Ids, as_ids
from l2features.testing.version_files import visible_rows
from l2features.versions.columns import NODE_COLUMNS, ROOT_COLUMNS
from l2features.versions.folders import Folder
from l2features.versions.lookup import VersionReader
from l2features.versions.manifest import Manifest, VersionFile
from l2features.versions.parquet_files import ParquetFiles
from tests.support.version_chains import Chain, write_chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return write_chain(tmp_path_factory.mktemp("versions"), renewals=3)


def reader_of(chain: Chain, number: int = -1, **limits: int) -> VersionReader:
    return VersionReader(ParquetFiles(chain.folder), chain.manifests[number], **limits)


def ids_of(rows: list[dict[str, Any]], name: str) -> Ids:
    return as_ids([row[name] for row in rows])


@pytest.mark.parametrize("number", range(4))
def test_all_rows_of_each_version(chain: Chain, number: int) -> None:
    reader, manifest = reader_of(chain, number), chain.manifests[number]
    nodes, roots = (visible_rows(chain.folder, manifest, layout) for layout in ("by_node", "roots"))
    assert len(nodes) > 200
    assert reader.nodes(ids_of(nodes, "l2_id")).table.to_pylist() == nodes
    assert reader.roots(ids_of(roots, "root_id")).table.to_pylist() == roots
    by_root = reader.nodes_of(ids_of(roots, "root_id")).table.to_pylist()
    assert by_root == visible_rows(chain.folder, manifest, "by_root")
    assert manifest.totals.nodes == len(nodes)


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10_000),
    renewals=st.integers(0, 3),
    parts=st.integers(1, 3),
    group_rows=st.integers(3, 40),
    nodes=st.integers(1, 80),
    limit=st.none() | st.integers(1, 50),
)
def test_random_layers_and_ids(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    renewals: int,
    parts: int,
    group_rows: int,
    nodes: int,
    limit: int | None,
) -> None:
    chain = write_chain(tmp_path_factory.mktemp("random"), renewals, seed, parts, group_rows, nodes)
    rng = np.random.default_rng(seed)
    for manifest in chain.manifests:
        reader = VersionReader(ParquetFiles(chain.folder), manifest)
        for layout, key, find in (
            ("by_root", "root_id", reader.nodes_of),
            ("by_node", "l2_id", reader.nodes),
            ("roots", "root_id", reader.roots),
        ):
            rows = visible_rows(chain.folder, manifest, layout)  # type: ignore[arg-type]
            known = np.unique(ids_of(rows, key))
            some = known[rng.random(len(known)) < 0.3]
            others = rng.integers(0, 1 << 63, 3).astype(np.uint64)
            asked = rng.permutation(np.concatenate([some, others, some[:1], as_ids([2**64 - 1])]))
            expected = [row for row in rows if row[key] in set(some.tolist())]
            assert find(asked, limit=limit).table.to_pylist() == expected[:limit]


def test_batches_are_all_rows(chain: Chain) -> None:
    columns = ["root_id", "l2_id", "size_nm3"]
    table = pa.concat_tables(reader_of(chain).batches("by_node", columns)).sort_by("l2_id")
    rows = visible_rows(chain.folder, chain.manifests[-1], "by_node")
    assert table.to_pylist() == [{name: row[name] for name in columns} for row in rows]


def test_few_row_groups_are_read(chain: Chain) -> None:
    reader, manifest = reader_of(chain, 0), chain.manifests[0]
    rows = visible_rows(chain.folder, manifest, "by_root")
    small = next(row["root_id"] for row in rows if [r["root_id"] for r in rows].count(row["root_id"]) < 10)
    assert reader.roots(as_ids([small])).row_groups == 1
    assert reader.nodes_of(as_ids([small])).row_groups <= 2
    assert reader.nodes(ids_of(rows[:1], "l2_id")).row_groups == 1
    assert reader.roots(as_ids([5, 2**63 - 1])).row_groups == 0
    everything = reader.roots(ids_of(visible_rows(chain.folder, manifest, "roots"), "root_id"))
    assert everything.row_groups == sum(-(-file.rows // 17) for _, file in manifest.files("roots"))
    large = rows[0]["root_id"]
    whole, first = reader.nodes_of(as_ids([large])), reader.nodes_of(as_ids([large]), limit=1)
    assert first.row_groups <= whole.row_groups


def test_retired_roots_are_read_once(chain: Chain) -> None:
    reader = reader_of(chain)
    (root,) = ids_of(visible_rows(chain.folder, chain.manifests[-1], "roots")[:1], "root_id").tolist()
    first, later = reader.roots(as_ids([root])), reader.roots(as_ids([root]))
    assert later.row_groups < first.row_groups
    assert later.row_groups <= 3
    assert later.table.equals(first.table)


def test_columns_are_chosen_by_attribute_or_name(chain: Chain) -> None:
    reader = reader_of(chain)
    node = ids_of(visible_rows(chain.folder, chain.manifests[-1], "by_node")[:1], "l2_id")
    assert reader.nodes(node).table.column_names == list(NODE_COLUMNS)
    few = reader.nodes(node, ["rep_coord_nm", "size_nm3", "pca_1_x", "size_nm3"]).table
    ids, place = ["root_id", "l2_id"], ["rep_coord_nm_x", "rep_coord_nm_y", "rep_coord_nm_z"]
    assert few.column_names == [*ids, *place, "size_nm3", "pca_1_x"]
    assert few.schema.types[:2] == [pa.uint64(), pa.uint64()]
    assert reader.roots(node).table.column_names == list(ROOT_COLUMNS)
    assert reader.roots(node, []).table.column_names == ["root_id"]
    for find, name in (
        (reader.nodes, "n_nodes"),
        (reader.roots, "pca"),
        (reader.nodes, "sise"),
        (reader.roots, "l2_id"),
    ):
        with pytest.raises(ConfigError, match=f"'{name}' is not a column: expected one or more of root_id"):
            find(node, [name])


def test_a_lookup_is_bounded(chain: Chain) -> None:
    roots = ids_of(visible_rows(chain.folder, chain.manifests[0], "roots"), "root_id")
    with pytest.raises(
        LookupTooLarge, match="row groups in one lookup: expected at most 3, ask for fewer ids"
    ):
        reader_of(chain, 0, most_groups=3).nodes_of(roots)
    with pytest.raises(LookupTooLarge, match="rows in one lookup: expected at most 50"):
        reader_of(chain, 0, most_rows=50).nodes_of(roots)
    assert len(reader_of(chain, 0, most_rows=50).nodes_of(roots, limit=20).table) == 20
    with pytest.raises(VersionError, match="not read in time"):
        reader_of(chain, 0).nodes_of(roots, until=time.monotonic() - 1)


# ------------------------------------------------------------------ damaged files
def damaged(path: Path) -> tuple[VersionReader, Folder, Manifest, VersionFile]:
    chain = write_chain(path, renewals=1, parts=1)
    manifest = chain.manifests[0]
    return reader_of(chain, 0), chain.folder, manifest, manifest.layers[0].of("roots")[0]


def change(folder: Folder, file: VersionFile, content: bytes | None) -> None:
    if content is None:
        folder.delete(file.path)
    else:
        folder.write(file.path, content)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("kind", ["missing", "truncated", "empty", "page", "footer", "other", "text"])
def test_damaged_files_are_named(tmp_path: Path, kind: str, warm: bool) -> None:
    reader, folder, manifest, file = damaged(tmp_path)
    root = ids_of(visible_rows(folder, manifest, "roots")[:1], "root_id")
    if warm:
        reader.roots(root)
    content = folder.read(file.path)
    assert content
    flipped = bytearray(content)
    flipped[40] ^= 0xFF
    torn = bytearray(content)
    torn[-9] ^= 0xFF
    other = folder.read(manifest.layers[0].of("by_node")[0].path)
    assert other
    contents = {
        "missing": (None, "is missing"),
        "truncated": (
            content[:-100],
            f"has {len(content) - 100} bytes, expected {len(content)}: it is truncated",
        ),
        "empty": (b"", "has 0 bytes"),
        "page": (bytes(flipped), "cannot be decoded"),
        "footer": (bytes(torn), "cannot be decoded"),
        "other": (other, f"has {len(other)} bytes"),
        "text": (b"x" * len(content), "cannot be decoded"),
    }
    changed, message = contents[kind]
    change(folder, file, changed)
    if warm and kind == "footer":
        assert len(reader.roots(root).table) == 1  # its footer is known, and its pages are whole
        return
    with pytest.raises(DamagedVersion) as raised:
        reader.roots(root)
    assert str(raised.value).startswith(f"000001/roots/part-00000.parquet {message}")
    assert str(tmp_path) not in str(raised.value)


def test_files_of_other_rows_than_the_manifest_says(tmp_path: Path) -> None:
    reader, folder, manifest, file = damaged(tmp_path)
    root = ids_of(visible_rows(folder, manifest, "roots")[:1], "root_id")
    nodes = manifest.layers[0].of("by_node")[0]
    wrong = [
        (file.model_copy(update={"rows": file.rows + 1}), f"has {file.rows} rows, expected {file.rows + 1}"),
        (nodes.model_copy(update={"layout": "roots"}), "has no column n_nodes|cannot be decoded"),
    ]
    for changed, message in wrong:
        layer = manifest.layers[0].model_copy(update={"files": (changed,)})
        other = VersionReader(ParquetFiles(folder), manifest.model_copy(update={"layers": (layer,)}))
        with pytest.raises(DamagedVersion, match=message):
            other.roots(root)
    assert len(reader.roots(root).table) == 1


def test_a_new_file_of_a_known_path_is_read_anew(tmp_path: Path) -> None:
    files = ParquetFiles(Folder(str(tmp_path)))
    for seed in (1, 2):
        chain = write_chain(tmp_path, renewals=0, seed=seed)
        rows = visible_rows(chain.folder, chain.manifests[0], "roots")
        reader = VersionReader(files, chain.manifests[0])
        assert reader.roots(ids_of(rows, "root_id")).table.to_pylist() == rows
        chain.folder.delete_folder("000001")


def test_caches_are_bounded(chain: Chain) -> None:
    files = ParquetFiles(chain.folder, footer_bytes=1, retired_bytes=1)
    reader, rows = (
        VersionReader(files, chain.manifests[-1]),
        visible_rows(chain.folder, chain.manifests[-1], "roots"),
    )
    for _ in range(2):
        assert reader.roots(ids_of(rows, "root_id")).table.to_pylist() == rows
