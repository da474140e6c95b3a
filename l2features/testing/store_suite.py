"""Conformance tests that every store passes.

A test module runs them on a store, with the fixtures of `l2features.testing.stores`::

    class TestMyStore(StoreSuite):
        @pytest.fixture
        def store_url(self, tmp_path):
            return f"my-store://{tmp_path}/table"
"""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from ..core.errors import TableExists, TableNotFound
from ..core.ids import as_ids
from ..core.rows import Rows
from ..core.schema import FEATURES, NAMES
from ..store.base import DONE, ChunkRecord, Meta, Store, open_store
from .chunk_log_suite import ChunkLogSuite
from .root_suite import RootCellsSuite, SegmentIndexSuite
from .stores import CHUNK, FIRST, GEOMETRY, LAYOUT, META, META_REST, T0, NewStore, features_of, served_values


class FeatureRowsSuite:
    """Tests of `l2features.store.base.FeatureRows`."""

    @pytest.mark.parametrize("n", [1, 7, 5_500])
    def test_rows_are_read_as_written(self, store: Store, n: int) -> None:
        features = features_of(np.arange(FIRST, FIRST + n, dtype=np.uint64))
        store.write(features)
        rows = store.read(features["label"])
        assert rows.features.tobytes() == features.tobytes()
        np.testing.assert_array_equal(rows.present, Rows.complete(features).present)
        scanned = store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK))
        assert scanned.features.tobytes() == features.tobytes()

    def test_rows_are_in_the_order_of_the_ids(self, store: Store) -> None:
        features = features_of([FIRST + i for i in range(5)])
        store.write(features[::-1])
        asked = [FIRST + i for i in (3, 0, 99, 3, 4, 0, 77)]
        rows = store.read(asked)
        assert rows.ids.tolist() == asked
        assert rows.found.tolist() == [True, True, False, True, True, True, False]
        expected = served_values(Rows.complete(features))
        assert served_values(rows) == [expected[i] if i < 5 else {} for i in (3, 0, 99, 3, 4, 0, 77)]

    def test_the_first_ids_from_an_id_on(self, store: Store) -> None:
        ids = [1, FIRST, FIRST + 1, FIRST + 9, (1 << 64) - 1]
        store.write(features_of(ids))
        store.put_chunk(ChunkRecord(CHUNK, DONE, T0))
        assert store.first_ids(0, 3).tolist() == ids[:3]
        assert store.first_ids(FIRST + 1, 2).tolist() == ids[2:4]
        assert store.first_ids(FIRST + 2, 9).tolist() == ids[3:]
        assert store.first_ids((1 << 64) - 1, 9).tolist() == ids[4:]

    @pytest.mark.parametrize("ids", [[], (), np.empty(0, dtype=np.uint64)])
    def test_empty_reads_and_writes(self, store: Store, ids: Any) -> None:
        store.write(features_of([]))
        assert (len(store.read(ids)), store.read(ids).features.dtype) == (0, FEATURES)
        assert store.read([FIRST, FIRST + 1]).found.tolist() == [False, False]
        assert len(store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK))) == 0
        assert store.chunk_states(as_ids([])).tolist() == []
        assert list(store.chunk_records()) == []

    @pytest.mark.parametrize(
        "names",
        [("size_nm3",), ("pca",), ("pca_val", "area_nm2"), NAMES, tuple(reversed(NAMES)), ("none",), ()],
    )
    def test_columns(self, store: Store, names: tuple[str, ...]) -> None:
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

    def test_a_scan_keeps_to_its_chunk(self, store: Store) -> None:
        last = LAYOUT.last_id(CHUNK)
        inside = [CHUNK, FIRST, FIRST + 10**6, last - 1, last]
        around = [CHUNK - 1, last + 1, 2 * CHUNK, 5, 2**63 + FIRST]
        store.write(features_of(inside[::-1] + around))
        assert store.scan_chunk(CHUNK, last).ids.tolist() == inside
        assert store.scan_chunk(last + 1, LAYOUT.last_id(last + 1)).ids.tolist() == [last + 1]

    def test_ids_beyond_the_signed_range(self, store: Store) -> None:
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
        assert segments.dtype == np.uint64
        assert segments.tolist() == [2**64 - 1, 2**63]

    def test_a_row_is_replaced_as_a_whole(self, store: Store) -> None:
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


