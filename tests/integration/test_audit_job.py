"""Tests of the audit command: output, stored result, exit status and repair."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from l2features.audit.summary import NOTE, PART_NOTE, AuditSummary, read_audit
from l2features.core.ids import as_ids
from l2features.store.base import FAILED, ChunkRecord
from l2features.testing.stores import open_table
from tests.support.audit_job import (
    T0,
    at_t0,  # noqa: F401 (fixtures)
    run_audit,
)
from tests.support.dataflow_launch import NO_FREEZE
from tests.support.ingest_jobs import open_sample, run_ingest
from tests.support.jobs import ROOT, Recordings, all_rows, dataset_file
from tests.support.recordings import check_values, valid_at_t0


def test_from_the_ingest_to_the_history(at_t0: Path, recordings: Recordings) -> None:
    """Check the audit at T0, after all edits, and after repair, with recorded features."""
    done = run_audit(at_t0, "--timestamp", T0, processes=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "12 chunks; their ingest: 12 done, 0 failed, 0 not recorded",
        "159 nodes expected: 159 present (0 of them marked empty), 0 missing",
        "0 superfluous rows",
        "complete",
    ]
    all_of_it = run_audit(at_t0, "--runner=FnApiRunner")
    assert all_of_it.returncode == 1, all_of_it.stderr
    assert "196 nodes expected: 159 present (0 of them marked empty), 37 missing\n" in all_of_it.stdout
    assert " and 17 more\nincomplete\n" in all_of_it.stdout
    store = open_table(at_t0)
    kept = read_audit(store)
    assert kept
    assert (kept["missing"], kept["complete"], kept["timestamp"], kept["box"]) == (
        37,
        False,
        None,
        "0:3,0:2,0:2",
    )

    repaired = run_audit(at_t0, "--repair")
    assert repaired.returncode == 0, repaired.stderr
    assert "37 missing, of which 37 are repaired\n" in repaired.stdout
    rows = all_rows(store)
    check_values(rows, recordings.json("features.json")["features"])
    again = run_audit(at_t0, "--runner=FnApiRunner")
    assert (again.returncode, "196 present" in again.stdout) == (0, True)
    kept = read_audit(store)
    assert kept
    assert (kept["missing"], kept["complete"]) == (0, True)
    at_t1 = run_audit(at_t0, "--timestamp", "2026-11-21 01:33:53", "--runner=FnApiRunner")
    assert "0 superfluous rows, 30 rows of nodes not valid at the timestamp\ncomplete" in at_t1.stdout


def test_rows_that_are_gone_are_repaired_in_a_part_of_the_grid(at_t0: Path, recordings: Recordings) -> None:
    store = open_table(at_t0)
    before = all_rows(store)
    ids = before.ids
    store.delete(int(ids[0]), int(ids[1]))
    store.delete(int(ids[-1]), int(ids[-1]))
    part = run_audit(at_t0, "--timestamp", T0, "--repair", "--chunks", "0:1,0:1,0:1", "--runner=FnApiRunner")
    assert part.returncode == 0, part.stderr
    assert part.stdout.startswith("1 chunks; ")
    assert "2 missing, of which 2 are repaired\n" in part.stdout
    kept = read_audit(store, PART_NOTE)
    assert kept
    assert (kept["box"], kept["repaired"], read_audit(store, NOTE)) == ("0:1,0:1,0:1", 2, None)
    whole = run_audit(at_t0, "--timestamp", T0, "--runner=FnApiRunner")
    assert whole.returncode == 1
    assert f"missing: {ids[-1]}\nincomplete\n" in whole.stdout
    again = run_audit(at_t0, "--timestamp", T0, "--repair", "--runner=FnApiRunner")
    assert again.returncode == 0, again.stderr
    assert all_rows(store).features.tobytes() == before.features.tobytes()
    assert len(before) == len(valid_at_t0(recordings, "fixture_v2"))


def test_without_a_graph_only_ingested_chunks_can_be_audited(tmp_path: Path, sample: Path) -> None:
    config = dataset_file(tmp_path, sample)
    assert run_ingest(config, "--create", "--test").returncode == 0
    store, _ = open_sample(config)
    [failed, *_] = [record for record in store.chunk_records() if record.nodes]
    segments = store.segments(failed.chunk_id)
    store.put_chunk(replace(failed, state=FAILED, time=datetime.now(UTC)), segments)
    done = run_audit(config)
    assert done.returncode == 1
    assert done.stdout.startswith(
        "12 chunks, 4 could not be audited; their ingest: 7 done, 1 failed, 4 not recorded\n"
    )
    assert done.stdout.endswith("0 missing\n0 superfluous rows\nincomplete\n")
    assert done.stderr.count("segments are not recorded: ingest the chunk first") == 4
    assert "error: chunk 0,1,1: segments" in done.stderr
    assert run_audit(config, "--test", "--runner=FnApiRunner").returncode == 0
    left = as_ids([failed.chunk_id + 1])
    store.delete(int(left[0]), int(left[0]))
    assert run_audit(config, "--test", "--repair", "--runner=FnApiRunner").returncode == 0
    assert store.read(left).found.all()


def test_a_chunk_that_kills_its_workers_is_reported(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, l2features.audit.chunk_audit as a\n"
        "look = a.AuditSource.look\n"
        "def deadly(self, chunk):\n"
        "    if tuple(chunk) == (1, 0, 0): os.kill(os.getpid(), 9)\n"
        "    if tuple(chunk) == (1, 1, 0): raise ZeroDivisionError('by design')\n"
        "    return look(self, chunk)\n"
        "a.AuditSource.look = deadly\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    records: list[ChunkRecord] = sorted(open_table(config).chunk_records(), key=lambda r: r.chunk_id)
    done = run_audit(config, processes=True)
    assert done.returncode == 1
    assert "error: chunk 1,0,0: a worker died (SIGKILL) at this chunk, 3 times" in done.stderr
    assert "error: chunk 1,1,0: ZeroDivisionError: by design" in done.stderr
    assert "12 chunks, 2 could not be audited; their ingest: 12 done" in done.stdout
    assert sorted(open_table(config).chunk_records(), key=lambda r: r.chunk_id) == records


def test_a_stopped_audit_is_not_kept(undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = AuditSummary.add

    def add_and_stop(self: AuditSummary, found: AuditSummary) -> None:
        add(self, found)
        os.kill(os.getpid(), signal.SIGTERM)

    before = read_audit(open_table(undisturbed))
    monkeypatch.setattr(AuditSummary, "add", add_and_stop)
    done = run_audit(undisturbed)
    assert done.returncode == 130
    assert "stopped: not all chunks were audited, so the result is not stored" in done.stderr
    assert done.stdout.startswith("1 chunks; ")
    assert read_audit(open_table(undisturbed)) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--timestamp", T0], "data set 'sample' has no graph: expected no timestamp"),
        (["--chunks", "0:9,0:1,0:1"], "expected a part of the grid, which is 0:3,0:2,0:2"),
        (["--no_such_option"], "unknown option --no_such_option"),
        (["--workers", "0"], "--workers 0: expected 1 or more"),
        (["--runner", "Nonsense"], "error: runner Nonsense: "),
    ],
)
def test_a_users_mistake(undisturbed: Path, flags: list[str], message: str) -> None:
    done = run_audit(undisturbed, *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_table(tmp_path: Path, sample: Path) -> None:
    done = run_audit(dataset_file(tmp_path, sample))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: table l2cache_sample not found")
    assert not (tmp_path / "l2cache.db").exists()


def test_dataflow_is_given_the_whole_job(undisturbed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--dry_run=True",
        "--no_auth",
        "--project=my-project",
        "--region=us-east1",
        "--temp_location=gs://bucket/temp",
        NO_FREEZE,
    ]
    done = run_audit(undisturbed, "--runner=DataflowRunner", *flags)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_sums_fit_beams_coders() -> None:
    from apache_beam.coders import registry

    summary = AuditSummary(chunks=10**7, expected=10**12, missing_ids=["18446744073709551615"])
    coder = registry.get_coder(AuditSummary)
    assert coder.decode(coder.encode(summary)) == summary
