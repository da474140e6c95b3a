"""Tests of the id ranges that cover a box of chunks, compared with a loop over all chunks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from l2features.core.chunks import ChunkBox, whole_box
from l2features.core.geometry import Triple, as_triple
from l2features.core.ids import IdLayout, Ids, as_ids
from l2features.graph import chunk_ranges
from l2features.graph.chunk_ranges import (
    MOST_RANGES,
    SHORTEST,
    IdRanges,
    batches_of,
    in_ranges,
    ranges_after,
    ranges_within,
    ranges_without,
)
from l2features.graph.table_meta import layout_above

Chunks = set[tuple[int, ...]]


def layout_of(top: int, fan_out: int = 2) -> IdLayout:
    return layout_above(IdLayout({1: 10, 2: 10}), top, fan_out)


def covered(layout: IdLayout, ranges: IdRanges) -> Chunks:
    """Return layer, x, y, z of the chunks; check that ranges ascend, are disjoint and hold whole chunks."""
    found: Chunks = set()
    assert (ranges.first[1:] > ranges.last[:-1]).all()
    for first, last, chunks in zip(*(array.tolist() for array in ranges), strict=True):
        ends = as_ids([first, last])
        (layer,) = {*layout.layers(ends).tolist()}
        (x, y, z0), (x1, y1, z1) = layout.chunk_coordinates(ends).tolist()
        assert (x, y, z1 - z0 + 1) == (x1, y1, chunks)
        assert first == layout.chunk_id(x, y, z0, layer) + 1
        assert last == layout.last_id(layout.chunk_id(x, y, z1, layer))
        found |= {(layer, x, y, z) for z in range(z0, z1 + 1)}
    assert len(found) == ranges.chunks.sum()
    return found


def within(grid: Triple, box: ChunkBox, top: int, fan_out: int) -> Chunks:
    """Return the chunks of layers 2 to ``top - 1`` whose layer-2 chunks in the grid all lie in the box."""
    members: dict[tuple[int, ...], list[bool]] = {}
    for xyz in np.ndindex(*grid):
        inside = all(a <= n < b for n, a, b in zip(xyz, box.start, box.stop, strict=True))
        for layer in range(2, top):
            chunk = layer, *(n // fan_out ** (layer - 2) for n in xyz)
            members.setdefault(chunk, []).append(inside)
    return {chunk for chunk, inside in members.items() if all(inside)}


@pytest.mark.parametrize("seed", range(40))
def test_chunks_that_lie_in_a_random_box(seed: int) -> None:
    random = np.random.default_rng(seed)
    grid, fan_out = as_triple(random.integers(1, 10, 3)), int(random.integers(2, 4))
    top = next(top for top in range(3, 9) if fan_out ** (top - 2) >= max(grid))
    start = random.integers(0, grid)
    box = ChunkBox(as_triple(start), as_triple(start + random.integers(0, 11, 3)))
    layout = layout_of(top, fan_out)
    assert covered(layout, ranges_within(layout, grid, box, range(2, top), fan_out)) == within(
        grid, box, top, fan_out
    )


def test_an_aligned_block_has_the_chunks_of_its_layers() -> None:
    layout = layout_of(6)
    ranges = ranges_within(layout, (16, 16, 16), ChunkBox((8, 0, 8), (16, 8, 16)), range(2, 6), 2)
    assert len(ranges.first) == 64 + 16 + 4 + 1
    assert ranges.chunks.sum() == 512 + 64 + 8 + 1


def test_requests_have_about_as_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_ranges, "LONGEST", 10)
    grid, layout = (5, 4, 37), layout_of(8)
    ranges = ranges_within(layout, grid, whole_box(grid), range(2, 8), 2)
    assert covered(layout, ranges) == within(grid, whole_box(grid), 8, 2)
    batches = batches_of(ranges, 10)
    assert ranges.chunks.max() == 10
    assert all(0 < batch.chunks.sum() < 20 for batch in batches)
    assert len(batches) > len(within(grid, whole_box(grid), 8, 2)) / 20
    assert all(one.last[-1] < other.first[0] for one, other in pairwise(batches))
    assert np.concatenate([batch.first for batch in batches]).tolist() == ranges.first.tolist()


def test_no_chunks_are_no_requests() -> None:
    ranges = ranges_within(layout_of(4), (4, 4, 4), ChunkBox((1, 1, 1), (1, 4, 4)), range(2, 4), 2)
    assert batches_of(ranges, 10) == []


def test_what_is_left_after_the_first_rows() -> None:
    ranges = ranges_within(layout_of(5), (8, 8, 8), ChunkBox((0, 0, 0), (4, 4, 8)), range(2, 5), 2)
    for read in (int(ranges.first[3]), int(ranges.last[3]) - 1):
        left = ranges_after(ranges, read)
        assert left.first.tolist() == [read + 1, *ranges.first[4:].tolist()]
        assert left.last.tolist() == ranges.last[3:].tolist()
    assert ranges_after(ranges, int(ranges.last[3])).first.tolist() == ranges.first[4:].tolist()
    assert len(ranges_after(ranges, int(ranges.last[-1])).first) == 0


def some_ids(random: np.random.Generator, layout: IdLayout, grid: Triple, share: float) -> Ids:
    """Return a random share of 50 ids per chunk: segments 1 to 49 and the highest one."""
    chunks = layout.chunk_id_array(list(np.ndindex(*grid)))
    segments = as_ids([*range(1, 50), 2 ** layout.segment_bits(2) - 1])
    ids = np.sort((chunks[:, None] + segments).ravel())
    return ids[random.random(len(ids)) < share]


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.95, 1])
def test_ranges_without_ids(share: float) -> None:
    """Check that `ranges_without` removes ids exactly where `SHORTEST` or more of them are consecutive."""
    random, grid, layout = np.random.default_rng(5), (3, 2, 37), layout_of(8)
    ranges = ranges_within(layout, grid, ChunkBox((1, 0, 1), grid), range(2, 3), 2)
    ids = some_ids(random, layout, grid, share)
    left = ranges_without(layout, ranges, ids)
    everything = some_ids(random, layout, grid, 1)
    ours, wanted = everything[in_ranges(ranges, everything)], ids[in_ranges(ranges, ids)]
    assert (left.first <= left.last).all()
    assert (left.first[1:] > left.last[:-1]).all()
    assert in_ranges(ranges, left.first).all()
    assert in_ranges(left, np.setdiff1d(ours, wanted)).all()
    runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1)
    for run in runs:
        assert in_ranges(left, run).all() == (len(run) < SHORTEST) or not len(run)
        assert in_ranges(left, run).any() == (0 < len(run) < SHORTEST)
    assert (left.chunks > 0).all()
    assert left.chunks.sum() <= ranges.chunks.sum() + len(left.first)


def test_a_request_has_a_limited_number_of_ranges() -> None:
    layout, grid = layout_of(8), (1, 1, 37)
    ranges = ranges_within(layout, grid, whole_box(grid), range(2, 3), 2)
    chunks = layout.chunk_id_array(list(np.ndindex(*grid)))
    ids = np.sort((chunks[:, None] + as_ids([n for n in range(1, 1000) if n % 6])).ravel())
    left = ranges_without(layout, ranges, ids)
    batches = batches_of(left, 32)
    assert len(left.first) > 6 * MOST_RANGES
    assert max(len(batch.first) for batch in batches) <= MOST_RANGES
    assert len(batches) < 10


@pytest.mark.parametrize("chunks", [8, 32])
def test_many_short_ranges_are_no_more_than_a_request_may_have(chunks: int) -> None:
    first = np.arange(20 * MOST_RANGES, dtype=np.uint64) * np.uint64(10)
    sizes = [len(some.first) for some in batches_of(IdRanges(first, first, np.zeros(len(first))), chunks)]
    assert max(sizes) <= MOST_RANGES
    assert len(sizes) <= 21
