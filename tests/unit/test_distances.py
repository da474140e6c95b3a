"""Tests of distances to other labels, for each integer width, against the reference in oracle.py."""

from __future__ import annotations

from typing import Any

import edt
import numpy as np
import pytest

from l2features import compute_features
from l2features.kernel import distance
from l2features.kernel.narrow import make_roots, measure
from l2features.kernel.spans import Spans
from l2features.testing.oracle import check_equal, make_blobs, plain_features


@pytest.mark.parametrize("axis", range(3))
def test_long_distances(axis: int) -> None:
    shape = tuple(np.roll((300, 40, 50), axis))
    volume = np.full(shape, 3, np.uint16)
    volume[tuple(np.random.default_rng(axis).integers(0, shape, (3, 3)).T)] = (1, 0, 2)
    check_equal(compute_features(volume, (4, 5, 3)), plain_features(volume, (4, 5, 3)))


@pytest.mark.parametrize("resolution", [(1, 1, 1), (4, 4, 9), (16, 16, 40), (9, 4, 4)], ids=str)
def test_thick_labels(resolution: tuple[int, int, int]) -> None:
    """Check labels so thick that some squared distances do not fit into 16 bits, in C and F order."""
    random = np.random.default_rng(5)
    for shape in [(118, 149, 30), (143, 138, 56), (70, 85, 41), (33, 290, 64)]:
        volume = np.ones(shape, np.uint32)
        for label in range(2, random.integers(20, 60)):
            start, size = random.integers(0, shape), random.integers(2, 60, 3)
            volume[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = label % 7
        expected = plain_features(volume, resolution)
        for order in ("C", "F"):
            check_equal(compute_features(np.asarray(volume, order=order), resolution), expected)


def use_only(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    """Make each call of `measure` return None if the first of its two integer types is not ``kind``."""

    def measured(*arguments: Any) -> Spans | None:
        return measure(*arguments) if arguments[4][0] is kind else None

    monkeypatch.setattr(distance, "measure", measured)


@pytest.mark.parametrize("shape", [(30, 31, 32), (300, 40, 5)])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_wide_integers(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], kind: type) -> None:
    """Check that squared distances of 32 and 64 bits give the same features as those of 16."""
    volume = make_blobs(np.random.default_rng(8), shape, 9)
    expected = compute_features(volume, (16, 16, 40)).tobytes()
    use_only(monkeypatch, kind)
    assert compute_features(volume, (16, 16, 40)).tobytes() == expected


@pytest.mark.parametrize(("unit", "single"), [(8, True), (17, False)])
def test_roots_in_float32(monkeypatch: pytest.MonkeyPatch, unit: int, single: bool) -> None:
    """Check that square roots use float32 only where that is exact. Features are exact in both cases."""
    assert bool(make_roots(float(unit**2), 1.0).single) is single
    volume = make_blobs(np.random.default_rng(8), (30, 31, 32), 9)
    use_only(monkeypatch, np.uint16)
    check_equal(compute_features(volume, (unit,) * 3), plain_features(volume, (unit,) * 3))


def test_thick_labels_at_a_resolution_with_decimals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check labels so thick that some squared distances do not fit into 32 bits."""
    resolution = (160.5, 160.5, 400.3)
    volume = make_blobs(np.random.default_rng(8), (118, 149, 30), 9)
    use_only(monkeypatch, np.int64)
    expected = compute_features(volume, resolution)
    assert expected["max_dt_nm"].max() > 0.1 * 2**15
    monkeypatch.undo()
    use_only(monkeypatch, np.int32)
    assert compute_features(volume, resolution).tobytes() == expected.tobytes()


def test_giant_labels_at_a_resolution_with_decimals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check a label with many squared distances beyond 32 bits: only the 64-bit attempt succeeds."""
    resolution = (160.5, 160.5, 400.3)
    volume = np.ones((118, 149, 60), np.uint8)
    volume[50, 60, 30] = 2
    given_up = compute_features(volume, resolution)
    use_only(monkeypatch, np.int64)
    assert compute_features(volume, resolution).tobytes() == given_up.tobytes()
    use_only(monkeypatch, np.int32)
    with pytest.raises(StopIteration):
        compute_features(volume, resolution)


def test_exact_beyond_float32() -> None:
    """edt measures in float32, which rounds up some squared distances of more than 2^24 nm^2."""
    volume = np.full((3, 2000, 1500), 1, np.uint8)
    volume[:, 0, 0] = 2
    rows = compute_features(volume, (1, 3, 5))
    y, z = np.indices((2000, 1500))
    exact = np.floor(np.sqrt((3.0 * y) ** 2 + (5.0 * z) ** 2))
    assert rows["mean_dt_nm"][0] == np.float16(exact.sum() / (exact.size - 1))
    assert rows["max_dt_nm"][0] == exact.max()


def test_resolutions_of_many_decimals_are_measured_by_edt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance, "_exact_distances", None)
    volume = make_blobs(np.random.default_rng(6), (20, 30, 9), 12)
    resolution = (1 / 3, 1 / 3, 2 / 3)
    expected = edt.edt(np.asfortranarray(volume), anisotropy=resolution, black_border=False)
    rows = compute_features(volume, resolution)
    assert rows["max_dt_nm"].tolist() == [int(expected[volume == label].max()) for label in rows["label"]]


def test_squares_beyond_32_bits_at_the_end_of_a_chunk() -> None:
    """The kernel writes 64-bit squared distances past the last voxel. They must not remain in the result."""
    noise = np.random.default_rng(1).integers(0, 6, (21, 27, 21)).astype(np.uint16)
    rows = compute_features(noise, (10**6, 10**6, 10**6 + 1))
    assert rows["mean_dt_nm"].tolist() == [65504] * 5
