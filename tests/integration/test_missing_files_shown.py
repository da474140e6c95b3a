"""Tests of missing files and saturated values in the output of commands and audits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from beam_jobs.audit import main as audit_main
from l2features.core.chunks import FileCounts
from l2features.core.geometry import Chunk
from l2features.store.base import DONE, FAILED, ChunkRecord
from l2features.store.notes import AUDIT, audit_text, last_audit
from l2features.testing.stores import T0, open_table
from tests.support.command import run
from tests.support.holes import Holes
from tests.support.ingest_jobs import open_sample, run_ingest
from tests.support.jobs import Ran, dataset_file, run_job


def records(config: Path, *files: FileCounts, saturated: int = 0) -> None:
    """Record the first chunks of the grid as done, with the given file counts."""
    store, geometry = open_sample(config)
    for x, counts in enumerate(files):
        cut_off = {"area_nm2": saturated} if saturated else {}
        chunk_id = geometry.chunk_id(Chunk(x % 3, x // 3 % 2, x // 6))
        store.put_chunk(ChunkRecord(chunk_id, DONE, T0, files=counts, saturated=cut_off))


def status(config: Path) -> list[str]:
    return run("status", "sample", "--config", config).output.splitlines()


# ------------------------------------------------------------------ status
def test_status_sums_files_and_saturated_values(config: Path) -> None:
    records(config, FileCounts(8, 5, 3, 1), FileCounts(8, 6, 0, 0, 2), FileCounts(8, 8), saturated=4)
    lines = status(config)
    assert "files: 33 expected, 28 read, 3 missing (1 forbidden), 2 empty" in lines
    assert "2 chunks have missing or empty files: ingest --retry-missing computes them again" in lines
    assert "saturated: area_nm2 in 12 nodes" in lines
    state = json.loads(run("status", "sample", "--config", config, "--json").output)
    assert state["files"] == {"expected": 33, "read": 28, "missing": 3, "forbidden": 1, "empty": 2}
    assert (state["chunks_missing_files"], state["uncounted"]) == (2, 0)
    assert state["saturated"] == {"area_nm2": 12}


def test_status_where_all_is_well_says_nothing_of_missing_files(config: Path) -> None:
    lines = status(config)
    assert "files: 12 expected, 12 read, 0 missing (0 forbidden), 0 empty" in lines
    assert not [line for line in lines if "retry-missing" in line or "saturated" in line]


def test_status_where_no_file_was_found(config: Path) -> None:
    records(config, *[FileCounts(8, 0, 8)] * 12)
    assert "no file of the segmentation was found: check cv_path, mip and scale" in status(config)
    records(config, FileCounts())
    lines = status(config)
    files = "files: 88 expected, 0 read, 88 missing (0 forbidden), 0 empty; 1 chunks have no counts of files"
    assert files in lines
    assert not [line for line in lines if line.startswith("no file")]


def test_status_of_records_that_count_no_files(config: Path) -> None:
    records(config, *[FileCounts()] * 12)
    assert not [line for line in status(config) if "file" in line]


# ------------------------------------------------------------------ chunk
def test_chunk_reports_missing_files(tmp_path: Path, sample: Path) -> None:
    holes = Holes(sample, tmp_path)
    config = dataset_file(tmp_path, holes.path)
    assert run("chunk", "sample", "1,1,1", "--config", config).stderr == ""
    holes.take("1056-1088_544-*_36-*")
    result = run("chunk", "sample", "1,1,1", "--config", config, "--json")
    assert (result.exit_code, result.stdout) == (0, "{}\n")
    assert result.stderr == "files: 1 expected, 0 read, 1 missing (0 forbidden), 0 empty\n"


# ------------------------------------------------------------------ audit
def run_audit(config: Path, *flags: str) -> Ran:
    return run_job(audit_main, "--config", config, "--dataset", "sample", "--workers", 1, *flags)


@pytest.mark.parametrize("flags", [[], ["--runner=FnApiRunner"]], ids=["local", "beam"])
def test_an_audit_of_nothing_is_not_complete(tmp_path: Path, sample: Path, flags: list[str]) -> None:
    holes = Holes(sample, tmp_path)
    holes.take()
    config = dataset_file(tmp_path, holes.path)
    assert run_ingest(config, "--create", "--allow-empty", "--runner=FnApiRunner").returncode == 0
    done = run_audit(config, *flags)
    assert done.returncode == 1
    assert done.stdout.splitlines()[1:] == [
        "12 chunks were ingested with missing files: ingest --retry-missing computes them again",
        "no file of the segmentation was ever found: check cv_path, mip and scale",
        "0 nodes expected: 0 present (0 of them marked empty), 0 missing",
        "0 superfluous rows",
        "incomplete",
    ]
    kept = last_audit(open_table(config))
    assert kept
    assert (kept.complete, kept.nothing_found, kept.files_missing) == (False, True, 12)
    assert audit_text(kept).endswith(" missing; no file of the segmentation was ever found")


def test_an_audit_with_some_files_missing_is_complete_and_says_so(config: Path) -> None:
    store, geometry = open_sample(config)
    corner = geometry.chunk_id(Chunk(2, 1, 1))
    store.delete(corner, geometry.layout.last_id(corner))
    store.put_chunk(ChunkRecord(corner, DONE, T0, files=FileCounts(8, 0, 8)), store.segments(corner)[:0])  # type: ignore[index]
    for box in ([], ["--chunks", "2:3,1:2,1:2"]):
        done = run_audit(config, *box, "--runner=FnApiRunner")
        assert done.returncode == 0, done.stdout
        assert "\n1 chunks were ingested with missing files: " in done.stdout
        assert done.stdout.endswith("\ncomplete\n")
    kept = last_audit(store)
    assert kept
    assert (kept.complete, kept.nothing_found, kept.files_missing) == (True, False, 1)
    assert audit_text(kept).endswith("; 1 chunks were ingested with missing files")


def test_an_audit_of_an_older_version_is_read(config: Path) -> None:
    assert run_audit(config, "--runner=FnApiRunner").returncode == 0
    store = open_table(config)
    note = json.loads(store.note(AUDIT) or "")
    older = {name: note[name] for name in note if name not in ("files_missing", "nothing_found")}
    store.put_note(AUDIT, json.dumps(older))
    kept = last_audit(store)
    assert kept
    assert (kept.complete, kept.nothing_found, kept.files_missing) == (True, False, 0)


def test_a_failed_chunk_is_not_counted_as_one_with_missing_files(config: Path) -> None:
    store, geometry = open_sample(config)
    chunk_id = geometry.chunk_id(Chunk(1, 0, 0))
    record = ChunkRecord(chunk_id, FAILED, T0, reason="x", files=FileCounts(8, 4, 4))
    store.put_chunk(record, store.segments(chunk_id))
    assert "retry-missing" not in run_audit(config, "--runner=FnApiRunner").stdout
    assert not [line for line in status(config) if "retry-missing" in line]
