"""Tests of the features of some of a chunk's nodes: their bytes equal those from the whole chunk."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2features.kernel import SegmentedChunk, compute_features, group_features
from l2features.kernel.cut import cut_runs, find_boxes
from l2features.kernel.runs import Runs
from l2features.testing.oracle import make_blobs
from tests.support.features import RESOLUTIONS, SHAPES

Shape = tuple[int, int, int]
LABELS = st.integers(1, 2**64 - 1)
UNKNOWN = 2**63 + 1


def supervoxels(seed: int, shape: Shape, order: Literal["C", "F"]) -> np.ndarray:
    """Return blobs as supervoxels, with background and up to three stray voxels."""
    random = np.random.default_rng(seed)
    blobs = make_blobs(random, shape, int(random.integers(1, 25))).astype(np.uint64)
    stray = random.integers(0, blobs.size, 3)
    blobs.reshape(-1)[stray] = random.integers(0, 30, 3)
    return np.array(blobs * np.uint64(2**55 + 7), order=order)


def alone(volume: np.ndarray, label: int, members: list[int], resolution: tuple[float, ...]) -> bytes:
    """Return the bytes of a node's features, computed with all other supervoxels set to background."""
    mask = np.isin(volume, np.array(members, np.uint64)) & (volume != 0)
    return compute_features(np.where(mask, np.uint64(label), np.uint64(0)), resolution).tobytes()


@given(st.integers(0, 2**32), SHAPES, st.sampled_from("CF"), st.sampled_from(RESOLUTIONS), st.data())
def test_groups_have_the_bytes_of_the_whole_chunk(
    seed: int, shape: Shape, order: Literal["C", "F"], resolution: tuple[float, ...], data: st.DataObject
) -> None:
    volume = supervoxels(seed, shape, order)
    chunk = SegmentedChunk(volume)
    some = st.lists(st.sampled_from([*chunk.ids.tolist(), UNKNOWN]), max_size=6)
    groups = data.draw(st.dictionaries(LABELS, some, max_size=8))
    rows = group_features(chunk, groups, resolution)
    assert rows["label"].tolist() == sorted(groups)
    for row in rows:
        label = int(row["label"])
        expected = alone(volume, label, groups[label], resolution)
        one = group_features(chunk, {label: groups[label]}, resolution)
        assert one.tobytes() == row.tobytes()
        if expected:
            assert row.tobytes() == expected
        else:
            assert row["size_nm3"] == 0


@given(st.integers(0, 2**32), SHAPES, st.sampled_from(RESOLUTIONS), st.integers(1, 12))
def test_a_whole_grouping_has_the_bytes_of_the_batch(
    seed: int, shape: Shape, resolution: tuple[float, ...], n: int
) -> None:
    chunk = SegmentedChunk(supervoxels(seed, shape, "F"))
    labels = np.random.default_rng(seed).integers(1, n + 1, len(chunk.ids)).astype(np.uint64)
    groups = {int(label): chunk.ids[labels == label] for label in np.unique(labels)}
    batch = chunk.features(labels, resolution)
    assert group_features(chunk, groups, resolution).tobytes() == batch.tobytes()
    one_by_one = [group_features(chunk, {label: ids}, resolution) for label, ids in groups.items()]
    assert b"".join(row.tobytes() for row in one_by_one) == batch.tobytes()


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_many_large_nodes_at_once_and_the_same_one_by_one(resolution: tuple[float, ...]) -> None:
    chunk = SegmentedChunk(np.random.default_rng(5).integers(0, 40, (33, 20, 18)).astype(np.uint16))
    random = np.random.default_rng(6)
    groups = {label: random.choice(chunk.ids, 4, replace=False) for label in range(1, 30)}
    rows = group_features(chunk, groups, resolution)
    for row, (label, members) in zip(rows, groups.items(), strict=True):
        assert group_features(chunk, {label: members}, resolution).tobytes() == row.tobytes()


def test_faces_of_the_chunk_are_not_those_of_the_box() -> None:
    volume = np.zeros((9, 9, 9), np.uint32)
    volume[3:6, 3:6, 3:6] = 5
    volume[0, 4, 4] = volume[8, 8, 8] = 6
    rows = group_features(SegmentedChunk(volume), {1: [5], 2: [6]}, (16, 16, 40))
    assert rows["chunk_intersect_count"].tolist() == [[[0] * 3] * 2, [[1, 0, 0], [1, 1, 1]]]
    assert rows["rep_coord_nm"][0].tolist() == [4, 4, 4]


def test_a_label_that_fills_the_chunk() -> None:
    volume = np.ones((6, 5, 4), np.uint64)
    volume[3:] = 2
    both = group_features(SegmentedChunk(volume), {7: [1, 2], 8: [2]}, (16, 16, 40))
    assert both[:1].tobytes() == compute_features(np.full_like(volume, 7), (16, 16, 40)).tobytes()
    assert both["max_dt_nm"].tolist() == [65535, 48]


def test_no_groups_and_an_empty_chunk() -> None:
    empty = SegmentedChunk(np.zeros((4, 4, 4), np.uint64))
    assert len(group_features(empty, {}, (1, 1, 1))) == 0
    rows = group_features(empty, {3: [4, 5], 2: []}, (1, 1, 1))
    assert (rows["label"].tolist(), rows["size_nm3"].tolist()) == ([2, 3], [0, 0])
    with pytest.raises(ValueError, match="0 is background"):
        group_features(empty, {0: [4]}, (1, 1, 1))
    with pytest.raises(ValueError, match="resolution must be three positive numbers"):
        group_features(empty, {1: [4]}, (1, 0, 1))


@given(st.integers(0, 2**32), SHAPES, st.data())
def test_boxes_and_what_is_cut_out(seed: int, shape: Shape, data: st.DataObject) -> None:
    volume = supervoxels(seed, shape, "F")
    chunk = SegmentedChunk(volume)
    boxes = find_boxes(chunk.runs, len(chunk.rank))
    for label, rank in enumerate(chunk.rank.tolist()):
        if rank:
            where = np.argwhere(volume == chunk.ids[rank - 1])
            order = list(chunk.frame.axes)
            assert boxes[label, 0].tolist() == where.min(axis=0)[order].tolist()
            assert boxes[label, 1].tolist() == (where.max(axis=0) + 1)[order].tolist()
    lower = np.array([data.draw(st.integers(0, n - 1)) for n in chunk.runs.shape])
    upper = np.array([data.draw(st.integers(a + 1, n)) for a, n in zip(lower, chunk.runs.shape, strict=True)])
    box = np.array([lower, upper])
    table = np.random.default_rng(seed).integers(0, 3, len(chunk.rank)).astype(np.uint32)
    cut = cut_runs(chunk.runs, table, box)
    painted = paint(chunk.runs, table)[tuple(slice(*ends) for ends in box.T.tolist())]
    assert np.array_equal(paint(cut, np.arange(3, dtype=np.uint32)), painted)
    for line in itertools.pairwise(cut.offsets.tolist()):
        labels = cut.labels[slice(*line)]
        assert (labels[1:] != labels[:-1]).all()


def paint(runs: Runs, table: np.ndarray) -> np.ndarray:
    """Return the volume that the runs describe, with labels from ``table``."""
    out = np.zeros(runs.shape, np.uint32, order="F")
    lines = out.reshape(runs.shape[0], -1, order="F")
    for line, (first, end) in enumerate(itertools.pairwise(runs.offsets.tolist())):
        for start, label in zip(runs.starts[first:end], runs.labels[first:end], strict=True):
            lines[start:, line] = table[label]
    return out
