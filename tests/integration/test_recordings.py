"""Tests of ingesting the recorded graphs, from a table or a server, and of reading genuine cache rows."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from google.cloud import bigtable

from l2features.core.ids import row_keys
from l2features.core.rows import encode_cells
from l2features.store.base import open_store
from l2features.testing.stores import INSTANCE, PROJECT, STORE_URL
from tests.support.ingest_jobs import run_ingest
from tests.support.jobs import Recordings, all_rows, dataset_file
from tests.support.recordings import check_values, ingest, valid_at_t0


@pytest.mark.parametrize(
    ("graph", "source"),
    [
        ("fixture_v2", f"bigtable://{PROJECT}/{INSTANCE}/{{graph}}"),
        ("fixture_v1", f"bigtable://{PROJECT}/{INSTANCE}/{{graph}}"),
        ("fixture_v2", "graphene"),
    ],
)
def test_ingest_writes_every_recorded_id_and_no_other(
    tmp_path: Path, recordings: Recordings, graph: str, source: str
) -> None:
    rows = all_rows(ingest(tmp_path, recordings, graph, source))
    expected = valid_at_t0(recordings, graph)
    check_values(rows, expected)
    differing = [
        row["label"]
        for row in rows.features
        if row["rep_coord_nm"].tolist() != expected[str(row["label"])]["rep_coord_nm"]
    ]
    assert len(differing) == 3  # their voxels tie, and the recorded pick depends on hash order


@pytest.mark.parametrize("graph", ["fixture_v1", "fixture_v2"])
def test_a_graph_table_says_what_a_precomputed_segmentation_does_not(
    tmp_path: Path, recordings: Recordings, graph: str
) -> None:
    cv_path = f"precomputed://file://{recordings.layers}/{graph}/ws"
    source = f"bigtable://{PROJECT}/{INSTANCE}/{{graph}}"
    rows = all_rows(ingest(tmp_path, recordings, graph, source, cv_path))
    check_values(rows, valid_at_t0(recordings, graph))


def test_kvdbclient_reads_our_table(tmp_path: Path, recordings: Recordings) -> None:
    from kvdbclient import BigTableClient
    from kvdbclient.attributes import _Attribute
    from kvdbclient.bigtable import BigTableConfig
    from kvdbclient.serializers import NumPyArray, NumPyValue

    store = ingest(tmp_path, recordings, "fixture_v2", f"bigtable://{PROJECT}/{INSTANCE}/{{graph}}")
    client = BigTableClient(store.name, config=BigTableConfig(PROJECT=PROJECT, INSTANCE=INSTANCE))
    meta = client.read_table_meta()
    assert meta["graph_id"] == "fixture_v2"
    assert meta["timestamp"] == "2026-11-21 00:27:44"
    size = _Attribute(key=b"size_nm3", family_id="0", serializer=NumPyValue(dtype=np.dtype("<u4")))
    pca = _Attribute(key=b"pca", family_id="0", serializer=NumPyArray(dtype=np.dtype("<f2"), shape=(-1, 3)))
    rows = all_rows(store)
    read = client.read_nodes(node_ids=rows.ids, properties=[size, pca])
    assert len(read) == len(rows)
    for row in rows.features:
        cells = read[row["label"]]
        assert cells[size][0].value == row["size_nm3"]
        assert len(cells[size]) == 1
        assert cells[pca][0].value.shape == ((3, 3) if row["has_pca"] else (0, 3))


def test_we_read_the_genuine_table(recordings: Recordings) -> None:
    store = open_store(STORE_URL, "l2cache_fixture")
    meta = store.meta()
    assert meta is not None
    assert (meta.graph_id, meta.timestamp) == ("fixture_v2", "2026-11-21 00:27:44")
    expected = valid_at_t0(recordings, "fixture_v2")
    rows = store.read([int(i) for i in expected])
    assert rows.found.all()
    for row in rows.features:
        want = expected[str(row["label"])]
        assert row["rep_coord_nm"].tolist() == want["rep_coord_nm"]
        assert float(row["mean_dt_nm"]) == want["mean_dt_nm"]


def test_our_codec_gives_the_bytes_of_the_genuine_rows(recordings: Recordings) -> None:
    store = open_store(STORE_URL, "l2cache_fixture")
    cells = {}
    for key, row in recordings.dump("cache.json.gz")["rows"]:
        if base64.b64decode(key).isdigit():
            cells[int(base64.b64decode(key))] = {
                base64.b64decode(qualifier): base64.b64decode(value) for _, qualifier, value, _ in row
            }
    rows = store.read(list(cells))
    for row, encoded in zip(rows.features, encode_cells(rows.features), strict=True):
        assert dict(encoded) == cells[int(row["label"])]
    assert len(rows) == 159


def test_a_second_run_takes_its_timestamp_from_the_table(tmp_path: Path, recordings: Recordings) -> None:
    source = f"bigtable://{PROJECT}/{INSTANCE}/{{graph}}"
    store = ingest(tmp_path, recordings, "fixture_v2", source)
    before = json.dumps(all_rows(store).features.tolist(), default=str)
    again = run_ingest(tmp_path / "datasets.yml")
    assert again.returncode == 0
    assert "12 of 12 chunks done, all of them before this run: nothing to compute" in again.stdout
    other = run_ingest(tmp_path / "datasets.yml", "--timestamp", "2026-11-21 01:00:00")
    assert other.returncode == 2
    assert "has timestamp 2026-11-21 00:27:44, not 2026-11-21 01:00:00" in other.stderr
    recomputed = run_ingest(tmp_path / "datasets.yml", "--recompute")
    assert "12 of 12 chunks done" in recomputed.stdout
    assert json.dumps(all_rows(store).features.tolist(), default=str) == before


def test_a_parent_that_cannot_be_right_is_an_error_for_its_supervoxel(
    tmp_path: Path, recordings: Recordings
) -> None:
    dump = recordings.dump("graph_v2.json.gz")
    supervoxel, layer_3 = 72057594037927937, 3 << 56
    for key, cells in dump["rows"]:
        if base64.b64decode(key) == row_keys(np.array([supervoxel], dtype=np.uint64))[0]:
            for cell in cells:
                if base64.b64decode(cell[1]) == b"parents":
                    cell[2] = base64.b64encode(layer_3.to_bytes(8, "little")).decode()
    client = bigtable.Client(project=PROJECT, admin=True)
    recordings.loader.load(client.instance(INSTANCE), dump, "fixture_bad")
    config = dataset_file(
        tmp_path,
        recordings.cv_path("fixture_v2"),
        graph=f"bigtable://{PROJECT}/{INSTANCE}/fixture_bad",
        chunk_size=None,
    )
    done = run_ingest(config, "--create", "--timestamp", "2026-11-21 00:27:44")
    assert done.returncode == 1
    reason = f"supervoxel {supervoxel}: parent {layer_3} is not of layer 2"
    assert f"error: chunk 0,0,0 failed: {reason}" in done.stderr
    assert "11 of 12 chunks done" in done.stdout
    rows = all_rows(open_store(f"sqlite://{tmp_path}/l2cache.db", "l2cache_sample"))
    expected = valid_at_t0(recordings, "fixture_v2")
    owner = recordings.json("l2_children.json")["supervoxel_to_l2_t0"][str(supervoxel)]
    assert set(rows.ids.tolist()) == {int(i) for i in expected}
    differing = [r["label"] for r in rows.features if r["size_nm3"] != expected[str(r["label"])]["size_nm3"]]
    assert differing == [owner]


def test_before_the_graph_was_made_every_supervoxel_is_an_orphan(
    tmp_path: Path, recordings: Recordings
) -> None:
    for graph in (f"bigtable://{PROJECT}/{INSTANCE}/fixture_v2", "graphene"):
        folder = tmp_path / graph[:8]
        folder.mkdir()
        config = dataset_file(folder, recordings.cv_path("fixture_v2"), graph=graph, chunk_size=None)
        done = run_ingest(config, "--create", "--timestamp", "2026-11-20 22:00:00")
        assert done.returncode == 0
        assert "12 of 12 chunks done: 0 nodes, 209 supervoxels without a parent" in done.stdout
