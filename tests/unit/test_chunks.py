"""Tests of boxes of chunks and the scattered order in which chunks are visited."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2features.core.chunks import ChunkBox, centre_box, parse_box, whole_box
from l2features.core.errors import ConfigError
from l2features.core.geometry import Triple

HUGE = (434, 331, 206)  # 29.6 million chunks
triples = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))


@pytest.mark.parametrize(
    ("box", "shape", "text"),
    [
        (ChunkBox((0, 0, 0), (2, 3, 4)), (2, 3, 4), "0:2,0:3,0:4"),
        (ChunkBox((5, 0, 7), (6, 1, 9)), (1, 1, 2), "5:6,0:1,7:9"),
        (whole_box((3, 1, 2)), (3, 1, 2), "0:3,0:1,0:2"),
        (ChunkBox((1, 1, 1), (1, 2, 2)), (0, 1, 1), "1:1,1:2,1:2"),
    ],
)
def test_boxes(box: ChunkBox, shape: Triple, text: str) -> None:
    assert (box.shape, str(box), len(box)) == (shape, text, int(np.prod(shape)))
    assert box.positions(0, 10**6).shape == (len(box), 3)


@pytest.mark.parametrize(
    ("grid", "box"),
    [
        ((1, 1, 1), "0:1,0:1,0:1"),
        ((2, 1, 1), "0:2,0:1,0:1"),
        ((2, 2, 2), "0:2,0:2,0:2"),
        ((3, 2, 2), "1:3,0:2,0:2"),
        ((5, 4, 3), "2:4,1:3,1:3"),
        ((1, 9, 100), "0:1,4:6,49:51"),
    ],
)
def test_the_box_at_the_centre(grid: Triple, box: str) -> None:
    assert str(centre_box(grid)) == box


@given(triples)
def test_the_centre_is_at_most_eight_chunks_of_the_grid(grid: Triple) -> None:
    box = centre_box(grid)
    assert box.shape == tuple(min(2, n) for n in grid)
    for a, b, n in zip(box.start, box.stop, grid, strict=True):
        assert 0 <= a <= (n - 1) / 2 < b <= n


@given(triples, triples, st.integers(1, 500))
def test_the_order_visits_every_chunk_once(start: Triple, shape: Triple, shard: int) -> None:
    x, y, z = (a + n for a, n in zip(start, shape, strict=True))
    box = ChunkBox(start, (x, y, z))
    parts = [box.positions(i, i + shard) for i in range(0, len(box), shard)]
    visited = np.concatenate(parts)
    assert [len(part) for part in parts[:-1]] == [shard] * (len(parts) - 1)
    expected = np.stack(np.meshgrid(*map(np.arange, start, box.stop), indexing="ij"), axis=-1).reshape(-1, 3)
    assert sorted(map(tuple, visited.tolist())) == sorted(map(tuple, expected.tolist()))
    np.testing.assert_array_equal(visited, box.positions(0, len(box)))


@pytest.mark.parametrize("grid", [(40, 30, 20), (1, 200, 50), (300, 7, 3), (100, 100, 1), HUGE])
def test_neighbours_in_the_order_are_not_neighbouring_chunks(grid: Triple) -> None:
    order = whole_box(grid).positions(0, 100_000)
    steps = np.abs(np.diff(order, axis=0))
    assert (steps.max(axis=1) > 1).all()
    long = int(np.argmax(np.array(grid) > 1))  # the axis that row keys are sorted by
    assert (steps[:, long] >= grid[long] // 3).all()


def test_a_hundred_chunks_in_a_row_are_spread_over_the_keys() -> None:
    """Check that the largest gap between places in row-key order is less than three times the mean gap."""
    box = whole_box((100, 100, 20))
    for first in (0, 12_345, 199_900):
        keys = np.sort(np.ravel_multi_index(tuple(box.positions(first, first + 100).T), box.shape))
        gaps = np.diff(np.concatenate([keys, keys[:1] + len(box)]))
        assert gaps.max() < 3 * len(box) / 100


def test_millions_of_chunks_in_shards_without_memory() -> None:
    box = whole_box(HUGE)
    n, shard = len(box), 1 << 20
    assert n > 29_500_000
    seen = np.zeros(n, dtype=bool)
    tracemalloc.start()
    for first in range(0, n, shard):
        positions = box.positions(first, first + shard)
        seen[np.ravel_multi_index(tuple(positions.T), HUGE)] = True
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen.all()
    assert peak < 200 * shard


def test_a_shard_beyond_the_end_is_cut_off() -> None:
    box = whole_box((2, 2, 2))
    assert len(box.positions(6, 100)) == 2
    assert box.positions(8, 100).shape == (0, 3)


@settings(max_examples=20)
@given(st.integers(10**9, 5 * 10**9))
def test_the_order_of_billions_is_one_too(n: int) -> None:
    box = whole_box((n, 1, 1))
    positions = np.concatenate([box.positions(first, first + 1000)[:, 0] for first in (0, n // 2, n - 1000)])
    assert len(np.unique(positions)) == 3000
    assert ((positions >= 0) & (positions < n)).all()
    stride = int(box.positions(1, 2)[0, 0])
    assert int(box.positions(n - 1, n)[0, 0]) == (n - 1) * stride % n


@pytest.mark.parametrize(
    ("text", "start", "stop"),
    [
        ("0:5,0:4,0:3", (0, 0, 0), (5, 4, 3)),
        ("4:5,3:4,2:3", (4, 3, 2), (5, 4, 3)),
        (" 1:2, 0:1 , 0:3 ", (1, 0, 0), (2, 1, 3)),
    ],
)
def test_boxes_from_text(text: str, start: Triple, stop: Triple) -> None:
    assert parse_box(text, (5, 4, 3)) == ChunkBox(start, stop)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0:5",
        "0:5,0:4",
        "0:5,0:4,0:3,0:1",
        "0-5,0-4,0-3",
        "-1:5,0:4,0:3",
        ":,:,:",
        "a:b,c:d,e:f",
        "0:5.0,0:4,0:3",
    ],
)
def test_what_is_no_box(text: str) -> None:
    with pytest.raises(ConfigError, match="expected x0:x1,y0:y1,z0:z1"):
        parse_box(text, (5, 4, 3))


@pytest.mark.parametrize("text", ["0:6,0:4,0:3", "0:5,0:4,0:4", "2:2,0:4,0:3", "3:1,0:4,0:3", "5:6,0:1,0:1"])
def test_boxes_outside_the_grid(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a part of the grid, which is 0:5,0:4,0:3") as error:
        parse_box(text, (5, 4, 3))
    assert repr(text) in str(error.value)
