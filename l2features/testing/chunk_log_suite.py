"""Tests of a store's chunk log: records, segments and attempts. `store_suite` includes them."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from ..core.chunks import FileCounts
from ..core.errors import TableNotFound
from ..core.ids import as_ids
from ..store.base import DONE, FAILED, ChunkRecord, Coverage, Store
from ..store.chunk_totals import ChunkTotals, totals_of
from .stores import CHUNK, FIRST, LAYOUT, T0, NewStore, features_of

OTHER = LAYOUT.chunk_id(0, 0, 0)


class ChunkLogSuite:
    """Tests of `l2features.store.base.ChunkLog`."""

    def test_chunk_records(self, store: Store) -> None:
        done = ChunkRecord(CHUNK, DONE, T0, nodes=12, orphans=3)
        failed = ChunkRecord(LAYOUT.chunk_id(0, 0, 0), FAILED, T0, reason='corrupt: "x", ü\n')
        store.put_chunk(done, as_ids([5, 9]))
        store.put_chunk(failed)
        assert sorted(store.chunk_records(), key=lambda r: r.chunk_id) == [failed, done]
        later = ChunkRecord(failed.chunk_id, DONE, T0, nodes=1)
        store.put_chunk(later)
        assert later in list(store.chunk_records())
        assert failed not in list(store.chunk_records())
        states = store.chunk_states(as_ids([CHUNK, 7, failed.chunk_id, CHUNK]))
        assert states.tolist() == [DONE, "", DONE, DONE]

    def test_records_keep_files_and_saturated_values(self, store: Store) -> None:
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

    def test_totals_are_those_of_the_records(self, store: Store) -> None:
        none = store.chunk_totals(timedelta(minutes=10), 2)
        assert none == ChunkTotals(timedelta(minutes=10), 2)
        counts = [FileCounts(), FileCounts(8, 8), FileCounts(9, 5, 3, 2, 1), FileCounts(4, 3, 0, 0, 1)]
        saturated: list[dict[str, int]] = [{}, {"area_nm2": 2}, {"area_nm2": 1, "max_dt_nm": 5}]
        for i in range(24):
            time = T0 + timedelta(minutes=i % 16, milliseconds=i)
            done = ChunkRecord(
                CHUNK + i, DONE, time, 7 * i, i, files=counts[i % 4], saturated=saturated[i % 3]
            )
            failed = ChunkRecord(CHUNK + i, FAILED, time, reason=f"reason {i}, ü\n", files=counts[i % 4])
            store.put_chunk(failed if i % 5 == 1 else done)
        for window, most in ((timedelta(minutes=10), 2), (timedelta(0), 0), (timedelta(days=1), 99)):
            found, expected = store.chunk_totals(window, most), totals_of(store.chunk_records(), window, most)
            counted = sum(work.chunks for work in expected.recent.values())
            assert counted == {0: 1, 600: 11, 86_400: 19}[int(window.total_seconds())]
            assert found == expected

    def test_incomplete_chunks(self, store: Store) -> None:
        """A chunk is incomplete if it is done, but some of its files were missing or empty."""
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

    def test_segments(self, store: Store) -> None:
        for segments in ([], [3], [2**63, 7, 2**64 - 1]):
            store.put_chunk(ChunkRecord(CHUNK, DONE, T0), as_ids(segments))
            read = store.segments(CHUNK)
            assert read is not None
            assert read.tolist() == segments
        store.put_chunk(ChunkRecord(CHUNK, DONE, T0))
        assert store.segments(CHUNK) is None
        assert store.segments(CHUNK + 1) is None

    def test_states_of_ten_thousand_chunks(self, store: Store) -> None:
        chunk_ids = LAYOUT.chunk_id_array(np.argwhere(np.ones((25, 20, 20))))
        for i in range(0, 10_000, 1_000):
            store.put_chunk(ChunkRecord(int(chunk_ids[i]), (DONE, FAILED)[i // 1_000 % 2], T0, nodes=i))
        states = store.chunk_states(chunk_ids)
        assert (states.shape, (states == "").sum()) == ((10_000,), 9_990)
        assert states[::1_000].tolist() == [DONE, FAILED] * 5
        assert sum(record.nodes for record in store.chunk_records()) == 45_000

    def test_failures_are_those_of_the_chunks_asked_for(self, store: Store) -> None:
        chunk_ids = LAYOUT.chunk_id_array(np.argwhere(np.ones((20, 20, 20))))
        for i in (0, 10, 20, 7_000):
            store.put_chunk(
                ChunkRecord(int(chunk_ids[i]), DONE if i == 10 else FAILED, T0, reason=f"reason {i}, ü")
            )
        asked = np.concatenate([chunk_ids[5:], chunk_ids[5:30], as_ids([2**64 - 1])])
        assert store.failures(asked) == {int(chunk_ids[i]): f"reason {i}, ü" for i in (20, 7_000)}
        assert store.failures(as_ids([])) == {}

    def test_coverage(self, store: Store) -> None:
        assert store.coverage() == Coverage(0, 0, None)
        store.write(features_of([FIRST]))
        for i in range(12):
            state, time = (FAILED, DONE)[i % 3 > 0], T0 + timedelta(seconds=i % 7)
            store.put_chunk(ChunkRecord(CHUNK + i, state, time, reason="x"), as_ids(range(100)))
            assert store.coverage().done + store.coverage().failed == i + 1
        assert store.coverage() == Coverage(8, 4, T0 + timedelta(seconds=6))
        store.put_chunk(ChunkRecord(CHUNK, DONE, T0 + timedelta(microseconds=132_000)))
        assert store.coverage() == Coverage(9, 3, T0 + timedelta(seconds=6))

    def test_attempts_are_counted_until_the_chunk_has_a_record(self, store: Store) -> None:
        assert [store.count_attempts(CHUNK) for _ in range(3)] == [[1], [2], [3]]
        assert store.count_attempts(OTHER) == [1]
        store.put_chunk(ChunkRecord(CHUNK, DONE, T0), as_ids([7]))
        assert store.count_attempts(CHUNK) == [1]
        assert store.count_attempts(OTHER) == [2]

    def test_attempts_at_works_are_counted_separately(self, store: Store) -> None:
        assert store.count_attempts(CHUNK, ["a", "b"]) == [1, 1]
        assert store.count_attempts(CHUNK, ["b", "c"]) == [2, 1]
        store.clear_attempts(CHUNK, ["b", "never-begun"])
        assert store.count_attempts(CHUNK, ["a", "b", "c"]) == [2, 1, 2]
        assert store.count_attempts(CHUNK) == [1]

    def test_clearing_needs_no_attempt(self, store: Store) -> None:
        store.clear_attempts(CHUNK)
        assert store.count_attempts(CHUNK) == [1]
        store.clear_attempts(CHUNK)
        assert store.count_attempts(CHUNK) == [1]

    def test_an_attempt_is_not_a_record(self, store: Store) -> None:
        store.count_attempts(OTHER, ["", "a"])
        assert list(store.chunk_records()) == []
        assert store.chunk_states(as_ids([OTHER])).tolist() == [""]
        assert store.failures(as_ids([OTHER])) == {}
        assert store.segments(OTHER) is None
        record = ChunkRecord(CHUNK, DONE, T0, nodes=3)
        store.put_chunk(record, as_ids([7]))
        store.count_attempts(CHUNK)
        assert list(store.chunk_records()) == [record]
        assert store.segments(CHUNK) == as_ids([7])
        assert (store.coverage().done, store.coverage().failed) == (1, 0)

    def test_attempts_need_a_table(self, new_store: NewStore) -> None:
        for use in ("count_attempts", "clear_attempts"):
            with pytest.raises(TableNotFound):
                getattr(new_store(), use)(CHUNK)