class StoreSuite(FeatureRowsSuite, ChunkLogSuite, RootCellsSuite, SegmentIndexSuite):
    """Tests of `l2features.store.base.Store`."""

    def test_create_twice_and_with_another_meta(self, store: Store) -> None:
        store.write(features_of([FIRST]))
        store.create(META)
        assert store.meta() == META
        later = "2020-01-01 00:00:00"
        rest = META.cv_path, later, GEOMETRY
        named, timed = "graph_id .*, expected 'other'", f"timestamp .*, expected '{later}'"
        for other, differing in (
            (Meta("other", *META_REST), named),
            (Meta("fixture", *rest), timed),
            (Meta("other", *rest), f"{named}; {timed}"),
        ):
            said = rf"table {store.name} in .* has other metadata: {differing}$"
            with pytest.raises(TableExists, match=said):
                store.create(other)
        assert store.meta() == META
        assert store.read([FIRST]).found.all()

    def test_meta_may_lack_the_geometry_and_be_stamped_again(self, new_store: NewStore) -> None:
        store = new_store()
        plain = Meta("fixture", "graphene://x", "2026-11-21 00:27:44")
        store.create(plain)
        assert store.meta() == plain
        store.stamp(META)
        assert store.meta() == META
        assert new_store(store.name).meta() == META
        assert META.time == datetime(2026, 11, 21, 0, 27, 44, tzinfo=UTC)

    def test_a_missing_table_is_an_error_of_every_call(self, new_store: NewStore) -> None:
        new_store().create(META)  # another table of the same store
        store, record = new_store(), ChunkRecord(CHUNK, DONE, T0)
        for use in (
            store.meta,
            lambda: store.read([FIRST]),
            lambda: store.write(features_of([FIRST])),
            lambda: store.stamp(META),
            lambda: store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK)),
            lambda: store.put_chunk(record),
            lambda: store.chunk_states(as_ids([CHUNK])),
            lambda: list(store.chunk_records()),
            lambda: store.segments(CHUNK),
            store.geometry,
            lambda: store.put_geometry(GEOMETRY),
            store.coverage,
            lambda: store.failures(as_ids([CHUNK])),
            store.ping,
            lambda: store.root_cells(as_ids([7]), ["a"]),
            lambda: store.put_root_cells({7: {"a": b""}}),
            lambda: store.delete_root_cells(as_ids([7])),
            lambda: store.segment_nodes(as_ids([7]), 1),
            lambda: store.index_segments(CHUNK, as_ids([7])),
        ):
            with pytest.raises(TableNotFound, match=f"table {store.name}.* not found"):
                use()

    def test_tables_are_independent(self, store: Store, new_store: NewStore) -> None:
        for name in (f"{store.name}.nodes", f"{store.name}-b"):
            other = new_store(name)
            other.create(Meta("b", *META_REST))
            assert not other.read([FIRST]).found.any()
            other.write(features_of([FIRST]))
            other.put_chunk(ChunkRecord(CHUNK, DONE, T0))
        assert not store.read([FIRST]).found.any()
        assert list(store.chunk_records()) == []
        assert store.meta() == META

    def test_an_open_store_can_be_pickled(self, store: Store) -> None:
        store.write(features_of([FIRST]))
        copy = pickle.loads(pickle.dumps(store))
        assert (copy.url, copy.name, copy.meta()) == (store.url, store.name, META)
        assert pickle.loads(pickle.dumps(open_store(store.url, store.name, 7.5))).deadline_s == 7.5
        assert copy.read([FIRST]).found.all()
        copy.close()

    def test_a_closed_store_opens_again(self, store: Store) -> None:
        store.close()
        store.write(features_of([FIRST]))
        store.close()
        assert store.read([FIRST]).found.all()

    def test_a_geometry_can_be_replaced_and_needs_no_meta(self, store: Store, new_store: NewStore) -> None:
        assert store.geometry() == GEOMETRY
        other = replace(GEOMETRY, voxel_size=(5, 6, 7))
        store.put_geometry(other)
        assert store.geometry() == other
        assert store.meta() == replace(META, geometry=other)
        plain = new_store()
        plain.create(Meta(META.graph_id, META.cv_path, META.timestamp))
        assert plain.geometry() is None
        plain.put_geometry(GEOMETRY)
        plain.stamp(Meta(META.graph_id, META.cv_path, META.timestamp))
        assert plain.meta() == META

    def test_ping(self, store: Store, new_store: NewStore) -> None:
        store.ping()
        with pytest.raises(TableNotFound, match="not found"):
            new_store().ping()

    def test_threads_share_a_store(self, new_store: NewStore, store: Store) -> None:
        features = features_of(np.arange(FIRST, FIRST + 3_000, dtype=np.uint64))
        store.write(features)
        fresh, barrier = new_store(store.name), threading.Barrier(8)

        def read(i: int) -> bool:
            barrier.wait()
            part = features[i::8]
            return fresh.read(part["label"]).features.tobytes() == part.tobytes()

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read, range(8)))

    def test_notes_are_kept_with_a_table(self, new_store: NewStore) -> None:
        store = new_store()
        with pytest.raises(TableNotFound):
            store.note("audit")
        with pytest.raises(TableNotFound):
            store.put_note("audit", "lost")
        store.create(META)
        assert store.note("audit") is None
        store.put_note("audit", "first")
        store.put_note("audit", '{"ä": 1}')
        store.put_note("other", "x")
        assert (store.note("audit"), store.note("other"), store.note("none")) == ('{"ä": 1}', "x", None)
        assert new_store(store.name).note("audit") == '{"ä": 1}'
        assert store.meta() == META
        assert len(store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK))) == 0
        with pytest.raises(ValueError, match="note name 'a-b'"):
            store.put_note("a-b", "")
