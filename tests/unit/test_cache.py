"""Tests of the row cache: rows are returned as stored, and the size is bounded."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2features.core.ids import as_ids
from l2features.core.rows import Rows
from l2features.core.schema import FEATURES, NAMES
from l2features.query.cache import WAYS, RowCache


def rows_of(ids: Any) -> Rows:
    """Return computed rows whose values all follow from the id."""
    ids = as_ids(ids)
    features = np.zeros(len(ids), dtype=FEATURES)
    features["label"] = ids
    for i, name in enumerate(NAMES):
        column = features[name]
        column[...] = (ids % np.uint64(1000) + np.uint64(i + 1)).reshape(-1, *[1] * (column.ndim - 1))
    features["has_pca"] = ids % np.uint64(2) == 0
    return Rows.complete(features)


def found(cache: RowCache, ids: Any, names: tuple[str, ...] = NAMES) -> tuple[Rows, list[bool]]:
    rows = Rows.empty(ids)
    hit, cached = cache.lookup(rows.ids, names)
    rows.put(hit, cached)
    return rows, hit.tolist()


def test_rows_come_back_and_others_do_not() -> None:
    cache = RowCache(100)
    kept = rows_of(range(1, 40))
    cache.insert(kept, NAMES)
    rows, hit = found(cache, [7, 41, 0, 39])
    assert hit == [True, False, False, True]
    for place, node in ((0, 7), (3, 39)):
        assert rows.features[place] == kept.features[node - 1]
        np.testing.assert_array_equal(rows.present[place], kept.present[node - 1])
    assert not rows.present[[1, 2]].any()


def test_a_cleared_cache_takes_no_rows_that_were_read_before() -> None:
    cache, epoch = RowCache(100), 0
    cache.insert(rows_of([5, 6]), NAMES, cache.epoch)
    cache.clear()
    assert found(cache, [5, 6])[1] == [False, False]
    cache.insert(rows_of([5]), NAMES, epoch)
    assert found(cache, [5])[1] == [False]
    cache.insert(rows_of([5]), NAMES, cache.epoch)
    assert found(cache, [5, 6])[1] == [True, False]


def test_a_row_is_found_by_those_who_ask_for_no_more_than_was_read() -> None:
    cache = RowCache(8)
    read = rows_of([5])
    cache.insert(read, ("size_nm3", "pca"))
    assert found(cache, [5], ("pca",))[1] == [True]
    assert found(cache, [5], ("pca", "area_nm2"))[1] == [False]
    cache.insert(read, ("area_nm2",))
    rows, hit = found(cache, [5], ("area_nm2", "pca"))
    assert hit == [True]
    assert rows.features["area_nm2"][0] == read.features["area_nm2"][0]
    assert np.array(NAMES)[rows.present[0]].tolist() == ["area_nm2"]  # an odd id has no pca


def test_it_never_holds_more_than_its_capacity() -> None:
    cache = RowCache(64)
    size = cache.nbytes
    for start in range(1, 5000, 500):
        cache.insert(rows_of(range(start, start + 500)), NAMES)
    _, hit = found(cache, range(1, 5000))
    assert 0 < sum(hit) <= cache.capacity
    assert cache.nbytes == size


@pytest.mark.parametrize("capacity", [1, 8, 9, 1000])
def test_capacity(capacity: int) -> None:
    assert capacity <= RowCache(capacity).capacity < 2 * capacity + WAYS


def test_capacity_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity 0: expected at least 1"):
        RowCache(0)


@given(
    st.lists(st.lists(st.integers(1, 60), unique=True, max_size=40), max_size=8),
    st.integers(1, 40),
)
def test_whatever_is_found_is_right(batches: list[list[int]], capacity: int) -> None:
    cache = RowCache(capacity)
    for batch in batches:
        cache.insert(rows_of(sorted(batch)), NAMES)
        rows, hit = found(cache, sorted(batch))
        assert sum(hit) >= min(len(batch), 1)
        expected = rows_of(sorted(batch))
        np.testing.assert_array_equal(rows.features[hit], expected.features[hit])
        np.testing.assert_array_equal(rows.present[hit], expected.present[hit])


def test_many_threads() -> None:
    cache, wrong = RowCache(256), []

    def work(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for _ in range(60):
            ids = np.unique(generator.integers(1, 2000, 50)).astype(np.uint64)
            rows, hit = found(cache, ids)
            expected = rows_of(ids)
            wrong.extend(np.flatnonzero(rows.features[hit] != expected.features[hit]).tolist())
            cache.insert(expected, NAMES)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert any(found(cache, range(1, 2000))[1])


def test_rows_take_memory_one_after_the_other() -> None:
    cache = RowCache(1 << 16)
    cache.insert(rows_of(range(1, 101)), NAMES)
    assert np.flatnonzero(cache._rows.features["label"]).tolist() == list(range(1, 101))
    cache.insert(rows_of(range(50, 151)), NAMES)
    assert np.flatnonzero(cache._rows.features["label"]).tolist() == list(range(1, 151))
    assert all(found(cache, range(1, 151))[1])
