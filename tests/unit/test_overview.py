"""Tests of a table's overview: the map of chunks, a sample of nodes, and the history of lags."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from l2features.core.geometry import Chunk, Geometry, Triple, layout_for_grid
from l2features.overview.chunk_map import MOST_CELLS, PLANES, SAMPLED, ChunkMap
from l2features.overview.node_sample import BINS, histogram, sample_nodes
from l2features.store.base import DONE, FAILED, ChunkRecord
from l2features.testing.small_table import GEOMETRY, node_ids, small_table
from l2features.testing.stores import open_table
from l2features.updates.lag_history import COLUMNS, MOST_MINUTES, NOTE, Pending, UpdateHistory, read_history
from tests.support.freshness import NOW, recorder_of

TIME, CHUNK = datetime(2026, 1, 1, tzinfo=UTC), (64, 64, 32)


def geometry_of(grid: Triple) -> Geometry:
    x, y, z = grid
    layout = layout_for_grid(grid, CHUNK)
    return Geometry((16, 16, 40), (0, 0, 0), (x * 64, y * 64, z * 32), CHUNK, layout)


def records_of(geometry: Geometry, n: int) -> list[ChunkRecord]:
    """Return records of up to ``n`` random chunks: failed, empty and with nodes."""
    random = np.random.default_rng(1)
    chunks = np.unique(random.integers(0, geometry.grid, (n, 3)), axis=0)
    kinds = random.integers(0, 3, len(chunks)).tolist()
    ids = geometry.layout.chunk_id_array(chunks).tolist()
    return [
        ChunkRecord(i, FAILED, TIME, reason="x") if kind == 0 else ChunkRecord(i, DONE, TIME, nodes=kind - 1)
        for i, kind in zip(ids, kinds, strict=True)
    ]


# ------------------------------------------------------------------ the map
@pytest.mark.parametrize("grid", [(3, 2, 2), (100, 65, 7), (1000, 1, 1), (64, 64, 64)])
def test_every_chunk_is_in_one_cell_of_each_projection(grid: Triple) -> None:
    geometry = geometry_of(grid)
    records = records_of(geometry, 500)
    chunk_map = ChunkMap(geometry)
    assert list(chunk_map.counting(records)) == records
    wanted = Counter(0 if record.nodes else 1 if record.state == FAILED else 2 for record in records)
    for plane, projection in chunk_map.planes.items():
        assert max(projection.total.shape) <= MOST_CELLS
        assert projection.total.sum() == geometry.n_chunks
        assert projection.counts.sum(axis=(1, 2)).tolist() == [wanted[i] for i in range(3)]
        assert (projection.counts.sum(axis=0) <= projection.total).all()
        columns, rows = projection.total.shape
        boxes = [chunk_map.box(plane, column, row) for column in range(columns) for row in range(rows)]
        assert [len(box) for box in boxes] == projection.total.ravel().tolist()


def test_a_failed_chunk_is_in_its_cell() -> None:
    geometry = geometry_of((200, 100, 3))
    chunk = Chunk(130, 7, 2)
    chunk_map = ChunkMap(geometry)
    list(chunk_map.counting([ChunkRecord(geometry.chunk_id(chunk), FAILED, TIME, reason="x")]))
    for plane, axes in PLANES.items():
        projection = chunk_map.planes[plane]
        ((state, column, row),) = np.argwhere(projection.counts).tolist()
        assert (state, int(projection.failed[column, row])) == (1, geometry.chunk_id(chunk))
        box = chunk_map.box(plane, column, row)
        assert all(a <= at < b for a, at, b in zip(box.start, chunk, box.stop, strict=True))
        assert [box.shape[3 - sum(axes)]] == [geometry.grid[3 - sum(axes)]]
    with pytest.raises(IndexError, match="cell 99, 0 of xy: the map has 50 x 25 cells"):
        chunk_map.box("xy", 99, 0)


def test_ten_million_chunks_make_a_small_map() -> None:
    chunk_map = ChunkMap(geometry_of((500, 400, 50)))
    assert chunk_map.geometry.n_chunks == 10_000_000
    assert sum(projection.total.size for projection in chunk_map.planes.values()) <= 3 * MOST_CELLS**2
    assert all(projection.total.sum() == 10_000_000 for projection in chunk_map.planes.values())


def test_the_sample_of_chunks_is_bounded_and_spread() -> None:
    geometry = geometry_of((10_000, 1, 1))
    ids = geometry.layout.chunk_id_array([(x, 0, 0) for x in range(10_000)]).tolist()
    chunk_map = ChunkMap(geometry)
    read = 0

    def records() -> Iterator[ChunkRecord]:
        nonlocal read
        for chunk_id in ids:
            read += 1
            yield ChunkRecord(chunk_id, DONE, TIME, nodes=1)

    assert len(list(chunk_map.counting(records()))) == read == 10_000
    places = geometry.layout.chunk_coordinates(np.array(chunk_map.sample, np.uint64))[:, 0]
    assert len(set(chunk_map.sample)) == SAMPLED
    assert 3_000 < np.median(places) < 7_000


def test_records_outside_the_grid_are_left_out() -> None:
    chunk_map = ChunkMap(geometry_of((3, 2, 2)))
    outside = chunk_map.geometry.layout.chunk_id(3, 0, 0)
    list(chunk_map.counting([ChunkRecord(outside, DONE, TIME, nodes=1)]))
    assert [projection.counts.sum() for projection in chunk_map.planes.values()] == [0, 0, 0]
    assert chunk_map.sample == []


# ------------------------------------------------------------------ the sample of nodes
def test_a_sample_has_the_computed_nodes(tmp_path: Path) -> None:
    with closing(open_table(small_table(tmp_path))) as store:
        chunk = GEOMETRY.layout.chunk_id(1, 0, 0)
        rows = store.read(node_ids())
        real = rows.features[~rows.not_computed]
        for chunks in ([chunk], []):  # also without a record of a chunk
            found = sample_nodes(store, GEOMETRY, chunks)
            assert (found.chunks, found.ids.tolist()) == (1, real["label"].tolist())
            assert found.size_um3 == pytest.approx(real["size_nm3"] * (16 * 16 * 40) / 1e9)
            assert found.max_dt_nm.tolist() == real["max_dt_nm"].tolist()


def test_a_histogram_counts_every_positive_value() -> None:
    values = np.random.default_rng(0).lognormal(3, 2, 1000)
    found = histogram(np.append(values, 0.0))
    assert found
    assert (len(found.counts), sum(found.counts)) == (BINS, 1000)
    assert found.edges[0] == pytest.approx(values.min(), rel=1e-5)
    assert found.edges[-1] == pytest.approx(values.max(), rel=1e-5)
    same = histogram(np.full(7, 5.0))
    assert same
    assert sum(same.counts) == 7
    assert histogram(np.zeros(3)) is None


# ------------------------------------------------------------------ the ring
def test_an_updater_writes_an_entry_a_minute(tmp_path: Path) -> None:
    with closing(open_table(small_table(tmp_path))) as store:
        assert read_history(store) is None
        with closing(recorder_of(store, "one")) as recorder:
            recorder.applied(["d"], NOW - 4, 1, NOW)
            recorder.backlog(3)
            recorder.flush(NOW)
            recorder.applied(["d"], NOW + 8, 2, NOW + 10)
            recorder.applied(["d"], NOW + 20, 3, NOW + 30)
            recorder.flush(NOW + 30)  # in the same minute or the next: counted once
            recorder.refused(["d"], ["unknown_node"])
            recorder.refused([], ["bad_pickle"])
            recorder.flush(NOW + 130)
            recorder.flush(NOW + 200)
        found = read_history(store)
        assert found
        assert sum(found.messages) == 3
        assert found.minutes == sorted(set(found.minutes))
        assert found.minutes[-1] == (NOW + 200) // 60
        assert (found.p99_s[0], found.p99_s[-1]) == (4.0, None)
        assert max(value for value in found.p99_s if value is not None) == pytest.approx(9.92)
        assert set(found.backlog) == {3}
        assert found.dead == {"bad_pickle": 1, "unknown_node": 1}
        assert found.dead_since == NOW // 60


def test_the_ring_is_bounded_and_two_updaters_share_a_minute() -> None:
    ring = None
    for minute in range(MOST_MINUTES + 5):
        ring = Pending().added_to(ring, None, 60.0 * minute)
    assert ring
    assert (ring.minutes[0], len(ring.minutes), ring.minutes[-1]) == (5, MOST_MINUTES, MOST_MINUTES + 4)
    assert len(ring.model_dump_json()) < 20_000
    slow, fast = Pending(), Pending()
    slow.add(9.0)
    fast.add(1.0)
    fast.refuse(["bad_node"])
    now = 60.0 * (MOST_MINUTES + 9)
    both = fast.added_to(slow.added_to(ring, 2, now), 5, now)
    assert [getattr(both, name)[-1] for name in COLUMNS] == [MOST_MINUTES + 9, 2, 9.0, 9.0, 7]
    assert (len(both.minutes), both.dead) == (MOST_MINUTES, {"bad_node": 1})


def test_an_entry_that_cannot_be_written_is_kept_for_the_next() -> None:
    lost, later = Pending(), Pending(600.0)
    lost.add(2.0)
    lost.refuse(["bad_node"])
    later.add(3.0)
    later.take_back(lost)
    found = later.added_to(None, None, 660.0)
    assert (found.messages, found.median_s, found.dead) == ([2], [2.5], {"bad_node": 1})


def test_a_ring_whose_lists_differ_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"backlog: expected equal lengths, got \[0, 1\]"):
        UpdateHistory(minutes=[1])
    with closing(open_table(small_table(tmp_path))) as store:
        store.put_note(NOTE, json.dumps({"minutes": [1, 2]}))
        with closing(recorder_of(store, "one")) as recorder:
            recorder.applied(["d"], NOW - 4, 1, NOW)
            recorder.flush(NOW)  # replaces it
        found = read_history(store)
        assert found
        assert found.messages == [1]
