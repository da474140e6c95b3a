"""Tests of a store's `RootCells` and `SegmentIndex`. `store_suite` includes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ..core.ids import Ids, as_ids
from ..store.base import DONE, FAILED, MOST_CELL_BYTES, ChunkRecord, Store
from .stores import CHUNK, FIRST, LAYOUT, T0, NewStore, features_of

OTHER = LAYOUT.chunk_id(0, 0, 0)
MOST = 100


class RootCellsSuite:
    """Tests of `l2features.store.base.RootCells`."""

    def test_root_cells_are_read_as_written(self, store: Store) -> None:
        cells = {
            2**64 - 1: {"l2_ids": b"\x00\xff", "summary": b""},
            7: {"l2_ids": bytes(range(256))},
            FIRST: {"edges_0": b"x" * 70_000, "edges_1": b"y"},
        }
        store.put_root_cells(cells)
        asked = as_ids([FIRST, 7, 5, 2**64 - 1, 7])
        assert store.root_cells(asked, ["summary", "l2_ids", "edges_1", "edges_0"]) == cells
        assert store.root_cells(asked, ["l2_ids"]) == {
            2**64 - 1: {"l2_ids": b"\x00\xff"},
            7: {"l2_ids": bytes(range(256))},
        }
        for roots, names in (([5], ["l2_ids"]), ([], ["l2_ids"]), ([7], []), ([7], ["l2"])):
            assert store.root_cells(as_ids(roots), names) == {}

    def test_a_root_cell_is_replaced_and_the_others_stay(self, store: Store) -> None:
        assert store.root_cells(as_ids([7]), ["a"]) == {}
        store.put_root_cells({7: {"a": b"1", "b": b"2"}, 8: {"a": b"3"}})
        store.put_root_cells({7: {"b": b"new"}})
        store.put_root_cells({})
        assert store.root_cells(as_ids([7, 8]), ["a", "b"]) == {7: {"a": b"1", "b": b"new"}, 8: {"a": b"3"}}

    def test_root_cells_are_deleted(self, store: Store) -> None:
        store.delete_root_cells(as_ids([7]))
        store.put_root_cells({i: {"a": b"1", "b": b"2"} for i in (7, 8, 2**63)})
        store.delete_root_cells(as_ids([7, 9, 2**63]))
        store.delete_root_cells(as_ids([]))
        assert store.root_cells(as_ids([7, 8, 2**63]), ["a", "b"]) == {8: {"a": b"1", "b": b"2"}}

    def test_many_roots(self, store: Store) -> None:
        roots = np.arange(FIRST, FIRST + 3_000, dtype=np.uint64)
        store.put_root_cells({root: {"a": b"%d" % root} for root in roots.tolist()})
        found = store.root_cells(roots[::-1], ["a"])
        assert found == {root: {"a": b"%d" % root} for root in roots.tolist()}

    def test_large_and_malformed_root_cells(self, store: Store) -> None:
        largest = np.random.default_rng(0).bytes(MOST_CELL_BYTES)
        store.put_root_cells({7: {"a": largest, "b": largest}})
        assert store.root_cells(as_ids([7]), ["a", "b"]) == {7: {"a": largest, "b": largest}}
        with pytest.raises(
            ValueError, match=r"root 8: cell 'a' has 10000001 bytes, expected 10000000 at most"
        ):
            store.put_root_cells({8: {"a": largest + b"x"}})
        for name in ("", "A", "a-b", "x" * 51):
            with pytest.raises(ValueError, match=f"root cell '{name}': expected"):
                store.put_root_cells({8: {name: b""}})
        assert store.root_cells(as_ids([8]), ["a"]) == {}

    def test_roots_and_segments_are_no_rows_of_nodes(self, store: Store) -> None:
        store.write(features_of([FIRST]))
        store.put_root_cells({FIRST: {"a": b"1"}, CHUNK: {"a": b"1"}})
        store.index_segments(CHUNK, as_ids([FIRST, FIRST + 1]))
        assert store.scan_chunk(0, 2**63 - 1).ids.tolist() == [FIRST]
        assert store.read([FIRST, FIRST + 1]).found.tolist() == [True, False]
        assert list(store.chunk_records()) == []
        assert store.coverage().done == 0
        assert store.segments(CHUNK) is None
        store.delete(FIRST, FIRST)
        assert store.root_cells(as_ids([FIRST]), ["a"]) == {FIRST: {"a": b"1"}}


class SegmentIndexSuite:
    """Tests of `l2features.store.base.SegmentIndex`."""

    def test_chunks_are_indexed_by_segment(self, store: Store) -> None:
        store.put_chunk(record(CHUNK), as_ids([9, 2**64 - 1, 5]))
        store.put_chunk(record(OTHER), as_ids([5, 9]))
        expected = {5: [OTHER + 1, CHUNK + 3], 9: [OTHER + 2, CHUNK + 1], 2**64 - 1: [CHUNK + 2]}
        assert nodes_of(store, [5, 9, 2**64 - 1, 7, 5]) == expected
        assert nodes_of(store, []) == {}
        found = store.segment_nodes(as_ids([5]), MOST)[5]
        assert found.dtype == np.uint64

    def test_the_index_follows_the_segments_of_a_chunk(self, store: Store) -> None:
        every = [1, 2, 3, 4]
        store.put_chunk(record(CHUNK), as_ids([1, 2, 3]))
        store.put_chunk(record(OTHER), as_ids([1, 2]))
        store.put_chunk(record(CHUNK), as_ids([3, 4]))
        first = {1: [OTHER + 1], 2: [OTHER + 2]}
        assert nodes_of(store, every) == first | {3: [CHUNK + 1], 4: [CHUNK + 2]}
        store.put_chunk(ChunkRecord(CHUNK, FAILED, T0, reason="x"), as_ids([3, 4]))
        assert nodes_of(store, every) == first | {3: [CHUNK + 1], 4: [CHUNK + 2]}
        store.put_chunk(record(CHUNK), as_ids([]))
        assert nodes_of(store, every) == first
        store.put_chunk(record(OTHER))
        assert nodes_of(store, every) == {}

    def test_segments_are_indexed_without_a_record_and_again(self, store: Store) -> None:
        for _ in range(2):
            store.index_segments(CHUNK, as_ids([7, 8]))
            store.index_segments(OTHER, as_ids([8]))
            store.index_segments(OTHER, as_ids([]))
        assert nodes_of(store, [7, 8]) == {7: [CHUNK + 1], 8: [OTHER + 1, CHUNK + 2]}
        assert store.segments(CHUNK) is None

    def test_the_first_nodes_of_a_large_segment(self, store: Store) -> None:
        chunks = [2**63 - 2**20, 2**63, OTHER, CHUNK]
        for chunk_id in chunks:
            store.index_segments(chunk_id, as_ids([7]))
        expected = sorted(chunk_id + 1 for chunk_id in chunks)
        assert [nodes_of(store, [7], most)[7] for most in (0, 1, 2, 3, 9)] == [
            *(expected[: most + 1] for most in (0, 1, 2, 3, 9))
        ]

    def test_many_segments_of_a_chunk(self, store: Store) -> None:
        segments = np.random.default_rng(0).permutation(np.arange(1, 3_001, dtype=np.uint64))
        store.put_chunk(record(CHUNK), segments)
        expected = {segment: [CHUNK + rank] for rank, segment in enumerate(segments.tolist(), 1)}
        assert nodes_of(store, segments) == expected

    def test_tables_have_indexes_of_their_own(self, store: Store, new_store: NewStore) -> None:
        other = new_store(f"{store.name}-b")
        other.create_table()
        other.put_chunk(record(CHUNK), as_ids([7]))
        other.put_root_cells({7: {"a": b"1"}})
        assert nodes_of(store, [7]) == {}
        assert store.root_cells(as_ids([7]), ["a"]) == {}


def record(chunk_id: int) -> ChunkRecord:
    return ChunkRecord(chunk_id, DONE, T0)


def nodes_of(store: Store, segments: Any, most: int = MOST) -> dict[int, list[int]]:
    found: dict[int, Ids] = store.segment_nodes(as_ids(segments), most)
    return {segment: nodes.tolist() for segment, nodes in found.items()}
