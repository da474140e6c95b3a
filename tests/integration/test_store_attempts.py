"""Open attempts at chunks, in stores of each kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from l2features.core.errors import TableNotFound
from l2features.core.ids import as_ids
from l2features.store.base import DONE, ChunkRecord, Store
from l2features.testing.stores import CHUNK, LAYOUT, T0

OTHER = LAYOUT.chunk_id(0, 0, 0)


def test_attempts_are_counted_until_the_chunk_has_a_record(store: Store) -> None:
    assert [store.count_attempts(CHUNK) for _ in range(3)] == [[1], [2], [3]]
    assert store.count_attempts(OTHER) == [1]
    store.put_chunk(ChunkRecord(CHUNK, DONE, T0), as_ids([7]))
    assert store.count_attempts(CHUNK) == [1]
    assert store.count_attempts(OTHER) == [2]


def test_attempts_at_works_are_counted_and_cleared_by_themselves(store: Store) -> None:
    assert store.count_attempts(CHUNK, ["a", "b"]) == [1, 1]
    assert store.count_attempts(CHUNK, ["b", "c"]) == [2, 1]
    store.clear_attempts(CHUNK, ["b", "never-begun"])
    assert store.count_attempts(CHUNK, ["a", "b", "c"]) == [2, 1, 2]
    assert store.count_attempts(CHUNK) == [1]


def test_clearing_needs_no_attempt(store: Store) -> None:
    store.clear_attempts(CHUNK)
    assert store.count_attempts(CHUNK) == [1]
    store.clear_attempts(CHUNK)
    assert store.count_attempts(CHUNK) == [1]


def test_an_attempt_is_no_record_of_a_chunk(store: Store) -> None:
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


def test_a_table_that_is_missing_counts_no_attempts(new_store: Callable[..., Store]) -> None:
    for use in ("count_attempts", "clear_attempts"):
        with pytest.raises(TableNotFound):
            getattr(new_store(), use)(CHUNK)
