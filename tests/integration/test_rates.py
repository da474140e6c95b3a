"""Tests of the rate of an ingest, measured over its last ten minutes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from l2features.ingest.rates import NOTE, RATE_WINDOW, rates, read_start, record_start
from l2features.store.base import DONE, ChunkRecord, Store
from l2features.store.chunk_totals import ChunkTotals, Work, totals_of
from l2features.testing.stores import open_table
from tests.support.command import run
from tests.support.ingest_jobs import run_ingest
from tests.support.jobs import dataset_file

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def rates_of(records: list[tuple[datetime, int]], started: datetime | None) -> tuple[float, float] | None:
    totals = totals_of((ChunkRecord(1, DONE, *record) for record in records), RATE_WINDOW, 0)
    return rates(totals, started)


def burst(chunks: int, until: datetime = NOW) -> list[tuple[datetime, int]]:
    """Return chunks recorded within half a second."""
    return [(until - SECOND * i / 2 / chunks, 10) for i in range(chunks)]


def test_a_burst_is_measured_from_the_start_of_its_run() -> None:
    assert rates_of(burst(77), NOW - 20 * SECOND) == (231.0, 38.5)


def test_chunks_that_others_record_while_a_run_begins_do_not_count() -> None:
    started = NOW - 2.05 * SECOND
    others = [(started + 0.01 * SECOND, 100)] * 5_000
    assert rates_of([*others, (started + 0.2 * SECOND, 31), (NOW, 10)], started) == (58.54, 20.0)


def test_only_the_last_ten_minutes_of_a_long_run_count() -> None:
    steady = [(NOW - 2 * SECOND * i, 30) for i in range(1_000)]
    assert rates_of(steady, NOW - timedelta(hours=3)) == (30.0, 15.0)
    assert rates_of([*steady[500:], (NOW, 30)], NOW - timedelta(hours=3)) == (0.1, 0.05)


def test_records_of_an_earlier_run_do_not_count() -> None:
    before = burst(50, NOW - 300 * SECOND)
    assert rates_of([*before, *burst(10)], NOW - 100 * SECOND) == (6.0, 1.0)


@pytest.mark.parametrize("started", [None, NOW, NOW + 10 * SECOND])
def test_a_burst_without_a_known_start_has_no_rate(started: datetime | None) -> None:
    assert rates_of(burst(77), started) is None
    assert rates_of([], started) is None
    spread = [(NOW - 60 * SECOND, 50), (NOW - 10 * SECOND, 30), (NOW, 90)]
    assert rates_of(spread, started) == (2.0, 2.0)


def test_less_than_a_second_is_too_little() -> None:
    assert rates_of(burst(5), NOW - SECOND * 0.7) is None


def test_a_burst_at_the_start_of_an_unknown_run() -> None:
    """The rate starts at the first record. It excludes chunks of the first 0.1 s: they began earlier."""
    spread = [(NOW - 61 * SECOND + SECOND * i / 1_000, 1) for i in range(1_000)]
    assert rates_of([*spread, (NOW, 1)], None) == (886.23, 14.77)


@pytest.mark.parametrize("step", [1, -1, 7_919])
def test_memory_does_not_grow_with_the_records(step: int) -> None:
    """Add half an hour of records in any order; check that at most twenty minutes of them are kept."""
    totals = ChunkTotals(RATE_WINDOW, 0)
    for i in range(18_000):
        totals.add(ChunkRecord(1, DONE, NOW + SECOND / 10 * (i * step % 18_000), 10))
        assert len(totals.recent) <= 2 * 6_001
    totals.drop_old()
    assert len(totals.recent) == 6_001
    assert set(totals.recent.values()) == {Work(1, 10)}


def test_the_start_is_kept_with_the_table(store: Store) -> None:
    assert read_start(store) is None
    record_start(store, NOW)
    record_start(store, NOW + RATE_WINDOW)
    assert read_start(store) == NOW + RATE_WINDOW


def test_status_of_a_first_ingest_agrees_with_the_clock(tmp_path: Path, sample: Path) -> None:
    config, before = dataset_file(tmp_path, sample), datetime.now(UTC)
    assert run_ingest(config, "--create", processes=True).returncode == 0
    after, store = datetime.now(UTC), open_table(config)
    started, newest = read_start(store), store.coverage().newest
    assert started
    assert newest
    assert before < started < newest < after
    state = json.loads(run("status", "sample", "--config", config, "--json").output)
    minutes = (newest - started).total_seconds() / 60
    assert state["chunks_per_minute"] == pytest.approx(12 / minutes, rel=0.01)
    assert state["nodes_per_second"] == pytest.approx(
        state["chunks_per_minute"] / 60 * state["nodes"] / 12, rel=0.05
    )
    shown = run("status", "sample", "--config", config).output
    assert f"{state['chunks_per_minute']} chunks/min" in shown


def test_a_malformed_note_is_named(tmp_path: Path, undisturbed: Path, config: Path) -> None:
    open_table(config).put_note(NOTE, "[]")
    result = run("status", "sample", "--config", config)
    assert result.exit_code == 0
    assert result.output.splitlines()[-1].startswith("table l2cache_sample: the note 'ingest' cannot be read")
    assert "chunks/min" not in result.output
