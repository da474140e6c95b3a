"""Tests of times: accepted forms, and the form in which a table stores them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from l2features.audit.chunk_audit import prepare_audit
from l2features.config.datasets import load_dataset
from l2features.core.errors import ConfigError, StoreError
from l2features.core.times import TIME_PATTERN, format_time, parse_time, utc_time
from l2features.ingest.steps import prepare, time_of_graph
from l2features.store.base import Meta, Store, open_store
from l2features.testing.stores import META, STORE_URL, open_table
from tests.support.ingest_jobs import run_ingest
from tests.support.jobs import Recordings, dataset_file

T = datetime(2026, 11, 21, 0, 27, 44, tzinfo=UTC)
SAME = [
    "2026-11-21 00:27:44",
    " 2026-11-21 00:27:44\n",
    "2026-11-21 00:27:44 UTC",
    "2026-11-21T00:27:44",
    "2026-11-21T00:27:44Z",
    "2026-11-21t00:27:44z",
    "2026-11-21T00:27:44+00:00",
    "2026-11-21T02:27:44+02:00",
    "2026-11-21T02:27:44+0200",
    "2026-11-21T02:27:44+02",
    "2026-11-20 19:57:44 -04:30",
    "20261121T002744Z",
    "2026-11-21T00:27:44.000Z",
    "2026-11-21T00:27:44.0000009Z",
]
FRACTIONS = {
    "2026-11-21T00:27:44.5Z": 500_000,
    "2026-11-21 00:27:44.368": 368_000,
    "2026-11-21 00:27:44,368": 368_000,
    "2026-11-21T02:27:44.123456789+02:00": 123_456,
}
WRONG = {
    "2026-11-21": 'expected "YYYY-MM-DD HH:MM:SS" \\(UTC\\), or ISO 8601 such as',
    "": "expected",
    "now": "expected",
    "1795220864": "expected",
    "2026-11-21T00:27:44+02:00Z": "expected",
    "2026-11-21T00:27:44+25:00": "expected",
    "2026-11-21 00:27:44 CET": "expected",
    "2026-W47-6T00:27:44": "expected",
    "2026-02-30T00:00:00Z": "day is out of range for month",
    "2026-11-21T24:27:44": "hour must be in 0..23",
    "1969-12-31T23:59:59Z": "expected a year from 1970 to 2999",
    "0001-01-01T00:00:00+01:00": "expected a year from 1970 to 2999",
    "9999-12-31T23:59:59-01:00": "expected a year from 1970 to 2999",
}


@pytest.mark.parametrize("text", SAME)
def test_forms_of_one_time(text: str) -> None:
    assert parse_time(text) == T
    assert format_time(parse_time(text)) == "2026-11-21 00:27:44"
    assert re.fullmatch(TIME_PATTERN, text.strip()), "a template refuses it"


@pytest.mark.parametrize(("text", "microseconds"), FRACTIONS.items())
def test_fractions(text: str, microseconds: int) -> None:
    assert parse_time(text) == T.replace(microsecond=microseconds)
    assert format_time(parse_time(text)) == f"2026-11-21 00:27:44.{microseconds // 1000}"
    assert re.fullmatch(TIME_PATTERN, text)


@pytest.mark.parametrize(("text", "why"), WRONG.items())
def test_what_is_no_time(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"^timestamp {re.escape(repr(text))}: {why}"):
        parse_time(text)


def test_what_was_read_before_is_still_read() -> None:
    assert parse_time("2026-11-2 0:05:09") == datetime(2026, 11, 2, 0, 5, 9, tzinfo=UTC)


def test_the_time_of_a_letter_without_an_offset_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XYZ+5")
    time.tzset()
    try:
        assert utc_time("2026-11-21T00:27:44") == T
    finally:
        monkeypatch.undo()
        time.tzset()


# ------------------------------------------------------------------ tables
@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("2020-02-02T03:02:02+01:00", "2020-02-02 02:02:02"),
        ("2020-02-02T02:02:02.5Z", "2020-02-02 02:02:02.500"),
    ],
)
def test_an_ingest_keeps_its_time(tmp_path: Path, sample: Path, asked: str, kept: str) -> None:
    dataset = load_dataset("sample", dataset_file(tmp_path, sample))
    first = prepare(dataset, asked, create=True)
    assert (first.meta.timestamp, first.meta.time) == (kept, parse_time(asked))
    assert prepare(dataset, asked).meta == prepare(dataset).meta == first.meta
    with pytest.raises(ConfigError, match=f"has timestamp {kept}, not 2020-02-02 02:02:03"):
        prepare(dataset, "2020-02-02 02:02:03Z")


@pytest.mark.parametrize(
    "stored", ["2026-11-21T00:27:44+00:00", "2026-11-21 00:27:44.000000", "2026-11-21T00:27:44Z"]
)
def test_a_table_with_its_time_in_another_form(tmp_path: Path, sample: Path, stored: str) -> None:
    config = dataset_file(tmp_path, sample)
    dataset = load_dataset("sample", config)
    store = open_table(config)
    store.create(Meta(dataset.graph_id, dataset.cv_path, stored))
    assert run_ingest(config, "--test", "--timestamp", "2026-11-21T01:27:44+01:00").returncode == 0
    meta = store.meta()
    assert meta
    assert (meta.timestamp, meta.time) == (stored, T)


def test_a_table_whose_time_is_none(tmp_path: Path, sample: Path) -> None:
    dataset = load_dataset("sample", dataset_file(tmp_path, sample))
    store = open_store(dataset.store, dataset.l2cache_id)
    store.create(Meta(dataset.graph_id, dataset.cv_path, "yesterday"))
    with pytest.raises(StoreError, match="timestamp 'yesterday' in its meta: expected"):
        prepare(dataset)


def test_meta_in_both_stores_with_a_fraction(new_store: Callable[..., Store]) -> None:
    store = new_store()
    meta = replace(META, timestamp="2026-11-21 00:27:44.368")
    store.create(meta)
    assert store.meta() == meta


# ------------------------------------------------------------------ graphs
def test_a_graphs_server_takes_whole_seconds(tmp_path: Path) -> None:
    """Check that times for graph servers are rounded up to whole seconds, as in cloud-volume."""
    server = {"graph": "graphene"}
    cv_path = "graphene://http://127.0.0.1:1/segmentation/table/t"
    by_http = load_dataset("sample", dataset_file(tmp_path, cv_path, **server))
    assert format_time(time_of_graph(by_http, "2026-11-21T00:27:43.001Z")) == "2026-11-21 00:27:44"
    assert time_of_graph(by_http, "2026-11-21T00:27:44Z") == T
    by_table = load_dataset("sample", dataset_file(tmp_path, cv_path, graph=f"{STORE_URL}/t"))
    assert time_of_graph(by_table, "2026-11-21T00:27:43.001Z") == parse_time("2026-11-21T00:27:43.001Z")


def test_an_audit_takes_its_time_exactly(tmp_path: Path, recordings: Recordings) -> None:
    keys = {"graph": f"{STORE_URL}/fixture_v2", "store": STORE_URL, "l2cache_id": "l2cache_fixture"}
    path = dataset_file(tmp_path, recordings.cv_path("fixture_v2"), chunk_size=None, **keys)
    audit = prepare_audit(load_dataset("sample", path), "2026-11-21T02:27:44.368+02:00")
    assert audit.time == T.replace(microsecond=368_000)
