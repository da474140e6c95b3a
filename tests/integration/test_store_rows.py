"""Rows of features, in stores of each kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from l2features.core.ids import as_ids
from l2features.core.rows import Rows
from l2features.core.schema import FEATURES, NAMES
from l2features.store.base import DONE, ChunkRecord, Store
from l2features.testing.stores import CHUNK, FIRST, LAYOUT, T0, features_of, served_values


@pytest.mark.parametrize("n", [1, 7, 5_500])
def test_rows_come_back_as_they_were_written(store: Store, n: int) -> None:
    features = features_of(np.arange(FIRST, FIRST + n, dtype=np.uint64))
    store.write(features)
    rows = store.read(features["label"])
    assert rows.features.tobytes() == features.tobytes()
    np.testing.assert_array_equal(rows.present, Rows.complete(features).present)
    scanned = store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK))
    assert scanned.features.tobytes() == features.tobytes()


def test_rows_come_in_the_order_asked_for(store: Store) -> None:
    features = features_of([FIRST + i for i in range(5)])
    store.write(features[::-1])
    asked = [FIRST + i for i in (3, 0, 99, 3, 4, 0, 77)]
    rows = store.read(asked)
    assert rows.ids.tolist() == asked
    assert rows.found.tolist() == [True, True, False, True, True, True, False]
    expected = served_values(Rows.complete(features))
    assert served_values(rows) == [expected[i] if i < 5 else {} for i in (3, 0, 99, 3, 4, 0, 77)]


@pytest.mark.parametrize("ids", [[], (), np.empty(0, dtype=np.uint64)])
def test_empty_reads_and_writes(store: Store, ids: Any) -> None:
    store.write(features_of([]))
    assert (len(store.read(ids)), store.read(ids).features.dtype) == (0, FEATURES)
    assert store.read([FIRST, FIRST + 1]).found.tolist() == [False, False]
    assert len(store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK))) == 0
    assert store.chunk_states(as_ids([])).tolist() == []
    assert list(store.chunk_records()) == []


@pytest.mark.parametrize(
    "names", [("size_nm3",), ("pca",), ("pca_val", "area_nm2"), NAMES, tuple(reversed(NAMES)), ("none",), ()]
)
def test_columns(store: Store, names: tuple[str, ...]) -> None:
    features = features_of([FIRST + i for i in range(8)])
    store.write(features)
    expected = [
        {name: value for name, value in row.items() if name in names}
        for row in served_values(Rows.complete(features))
    ]
    assert served_values(store.read(features["label"], names)) == expected
    scanned = store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK), names)
    by_id = dict(zip(scanned.ids.tolist(), served_values(scanned), strict=True))
    assert [by_id.get(i, {}) for i in features["label"].tolist()] == expected


def test_a_scan_keeps_to_its_chunk(store: Store) -> None:
    last = LAYOUT.last_id(CHUNK)
    inside = [CHUNK, FIRST, FIRST + 10**6, last - 1, last]
    around = [CHUNK - 1, last + 1, 2 * CHUNK, 5, 2**63 + FIRST]
    store.write(features_of(inside[::-1] + around))
    assert store.scan_chunk(CHUNK, last).ids.tolist() == inside
    assert store.scan_chunk(last + 1, LAYOUT.last_id(last + 1)).ids.tolist() == [last + 1]


def test_ids_beyond_the_signed_range(store: Store) -> None:
    ids = [1, 2**63 - 1, 2**63, 2**63 + 5, 2**64 - 1]
    features = features_of(ids)
    store.write(features)
    assert store.read(ids).features.tobytes() == features.tobytes()
    assert store.scan_chunk(2**63, 2**64 - 1).ids.tolist() == ids[2:]
    store.put_chunk(ChunkRecord(2**64 - 8, DONE, T0), as_ids([2**64 - 1, 2**63]))
    assert store.chunk_states(as_ids([2**64 - 8, 5])).tolist() == [DONE, ""]
    assert [record.chunk_id for record in store.chunk_records()] == [2**64 - 8]
    segments = store.segments(2**64 - 8)
    assert segments is not None
    assert (segments.dtype, segments.tolist()) == (np.uint64, [2**64 - 1, 2**63])


def test_a_row_is_replaced_as_a_whole(store: Store) -> None:
    store.write(features_of([FIRST], seed=1))
    second = features_of([FIRST], seed=2)
    second["has_pca"] = second["pca"] = second["pca_val"] = 0
    store.write(second)
    assert served_values(store.read([FIRST])) == served_values(Rows.complete(second))
    not_computed = np.zeros(1, dtype=FEATURES)
    not_computed["label"] = FIRST
    store.write(not_computed)
    assert store.read([FIRST]).not_computed.tolist() == [True]
    assert served_values(store.read([FIRST])) == [{"size_nm3": 0}]
