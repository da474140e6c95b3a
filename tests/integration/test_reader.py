"""Tests of reading a data set: present and missing rows, the reasons for missing ones, and the cache."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from l2features.core.geometry import Geometry
from l2features.core.ids import IdLayout, as_ids
from l2features.core.schema import FEATURES, NAMES
from l2features.query.cache import RowCache
from l2features.query.reader import Reader, Status
from l2features.store.base import FAILED, ChunkRecord, Meta, Store, open_store

GEOMETRY = Geometry((16, 16, 40), (1024, 512, 20), (160, 128, 48), (64, 64, 32), IdLayout({2: 10}))
CHUNK = GEOMETRY.layout.chunk_id(1, 0, 0)
BROKEN = GEOMETRY.layout.chunk_id(2, 1, 0)
OUTSIDE = GEOMETRY.layout.chunk_id(3, 0, 0)
ROOT, SUPERVOXEL = (4 << 56) + 1, (1 << 56) + 1
EMPTY = CHUNK + 9


def features(*ids: int) -> np.ndarray:
    rows = np.zeros(len(ids), dtype=FEATURES)
    rows["label"], rows["size_nm3"], rows["area_nm2"] = ids, 7, np.arange(len(ids)) + 1
    return rows


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite://{tmp_path}/l2cache.db", "t")
    store.create(Meta("g", "precomputed://x", "2026-01-01 00:00:00", GEOMETRY))
    rows = features(CHUNK + 1, CHUNK + 2, EMPTY)
    rows["size_nm3"][2] = rows["area_nm2"][2] = 0
    store.write(rows)
    store.put_chunk(ChunkRecord(BROKEN, FAILED, datetime.now(UTC), reason="the file is cut off"))
    yield store
    store.close()


class Counts:
    """A reader that counts its cache hits, cache misses and store reads."""

    def __init__(self, store: Store, cache_rows: int = 0) -> None:
        self.hits = self.misses = 0
        self.reads: list[int] = []
        cache = RowCache(cache_rows) if cache_rows else None
        self.reader = Reader(store, GEOMETRY, cache, self.looked_up, lambda ids, _: self.reads.append(ids))

    def looked_up(self, hits: int, misses: int) -> None:
        self.hits, self.misses = self.hits + hits, self.misses + misses


def names_of(status: np.ndarray) -> list[str]:
    return [Status(s).name for s in status.tolist()]


def test_answers_are_in_the_order_asked_for(store: Store) -> None:
    asked = [CHUNK + 3, ROOT, CHUNK + 2, EMPTY, CHUNK + 2, OUTSIDE + 1, SUPERVOXEL, BROKEN + 1, CHUNK + 1]
    answer = Reader(store, GEOMETRY).read(as_ids(asked), with_reasons=True)
    assert answer.rows.ids.tolist() == asked
    assert names_of(answer.status) == [
        *("MISSING", "NOT_L2", "READY", "EMPTY", "READY", "NOT_L2", "NOT_L2", "FAILED", "READY"),
    ]
    assert answer.rows.features["area_nm2"].tolist() == [0, 0, 2, 0, 2, 0, 0, 0, 1]
    assert answer.missing.tolist() == sorted([CHUNK + 3, BROKEN + 1])
    start = "not a layer-2 node of this data set: "
    assert answer.reasons == {
        ROOT: f"{start}layer 4",
        SUPERVOXEL: f"{start}layer 1",
        OUTSIDE + 1: f"{start}chunk lies outside the grid",
        BROKEN + 1: "the file is cut off",
    }


def test_no_ids(store: Store) -> None:
    answer = Reader(store, GEOMETRY).read(as_ids([]), with_reasons=True)
    assert (len(answer.rows), len(answer.missing), answer.reasons) == (0, 0, {})


def test_without_reasons_failed_ids_are_missing(store: Store) -> None:
    answer = Reader(store, GEOMETRY).read(as_ids([BROKEN + 1, ROOT]))
    assert (names_of(answer.status), answer.reasons) == (["MISSING", "NOT_L2"], {})


def test_an_empty_node_is_not_missing_whatever_is_asked_for(store: Store) -> None:
    answer = Reader(store, GEOMETRY).read(as_ids([EMPTY, CHUNK + 1]), ("pca",))
    assert names_of(answer.status) == ["EMPTY", "READY"]
    assert not len(answer.missing)


@pytest.mark.parametrize("names", [NAMES, ("size_nm3",), ("pca", "area_nm2")])
def test_an_empty_node_has_no_attributes(store: Store, names: tuple[str, ...]) -> None:
    for asked in ([EMPTY, CHUNK + 1], [ROOT, EMPTY, CHUNK + 1]):
        answer = Reader(store, GEOMETRY, RowCache(100)).read(as_ids(asked), names, with_reasons=True)
        assert answer.rows.found.tolist() == [status == "READY" for status in names_of(answer.status)]


def test_repeats_come_from_the_cache(store: Store) -> None:
    counts = Counts(store, cache_rows=100)
    first = counts.reader.read(as_ids([CHUNK + 1, CHUNK + 2]))
    again = counts.reader.read(as_ids([CHUNK + 2, CHUNK + 1, CHUNK + 2]))
    assert counts.reads == [2]
    assert (counts.hits, counts.misses) == (3, 2)
    assert again.rows.features.tobytes() == first.rows.features[[1, 0, 1]].tobytes()


def test_only_existing_rows_are_cached(store: Store) -> None:
    counts = Counts(store, cache_rows=100)
    asked = as_ids([CHUNK + 3, EMPTY])
    counts.reader.read(asked)
    store.write(features(CHUNK + 3, EMPTY))
    answer = counts.reader.read(asked)
    assert counts.reads == [2, 2]
    assert names_of(answer.status) == ["READY", "READY"]


def test_a_cached_row_serves_those_who_ask_for_less(store: Store) -> None:
    counts = Counts(store, cache_rows=100)
    counts.reader.read(as_ids([CHUNK + 1]), ("area_nm2",))
    counts.reader.read(as_ids([CHUNK + 1]), ("size_nm3",))
    counts.reader.read(as_ids([CHUNK + 1]), ("area_nm2",))
    assert counts.reads == [1]
    answer = counts.reader.read(as_ids([CHUNK + 1]), NAMES)
    assert counts.reads == [1, 1]
    assert answer.rows.present[0].sum() == len(NAMES) - 2


def test_waiting_ends_when_the_missing_ids_exist(store: Store) -> None:
    reader = Reader(store, GEOMETRY)
    asked = as_ids([CHUNK + 4, CHUNK + 1, CHUNK + 4, BROKEN + 2])
    answer = reader.read(asked, with_reasons=True)
    writer = threading.Timer(0.3, lambda: store.write(features(CHUNK + 4, BROKEN + 2)))
    writer.start()
    start = time.monotonic()
    answer = reader.wait(answer, NAMES, 30, with_reasons=True)
    assert time.monotonic() - start < 20
    assert names_of(answer.status) == ["READY"] * 4
    assert answer.rows.ids.tolist() == asked.tolist()
    assert answer.rows.features["area_nm2"].tolist() == [1, 1, 1, 2]
    assert answer.reasons == {}
    writer.join()


def test_waiting_ends_when_time_is_up(store: Store) -> None:
    reader = Reader(store, GEOMETRY)
    answer = reader.read(as_ids([CHUNK + 4, CHUNK + 1]))
    start = time.monotonic()
    answer = reader.wait(answer, NAMES, 0.2)
    assert 0.2 <= time.monotonic() - start < 10
    assert names_of(answer.status) == ["MISSING", "READY"]
