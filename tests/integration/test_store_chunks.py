"""Records of chunks, in stores of each kind."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from l2features.core.chunks import FileCounts
from l2features.core.ids import as_ids
from l2features.store.base import DONE, FAILED, ChunkRecord, Coverage, Store
from l2features.testing.stores import CHUNK, FIRST, LAYOUT, T0, features_of


def test_chunk_records(store: Store) -> None:
    done = ChunkRecord(CHUNK, DONE, T0, nodes=12, orphans=3)
    failed = ChunkRecord(LAYOUT.chunk_id(0, 0, 0), FAILED, T0, reason='corrupt: "x", ü\n')
    store.put_chunk(done, as_ids([5, 9]))
    store.put_chunk(failed)
    assert sorted(store.chunk_records(), key=lambda r: r.chunk_id) == [failed, done]
    later = ChunkRecord(failed.chunk_id, DONE, T0, nodes=1)
    store.put_chunk(later)
    assert later in list(store.chunk_records())
    assert failed not in list(store.chunk_records())
    assert store.chunk_states(as_ids([CHUNK, 7, failed.chunk_id, CHUNK])).tolist() == [DONE, "", DONE, DONE]


def test_records_keep_files_and_saturated_values(store: Store) -> None:
    files = FileCounts(expected=9, read=5, missing=3, forbidden=2, empty=1)
    records = [
        ChunkRecord(CHUNK, DONE, T0, 4, files=files, saturated={"area_nm2": 2, "max_dt_nm": 1}),
        ChunkRecord(CHUNK + 1, FAILED, T0, reason="x", files=FileCounts(2, 0, 2)),
        ChunkRecord(CHUNK + 2, DONE, T0, 4, files=FileCounts(8, 8)),
        ChunkRecord(CHUNK + 3, DONE, T0, 4),
    ]
    for record in records:
        store.put_chunk(record)
    assert sorted(store.chunk_records(), key=lambda record: record.chunk_id) == records


def test_incomplete_chunks(store: Store) -> None:
    """Those that are done although files were missing or empty."""
    numbers = [(2, 1, 1), (2, 1, 0, 0, 1), (2, 2), (), (1, 0, 1, 1)]
    counts = [FileCounts(*some) for some in numbers]
    for i, files in enumerate(counts):
        store.put_chunk(ChunkRecord(CHUNK + i, DONE, T0, files=files), as_ids([7]))
    store.put_chunk(ChunkRecord(CHUNK + 5, FAILED, T0, reason="x", files=counts[0]))
    asked = as_ids([CHUNK + i for i in (5, 4, 3, 2, 1, 0, 0, 99)])
    expected = [False, True, False, False, True, True, True, False]
    assert store.incomplete_chunks(asked).tolist() == expected
    assert store.incomplete_chunks(as_ids([])).tolist() == []
    store.put_chunk(ChunkRecord(CHUNK, DONE, T0, files=counts[2]))
    assert store.incomplete_chunks(as_ids([CHUNK])).tolist() == [False]
    assert store.chunk_states(as_ids([CHUNK, CHUNK + 5])).tolist() == [DONE, FAILED]


def test_segments(store: Store) -> None:
    for segments in ([], [3], [2**63, 7, 2**64 - 1]):
        store.put_chunk(ChunkRecord(CHUNK, DONE, T0), as_ids(segments))
        read = store.segments(CHUNK)
        assert read is not None
        assert read.tolist() == segments
    store.put_chunk(ChunkRecord(CHUNK, DONE, T0))
    assert store.segments(CHUNK) is None
    assert store.segments(CHUNK + 1) is None


def test_states_of_ten_thousand_chunks(store: Store) -> None:
    chunk_ids = LAYOUT.chunk_id_array(np.argwhere(np.ones((25, 20, 20))))
    for i in range(0, 10_000, 1_000):
        store.put_chunk(ChunkRecord(int(chunk_ids[i]), (DONE, FAILED)[i // 1_000 % 2], T0, nodes=i))
    states = store.chunk_states(chunk_ids)
    assert (states.shape, (states == "").sum()) == ((10_000,), 9_990)
    assert states[::1_000].tolist() == [DONE, FAILED] * 5
    assert sum(record.nodes for record in store.chunk_records()) == 45_000


def test_failures_are_those_of_the_chunks_asked_for(store: Store) -> None:
    chunk_ids = LAYOUT.chunk_id_array(np.argwhere(np.ones((20, 20, 20))))
    for i in (0, 10, 20, 7_000):
        store.put_chunk(
            ChunkRecord(int(chunk_ids[i]), DONE if i == 10 else FAILED, T0, reason=f"reason {i}, ü")
        )
    asked = np.concatenate([chunk_ids[5:], chunk_ids[5:30], as_ids([2**64 - 1])])
    assert store.failures(asked) == {int(chunk_ids[i]): f"reason {i}, ü" for i in (20, 7_000)}
    assert store.failures(as_ids([])) == {}


def test_coverage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2features.store.bigtable.bigtable_store.SCAN_ROWS", 4)
    assert store.coverage() == Coverage(0, 0, None)
    store.write(features_of([FIRST]))
    for i in range(12):
        state, time = (FAILED, DONE)[i % 3 > 0], T0 + timedelta(seconds=i % 7)
        store.put_chunk(ChunkRecord(CHUNK + i, state, time, reason="x"), as_ids(range(100)))
        assert store.coverage().done + store.coverage().failed == i + 1
    assert store.coverage() == Coverage(8, 4, T0 + timedelta(seconds=6))
    store.put_chunk(ChunkRecord(CHUNK, DONE, T0 + timedelta(microseconds=132_000)))
    assert store.coverage() == Coverage(9, 3, T0 + timedelta(seconds=6))
