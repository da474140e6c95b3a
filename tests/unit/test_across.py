"""Tests of finding runs of equal labels along a volume's slowest axis: C and Fortran order agree."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from l2features import compute_features
from l2features.kernel import SegmentedChunk, spans
from l2features.kernel.across import exchanged, find_runs_across, has_fewer_across
from l2features.kernel.runs import Runs
from l2features.testing.oracle import check_equal, make_blobs, plain_features

WIDE = (np.uint32, np.uint64)


def flat_blobs(shape: tuple[int, int, int], dtype: type, seed: int = 1) -> np.ndarray:
    """Return random blobs, stretched eightfold along x, in C order."""
    random = np.random.default_rng(seed)
    short = make_blobs(random, (-(-shape[0] // 8), *shape[1:]), 40)
    volume: np.ndarray = np.repeat(short, 8, axis=0)[: shape[0]].astype(dtype)
    volume[tuple(random.integers(0, shape, (20, 3)).T)] = 77
    return np.ascontiguousarray(volume)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", [(40, 21, 32), (64, 2, 33), (17, 9, 150), (90, 30, 64)])
def test_equal_to_the_other_order(shape: tuple[int, int, int], dtype: type) -> None:
    volume = flat_blobs(shape, dtype)
    assert has_fewer_across(volume)
    across, along = SegmentedChunk(volume), SegmentedChunk(np.asfortranarray(volume))
    assert across.frame.axes == along.frame.axes == (0, 1, 2)
    assert across.ids.tolist() == along.ids.tolist()
    np.testing.assert_array_equal(across.runs.offsets, along.runs.offsets)
    np.testing.assert_array_equal(across.runs.starts, along.runs.starts)
    np.testing.assert_array_equal(across.rank[across.runs.labels], along.rank[along.runs.labels])
    rows = compute_features(volume, (16, 16, 40))
    assert rows.tobytes() == compute_features(np.asfortranarray(volume), (16, 16, 40)).tobytes()
    check_equal(rows, plain_features(volume, (16, 16, 40)))


def test_any_axes() -> None:
    volume = flat_blobs((48, 33, 50), np.uint64, 2)
    expected = compute_features(volume, (16, 8, 40)).tobytes()
    for axes in ((0, 2, 1), (1, 0, 2), (2, 1, 0)):
        reordered = np.ascontiguousarray(volume.transpose(axes)).transpose(np.argsort(axes))
        assert compute_features(reordered, (16, 8, 40)).tobytes() == expected


def test_only_where_it_pays() -> None:
    volume = flat_blobs((40, 21, 48), np.uint32)
    assert has_fewer_across(volume)
    assert not has_fewer_across(volume.astype(np.uint16))
    assert not has_fewer_across(volume[:, :, :31])
    assert not has_fewer_across(np.ascontiguousarray(volume.transpose(2, 1, 0)))
    assert not has_fewer_across(np.zeros((40, 21, 48), np.uint32))
    assert not has_fewer_across(np.broadcast_to(volume[:, :1, :1], (40, 1, 2**15)))


def test_planes_and_exchange() -> None:
    volume = flat_blobs((24, 5, 40), np.uint64)
    for middle, runs in enumerate(find_runs_across(volume)):
        np.testing.assert_array_equal(runs.voxels()[:, :, 0], volume[:, middle])
    runs = Runs(
        (4, 2, 3), *SegmentedChunk(np.arange(24, dtype=np.uint32).reshape(4, 2, 3, order="F")).runs[1:]
    )
    np.testing.assert_array_equal(exchanged(runs).voxels(), runs.voxels().transpose(0, 2, 1))


def test_memory_is_left_to_the_next_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = flat_blobs((64, 40, 40), np.uint32), flat_blobs((20, 10, 33), np.uint32)
    expected = [compute_features(volume, (16, 16, 40)).tobytes() for volume in (large, small)]
    spans.release_memory()
    for volume in (small, large, small, small):
        rows = compute_features(volume, (16, 16, 40)).tobytes()
        assert rows == expected[volume is small]
        kept = spans._spare[0]
    assert len(spans._spare) == 1
    assert kept.nbytes >= large.size
    monkeypatch.setattr(spans, "_MOST_KEPT", kept.nbytes - 1)
    compute_features(large, (16, 16, 40))
    assert not spans._spare


def test_threads_do_not_share_memory() -> None:
    volumes = [flat_blobs((64, 40, 40), np.uint32, seed) for seed in range(4)]
    expected = [compute_features(volume, (16, 16, 40)).tobytes() for volume in volumes]
    results: dict[tuple[int, int], bytes] = {}

    def compute(i: int) -> None:
        for turn in range(5):
            results[i, turn] = compute_features(volumes[i], (16, 16, 40)).tobytes()

    threads = [threading.Thread(target=compute, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {(i, turn): expected[i] for i in range(4) for turn in range(5)}
