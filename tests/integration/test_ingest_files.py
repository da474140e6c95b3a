"""Tests of the batch ingest of a segmentation with missing files."""

from __future__ import annotations

from pathlib import Path

import pytest

from l2features.testing.emulators import Emulator
from l2features.testing.stores import STORE_URL
from tests.support.holes import Holes
from tests.support.ingest_jobs import open_sample, run_ingest, table_bytes
from tests.support.jobs import dataset_file

NOTHING = "12 expected, 0 read, 12 missing (0 forbidden), 0 empty"
ALL_DONE = "12 of 12 chunks done, all of them before this run: nothing to compute"


@pytest.fixture
def holes(sample: Path, tmp_path: Path) -> Holes:
    return Holes(sample, tmp_path)


@pytest.fixture
def config(holes: Holes, tmp_path: Path) -> Path:
    return dataset_file(tmp_path, holes.path)


def test_nothing_found_is_an_error_until_the_files_exist(
    holes: Holes, config: Path, undisturbed: Path
) -> None:
    assert holes.take() == 12
    done = run_ingest(config, "--create")
    assert done.returncode == 1
    assert f"\nfiles: {NOTHING}\n" in done.stdout
    where = f"precomputed://file://{holes.path} at the scale of 16,16,40 nm (files: {NOTHING})"
    assert f"error: no file of the segmentation was found: {where}: check cv_path, mip and" in done.stderr
    resumed = run_ingest(config)
    assert resumed.returncode == 1
    assert ALL_DONE in resumed.stdout
    assert f"error: no file of the segmentation was found: {where}" in resumed.stderr
    allowed = run_ingest(config, "--allow-empty")
    assert allowed.returncode == 0
    assert f"warning: no file of the segmentation was found: {where}" in allowed.stderr

    holes.put_back()
    assert run_ingest(config).returncode == 1
    again = run_ingest(config, "--retry-missing")
    assert again.returncode == 0, again.stderr
    assert "12 of 12 chunks done: " in again.stdout
    assert "\nfiles: 12 expected, 12 read, 0 missing (0 forbidden), 0 empty\n" in again.stdout
    assert table_bytes(config) == table_bytes(undisturbed)


def test_nothing_found_by_a_beam_runner(holes: Holes, config: Path, undisturbed: Path) -> None:
    holes.take()
    done = run_ingest(config, "--create", "--runner=FnApiRunner")
    assert done.returncode == 1
    assert (
        "files_empty 0, files_expected 12, files_forbidden 0, files_missing 12, files_read 0" in done.stdout
    )
    assert f"error: no file of the segmentation was found: precomputed://file://{holes.path}" in done.stderr
    resumed = run_ingest(config, "--runner=FnApiRunner")
    assert (resumed.returncode, resumed.stdout) == (1, "chunks_done_before 12\n")
    assert run_ingest(config, "--allow_empty=true", "--runner=FnApiRunner").returncode == 0
    holes.put_back()
    again = run_ingest(config, "--retry_missing=true", "--runner=FnApiRunner")
    assert again.returncode == 0, again.stderr
    assert "files_expected 12, files_forbidden 0, files_missing 0, files_read 12" in again.stdout
    assert table_bytes(config) == table_bytes(undisturbed)


def test_chunks_with_missing_files_are_computed_again_when_asked(
    holes: Holes, config: Path, undisturbed: Path
) -> None:
    assert holes.take("1056-1088_544-*_36-*") == 1
    done = run_ingest(config, "--create")
    assert done.returncode == 0, done.stderr
    assert "\nfiles: 12 expected, 11 read, 1 missing (0 forbidden), 0 empty\n" in done.stdout
    holes.put_back()
    skipped = run_ingest(config)
    assert (skipped.returncode, skipped.stderr.count("error")) == (0, 0)
    assert ALL_DONE in skipped.stdout
    assert table_bytes(config) != table_bytes(undisturbed)
    again = run_ingest(config, "--retry-missing")
    assert "12 of 12 chunks done, 11 of them before; in this run: " in again.stdout
    assert table_bytes(config) == table_bytes(undisturbed)
    assert ALL_DONE in run_ingest(config, "--retry-missing").stdout


def test_nodes_are_renumbered_and_leftovers_removed(holes: Holes, tmp_path: Path) -> None:
    """Check a chunk in which some files return while others disappear."""
    keys = {"chunk_size": [96, 64, 32]}
    config = dataset_file(tmp_path, holes.path, **keys)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    holes.take("1024-*")
    assert run_ingest(config, "--create").returncode == 0
    few = table_bytes(config)
    holes.put_back()
    holes.take("1056-1088_544-*_36-*")
    assert "1 of 1 chunks done: " in run_ingest(config, "--retry-missing").stdout
    expected = dataset_file(fresh, holes.path, **keys)
    assert run_ingest(expected, "--create").returncode == 0
    assert table_bytes(config) == table_bytes(expected)
    assert len(table_bytes(config)) > len(few)
    holes.put_back()
    holes.take("1024-*")
    assert "1 of 1 chunks done: " in run_ingest(config, "--retry-missing").stdout
    assert table_bytes(config) == few
    store, geometry = open_sample(config)
    segments = store.segments(geometry.layout.chunk_id(0, 0, 0))
    assert segments is not None
    assert len(segments) * 8 < len(few)


def test_only_the_chunks_of_the_run_are_judged(holes: Holes, config: Path) -> None:
    holes.take("1088-*")
    part = run_ingest(config, "--create", "--chunks", "2:3,0:2,0:2")
    assert part.returncode == 1
    assert "4 expected, 0 read, 4 missing" in part.stderr
    whole = run_ingest(config)
    assert whole.returncode == 0, whole.stderr
    assert "12 of 12 chunks done, 4 of them before; in this run: " in whole.stdout
    assert run_ingest(config).returncode == 0
    assert run_ingest(config, "--recompute", "--chunks", "2:3,0:2,0:2").returncode == 1


def test_nothing_found_with_beams_connector(holes: Holes, tmp_path: Path, emulator: Emulator) -> None:
    config = dataset_file(tmp_path, holes.path, store=STORE_URL, l2cache_id="l2_nothing_found")
    holes.take()
    done = run_ingest(config, "--create", "--sink", "bigtableio")
    assert done.returncode == 1
    assert f"error: no file of the segmentation was found: precomputed://file://{holes.path}" in done.stderr
    assert run_ingest(config, "--sink", "bigtableio", "--allow-empty").returncode == 0


def test_a_chunk_that_fails_is_the_error_and_not_that_nothing_was_found(holes: Holes, config: Path) -> None:
    [broken] = holes.data.glob("1056-1088_544-*_36-*")
    holes.take()
    broken.write_bytes(b"junk")
    done = run_ingest(config, "--create", "--allow-empty")
    assert done.returncode == 1
    assert "error: chunk 1,1,1 failed: " in done.stderr
    assert "no file of the segmentation was found" not in done.stderr
