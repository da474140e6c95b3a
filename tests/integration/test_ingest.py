"""Tests of the batch ingest command: complete, exact and resumable."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from cloudvolume import CloudVolume
from google.cloud import bigtable

import l2features
from beam_jobs.ingest import main
from l2features.store.base import open_store
from l2features.testing.emulators import Emulator
from l2features.testing.stores import INSTANCE, PROJECT, STORE_URL
from tests.support.ingest_jobs import N_CHUNKS, done_chunks, open_sample, run_ingest, table_bytes
from tests.support.jobs import Recordings, all_rows, dataset_file


def test_the_store_holds_what_the_kernel_gives_for_every_chunk(undisturbed: Path, sample: Path) -> None:
    store, geometry = open_sample(undisturbed)
    volume = CloudVolume(f"precomputed://file://{sample}", progress=False)[:][..., 0]
    nodes = 0
    for xyz in np.ndindex(*geometry.grid):
        start = np.array(xyz) * geometry.chunk_size
        cutout = volume[tuple(slice(a, a + n) for a, n in zip(start, geometry.chunk_size, strict=True))]
        full = np.zeros(geometry.chunk_size, dtype=np.uint64)
        full[tuple(slice(0, n) for n in cutout.shape)] = cutout
        expected = l2features.compute_features(full, geometry.resolution)
        chunk_id = geometry.layout.chunk_id(*xyz)
        rows = store.scan_chunk(chunk_id, geometry.layout.last_id(chunk_id))
        segments = store.segments(chunk_id)
        assert segments is not None
        np.testing.assert_array_equal(segments, expected["label"])
        np.testing.assert_array_equal(rows.ids, chunk_id + np.arange(1, len(expected) + 1, dtype=np.uint64))
        for name in expected.dtype.names[1:]:
            np.testing.assert_array_equal(rows.features[name], expected[name])
        nodes += len(expected)
    assert nodes > 50
    assert done_chunks(undisturbed) == N_CHUNKS


@pytest.mark.parametrize("runner", ["FnApiRunner", "DirectRunner"])
def test_beams_own_runners_give_the_same_table(
    tmp_path: Path, sample: Path, undisturbed: Path, runner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataset_file(tmp_path, sample)
    assert main(["--config", str(config), "--dataset", "sample", "--create", f"--runner={runner}"]) == 0
    assert "chunks 12" in capsys.readouterr().out
    assert table_bytes(config) == table_bytes(undisturbed)
    assert main(["--config", str(config), "--dataset", "sample", f"--runner={runner}"]) == 0
    assert "chunks_done_before 12" in capsys.readouterr().out


def test_a_second_run_computes_nothing_and_recompute_computes_all(tmp_path: Path, sample: Path) -> None:
    config = dataset_file(tmp_path, sample)
    assert "12 of 12 chunks done" in run_ingest(config, "--create", processes=True).stdout
    before = table_bytes(config)
    again = run_ingest(config, "--create")
    assert again.returncode == 0
    assert "12 of 12 chunks done, all of them before this run: nothing to compute" in again.stdout
    assert "12 of 12 chunks done:" in run_ingest(config, "--recompute").stdout
    assert table_bytes(config) == before


@pytest.mark.parametrize(
    ("flags", "chunks"), [(["--test"], 8), (["--chunks", "0:1,0:2,1:2"], 2), (["--chunks", "2:3,1:2,0:2"], 2)]
)
def test_a_part_of_the_grid(tmp_path: Path, sample: Path, flags: list[str], chunks: int) -> None:
    config = dataset_file(tmp_path, sample)
    done = run_ingest(config, "--create", *flags)
    assert f"{chunks} of {chunks} chunks done" in done.stdout
    assert done_chunks(config) == chunks


@pytest.mark.parametrize(
    ("flags", "keys", "message"),
    [
        ([], {}, "table l2cache_sample is not in sqlite"),
        (
            ["--create", "--timestamp", "yesterday"],
            {},
            "timestamp 'yesterday': expected \"YYYY-MM-DD HH:MM:SS\"",
        ),
        (["--create", "--chunks", "0:9,0:1,0:1"], {}, "expected a part of the grid, which is 0:3,0:2,0:2"),
        (["--create", "--chunks", "1,2"], {}, "expected x0:x1,y0:y1,z0:z1"),
        (["--create", "--no_such_option"], {}, "unknown option --no_such_option"),
        (["--create", "--workers", "0"], {}, "--workers 0: expected 1 or more"),
        (["--create", "--test", "--chunks", "0:1,0:1,0:1"], {}, "not allowed with"),
        (["--create", "--sink", "bigtableio"], {}, "sink bigtableio: the data set's store is sqlite"),
        (["--create"], {"chunk_size": None}, "key 'chunk_size' is missing"),
        (
            ["--create"],
            {"cv_path": "precomputed://file:///no/such/place"},
            "cannot open precomputed://file:///no",
        ),
        (["--create"], {"graph": "bigtable://p"}, "key 'graph': expected flat, graphene or bigtable://"),
    ],
)
def test_a_users_mistake_is_reported_before_computing(
    tmp_path: Path, sample: Path, flags: list[str], keys: dict[str, object], message: str
) -> None:
    config = dataset_file(tmp_path, sample, **keys)
    done = run_ingest(config, *flags)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode in (1, 2)
    assert not (tmp_path / "l2cache.db").exists()


def test_a_data_set_that_is_not_in_the_file(tmp_path: Path, sample: Path) -> None:
    done = run_ingest(dataset_file(tmp_path, sample), dataset="other")
    assert done.returncode == 2
    assert "'other' is not in the data sets file: expected one of sample" in done.stderr


def test_beams_connector_writes_the_same_rows(
    tmp_path: Path, sample: Path, undisturbed: Path, emulator: Emulator
) -> None:
    config = dataset_file(tmp_path, sample, store=STORE_URL, l2cache_id="l2_bigtableio")
    done = run_ingest(config, "--create", "--sink", "bigtableio", processes=True)
    assert done.returncode == 0, done.stderr
    assert "12 of 12 chunks done" in done.stdout
    assert table_bytes(config) == table_bytes(undisturbed)
    assert done_chunks(config) == 0


def test_an_empty_segmentation(tmp_path: Path) -> None:
    info = CloudVolume.create_new_info(
        1, "segmentation", "uint64", "raw", (16, 16, 40), (0, 0, 0), (64, 32, 16)
    )
    volume = CloudVolume(f"precomputed://file://{tmp_path}/empty", info=info, progress=False)
    volume.commit_info()
    config = dataset_file(tmp_path, tmp_path / "empty")
    done = run_ingest(config, "--create", "--allow-empty")
    assert done.returncode == 0
    assert "2 of 2 chunks done: 0 nodes" in done.stdout


def test_an_older_table_without_meta_is_filled_and_stamped(
    tmp_path: Path, sample: Path, undisturbed: Path, emulator: Emulator
) -> None:
    client = bigtable.Client(project=PROJECT, admin=True)
    client.instance(INSTANCE).table("l2_older").create(column_families={"0": None})
    config = dataset_file(tmp_path, sample, store=STORE_URL, l2cache_id="l2_older")
    assert open_store(STORE_URL, "l2_older").meta() is None
    done = run_ingest(config, "--timestamp", "2020-02-02 02:02:02")
    assert done.returncode == 0
    meta = open_store(STORE_URL, "l2_older").meta()
    assert meta is not None
    assert (meta.graph_id, meta.timestamp) == ("flat", "2020-02-02 02:02:02")
    assert table_bytes(config) == table_bytes(undisturbed)
    refused = run_ingest(config, "--timestamp", "2021-02-02 02:02:02")
    assert "has timestamp 2020-02-02 02:02:02, not 2021-02-02 02:02:02" in refused.stderr


def test_a_genuine_table_is_ingested_onto(tmp_path: Path, recordings: Recordings) -> None:
    client = bigtable.Client(project=PROJECT, admin=True)
    dump = recordings.dump("cache.json.gz")
    recordings.loader.load(client.instance(INSTANCE), dump, "l2_genuine")
    graph = f"bigtable://{PROJECT}/{INSTANCE}/fixture_v2"
    keys = {"store": STORE_URL, "l2cache_id": "l2_genuine", "graph": graph, "chunk_size": None}
    config = dataset_file(tmp_path, recordings.cv_path("fixture_v2"), **keys)
    done = run_ingest(config)
    assert "12 of 12 chunks done" in done.stdout
    for row in client.instance(INSTANCE).table("l2_genuine").read_rows():
        for family in row.cells.values():
            assert {len(cells) for cells in family.values()} == {1}
    meta = open_store(STORE_URL, "l2_genuine").meta()
    assert meta is not None
    assert meta.timestamp == "2026-11-21 00:27:44"
    assert meta.geometry is not None
    assert len(all_rows(open_store(STORE_URL, "l2_genuine"))) == 159


def test_another_segmentation_does_not_mix_into_a_table(tmp_path: Path, sample: Path) -> None:
    config = dataset_file(tmp_path, sample)
    assert run_ingest(config, "--create", "--test").returncode == 0
    copy = tmp_path / "copy"
    shutil.copytree(sample, copy)
    done = run_ingest(dataset_file(tmp_path, copy), "--create")
    assert done.returncode == 1
    assert f"is of precomputed://file://{sample}, but the data set has cv_path" in done.stderr


@pytest.mark.parametrize("store", ["sqlite", "bigtable"])
def test_recompute_leaves_no_rows_of_segments_that_are_gone(
    tmp_path: Path, sample: Path, undisturbed: Path, emulator: Emulator, store: str
) -> None:
    segmentation = tmp_path / "segmentation"
    shutil.copytree(sample, segmentation)
    keys = {"store": STORE_URL, "l2cache_id": "l2_recompute"} if store == "bigtable" else {}
    config = dataset_file(tmp_path, segmentation, **keys)
    volume = CloudVolume(f"precomputed://file://{segmentation}", progress=False)
    before = volume[:]
    volume[:] = np.where(
        before == 0, 0, np.arange(before.size, dtype=np.uint64).reshape(before.shape) % 50 + 1
    )
    assert run_ingest(config, "--create").returncode == 0
    assert len(table_bytes(config)) > len(table_bytes(undisturbed))
    volume[:] = before
    assert run_ingest(config, "--recompute").returncode == 0
    assert table_bytes(config) == table_bytes(undisturbed)


def test_a_missing_graph_is_reported_before_the_table_is_created(
    tmp_path: Path, sample: Path, recordings: Recordings
) -> None:
    graph = f"bigtable://{PROJECT}/{INSTANCE}/no_such_graph"
    config = dataset_file(tmp_path, recordings.cv_path("fixture_v2"), graph=graph, chunk_size=None)
    done = run_ingest(config, "--create", "--timestamp", "2026-11-21 00:27:44")
    assert done.returncode == 1
    assert f"error: {graph}: the table does not exist" in done.stderr
    assert not (tmp_path / "l2cache.db").exists()


def test_an_unknown_runner(tmp_path: Path, sample: Path) -> None:
    done = run_ingest(dataset_file(tmp_path, sample), "--create", "--runner", "Nonsense")
    assert done.returncode == 2
    assert "error: runner Nonsense: " in done.stderr
