"""Tests of the feature kernel against recordings, our golden chunk and the reference in oracle.py."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2features import compute_features
from l2features.core.schema import FEATURES
from l2features.kernel import SegmentedChunk, spans
from l2features.testing.oracle import (
    GOLDEN_PATH,
    central_voxels,
    check_equal,
    has_clear_axes,
    make_blobs,
    plain_features,
)
from tests.support.features import RESOLUTIONS, SHAPES

Shared = Callable[[str], Path]
GOLDEN = ("em_a", "em_b", "synthetic_shapes")
DTYPES = (np.uint8, np.uint16, np.uint32, np.uint64)
KINDS = st.sampled_from(("blobs", "noise", "sheets", "few"))


def one_voxel(shape: tuple[int, int, int] = (5, 5, 5)) -> np.ndarray:
    volume = np.zeros(shape, np.uint32)
    volume[tuple(n // 2 for n in shape)] = 9
    return volume


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(shared: Shared, name: str) -> None:
    golden = np.load(shared(f"golden/{name}.npz"))
    rows = compute_features(golden["volume"], golden["resolution"])
    for ours, theirs in (("label", "label"), ("size_nm3", "size"), ("rep_coord_nm", "rep_first")):
        np.testing.assert_array_equal(rows[ours], golden[theirs])
    for both in ("area_nm2", "max_dt_nm", "mean_dt_nm", "chunk_intersect_count"):
        np.testing.assert_array_equal(rows[both], golden[both])
    present = golden["pca_present"]
    np.testing.assert_array_equal(rows["has_pca"], present)
    np.testing.assert_allclose(rows["pca_val"][present], golden["exact_pca_vals"][present], rtol=2e-7)
    clear = present & ~golden["pca_degenerate"]
    np.testing.assert_allclose(rows["pca"][clear], golden["exact_pca_comp"][clear], atol=6e-4)
    fitted = clear & ~golden["pca_random"]
    np.testing.assert_allclose(rows["pca_val"][fitted], golden["pca_vals"][fitted], rtol=2e-6, atol=0.01)
    check_axes(rows["pca"][fitted], golden["pca_comp"][fitted])


def check_axes(axes: np.ndarray, recorded: np.ndarray) -> None:
    """Check that the axes are equal up to their signs."""
    signs = np.sign(np.sum(axes * recorded.astype(np.float64), axis=-1, keepdims=True))
    np.testing.assert_allclose(axes * signs, recorded, atol=6e-4)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_oracle(shared: Shared, name: str) -> None:
    golden = np.load(shared(f"golden/{name}.npz"))
    resolution = golden["resolution"].tolist()
    check_equal(compute_features(golden["volume"], resolution), plain_features(golden["volume"], resolution))


def test_own_golden() -> None:
    golden = np.load(GOLDEN_PATH)
    check_equal(compute_features(golden["volume"], golden["resolution"]), golden["rows"])


@pytest.mark.parametrize("suffix", ["", "_v1"])
def test_recorded_chunks(shared: Shared, suffix: str) -> None:
    watershed = np.load(shared(f"cave/watershed{suffix or '_v2'}.npz"))
    recorded = json.loads(shared(f"cave/features{suffix}.json").read_text())
    nodes = json.loads(shared(f"cave/l2_children{suffix}.json").read_text())["l2"]
    for chunk in {tuple(node["chunk"]) for node in nodes.values()}:
        volume = cut_out(watershed["ws"], chunk, watershed["chunk_size"])
        segmented = SegmentedChunk(volume)
        for text in (text for text, node in nodes.items() if tuple(node["chunk"]) == chunk):
            supervoxels = np.array(nodes[text]["supervoxels"], np.uint64)
            labels = np.isin(segmented.ids, supervoxels) * np.uint64(text)
            (row,) = segmented.features(labels, recorded["resolution"])
            check_recorded(row, recorded["features"][text])
            central = central_voxels(np.isin(volume, supervoxels), recorded["resolution"]).tolist()
            assert row["rep_coord_nm"].tolist() == central[0]
            assert recorded["features"][text]["rep_coord_nm"] in central


def cut_out(volume: np.ndarray, chunk: tuple[int, ...], size: np.ndarray) -> np.ndarray:
    part = volume[tuple(slice(c * n, (c + 1) * n) for c, n in zip(chunk, size, strict=True))]
    return np.pad(part, [(0, n - m) for n, m in zip(size, part.shape, strict=True)])


def check_recorded(row: np.void, recorded: dict[str, Any]) -> None:
    for name in ("size_nm3", "area_nm2", "max_dt_nm", "mean_dt_nm", "chunk_intersect_count"):
        assert row[name].tolist() == recorded[name], name
    assert bool(row["has_pca"]) == bool(recorded["pca"])
    if row["has_pca"] and not recorded["pca_random"]:
        np.testing.assert_allclose(row["pca_val"], recorded["pca_val"], rtol=2e-6, atol=0.01)
        axes, values = np.array(recorded["pca"]), np.array(recorded["pca_val"])
        if has_clear_axes(values[None], axes[None])[0]:
            check_axes(row["pca"], axes)
    elif row["has_pca"]:
        np.testing.assert_allclose(row["pca_val"], recorded["pca_val"], rtol=0.04)


@pytest.mark.parametrize("resolution", RESOLUTIONS, ids=str)
def test_order_and_repetition(resolution: tuple[float, float, float]) -> None:
    volume = make_blobs(np.random.default_rng(1), (40, 33, 21), 30)
    rows = compute_features(np.asfortranarray(volume), resolution).tobytes()
    for axes in ((0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 1, 0)):
        reordered = np.ascontiguousarray(volume.transpose(axes)).transpose(np.argsort(axes))
        assert compute_features(reordered, resolution).tobytes() == rows
    spaced = np.zeros((80, 66, 42), volume.dtype)[::-2, ::2, ::-2]
    spaced[...] = volume
    assert compute_features(spaced, resolution).tobytes() == rows


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: type) -> None:
    volume = make_blobs(np.random.default_rng(2), (20, 30, 9), 12)
    expected = compute_features(volume, (16, 16, 40))
    for cast in (volume.astype(dtype), volume.astype(np.dtype(dtype).newbyteorder(">"))):
        assert compute_features(cast, (16, 16, 40)).tobytes() == expected.tobytes()
        cast.flags.writeable = False
        assert compute_features(cast, (16, 16, 40)).tobytes() == expected.tobytes()


def test_large_ids() -> None:
    volume = make_blobs(np.random.default_rng(3), (20, 30, 9), 12).astype(np.uint64)
    shifted = np.where(volume > 0, volume + np.uint64(2**64 - 100), 0).astype(np.uint64)
    rows, expected = compute_features(shifted, (8, 8, 40)), compute_features(volume, (8, 8, 40))
    np.testing.assert_array_equal(rows["label"], expected["label"] + np.uint64(2**64 - 100))
    rows["label"] = expected["label"]
    assert rows.tobytes() == expected.tobytes()


@given(SHAPES, st.sampled_from(RESOLUTIONS), KINDS, st.integers(0, 2**32))
def test_fuzz(shape: tuple[int, int, int], resolution: tuple[float, ...], kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    if kind == "blobs":
        volume = make_blobs(random, shape, 20)
    elif kind == "noise":
        volume = random.integers(0, random.integers(2, 500), shape, np.uint32)
    elif kind == "sheets":
        slopes = random.integers(-3, 4, 3)
        volume = np.abs(np.tensordot(slopes, np.indices(shape), 1) // 5 % 7).astype(np.uint32)
    else:
        volume = np.full(shape, 5, np.uint32)
        volume[tuple(random.integers(0, shape, (4, 3)).T)] = random.integers(0, 9, 4)
    rows = compute_features(np.array(volume, order=random.choice(["C", "F"])), resolution)
    check_equal(rows, plain_features(volume, resolution))


@pytest.mark.parametrize("order", ["C", "F"])
def test_supervoxels(order: Literal["C", "F"]) -> None:
    """Check that mapping supervoxels to labels yields the same features as relabelling the volume."""
    random = np.random.default_rng(4)
    volume = make_blobs(random, (50, 40, 30), 80).astype(np.uint64) * np.uint64(2**58 + 12345)
    chunk = SegmentedChunk(np.array(volume, order=order))
    ids = np.unique(volume)
    np.testing.assert_array_equal(chunk.ids, ids[ids != 0])
    labels = random.integers(0, 12, len(chunk.ids)).astype(np.uint64) * np.uint64(2**60)
    relabelled = np.concatenate([[np.uint64(0)], labels])[np.searchsorted(ids, volume)] if 0 in ids else None
    assert relabelled is not None
    rows = chunk.features(labels, (16, 16, 40))
    assert rows.tobytes() == compute_features(relabelled, (16, 16, 40)).tobytes()
    check_equal(rows, plain_features(relabelled, (16, 16, 40)))
    assert len(chunk.features(np.zeros(len(chunk.ids), np.uint64), (16, 16, 40))) == 0


def test_many_ids() -> None:
    """Check more labels than fit into 16 bits, each of one voxel."""
    volume = np.random.default_rng(5).permutation(100 * 50 * 20).reshape(100, 50, 20).astype(np.uint64)
    rows = compute_features(volume, (4, 4, 40))
    assert rows["label"].tolist() == list(range(1, 100_000))
    assert set(rows["max_dt_nm"].tolist()) == {4}
    places = np.unravel_index(np.argsort(volume.ravel())[1:], volume.shape)
    np.testing.assert_array_equal(rows["rep_coord_nm"], np.stack(places, axis=-1))


@pytest.mark.parametrize("order", ["C", "F"])
def test_ties(order: Literal["C", "F"]) -> None:
    volume = np.zeros((8, 8, 8), np.uint8, order=order)
    volume[1:3, 1:3, 1:3] = 1
    volume[6, 3:5, 6] = 2
    volume[5:7, 1, 2] = 3
    rows = compute_features(volume, (4, 4, 4))
    assert rows["rep_coord_nm"].tolist() == [[1, 1, 1], [6, 3, 6], [5, 1, 2]]


def test_saturation() -> None:
    rows = compute_features(one_voxel(), (200_000, 200_000, 200_000))
    assert (rows["area_nm2"], rows["max_dt_nm"], rows["mean_dt_nm"]) == (2**32 - 1, 65535, 65504)
    volume = np.ones((1, 300, 300), np.uint8)
    volume[0, 150, 150] = 2
    counts = compute_features(volume, (4, 4, 4))["chunk_intersect_count"]
    assert counts[0].tolist() == [[65535, 300, 300], [65535, 300, 300]]


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 4, 3), (1, 70, 2)])
def test_label_that_fills_the_chunk(shape: tuple[int, int, int]) -> None:
    (row,) = compute_features(np.full(shape, 7, np.uint16), (16, 16, 40))
    assert (row["size_nm3"], row["area_nm2"]) == (np.prod(shape), 0)
    assert (row["max_dt_nm"], row["mean_dt_nm"]) == (65535, 65504)
    assert row["rep_coord_nm"].tolist() == [(n - 1) // 2 for n in shape]


@pytest.mark.parametrize("extents", [1, 2])
def test_few_large_voxels(extents: int) -> None:
    volume = np.zeros((6, 6, 6), np.uint8)
    volume[2 : 2 + extents, 3, 4] = 1
    (row,) = compute_features(volume, (1000, 1000, 1000))
    assert row["has_pca"]
    assert row["pca_val"].tolist() == pytest.approx([1000 * (extents - 1) / 2**0.5, 0, 0])
    np.testing.assert_array_equal(row["pca"], np.eye(3))


@pytest.mark.parametrize("size", [624, 625])
def test_pca_threshold(size: int) -> None:
    """The threshold of 0.01 um^3 is 625 voxels here."""
    volume = np.zeros((20, 20, 4), np.uint32)
    volume.reshape(-1)[:size] = 1
    assert compute_features(volume, (20, 20, 40))["has_pca"].tolist() == [size == 625]


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 1, 1)])
def test_nothing(shape: tuple[int, int, int]) -> None:
    rows = compute_features(np.zeros(shape, np.uint64), (16, 16, 40))
    assert rows.dtype == FEATURES
    assert len(rows) == 0


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, bool, object])
def test_wrong_dtype(dtype: type) -> None:
    with pytest.raises(TypeError, match=str(np.dtype(dtype))):
        compute_features(np.zeros((2, 2, 2), dtype), (1, 1, 1))


@pytest.mark.parametrize("shape", [(4, 4), (2, 2, 2, 2), (0, 3, 3), (), (65536, 1, 1)])
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        compute_features(np.zeros(shape, np.uint8), (1, 1, 1))


@pytest.mark.parametrize(
    "resolution", [(1, 1), (0, 1, 1), (-4, 4, 40), (np.nan, 1, 1), (np.inf, 1, 1), 4, [1e9] * 3]
)
def test_wrong_resolution(resolution: object) -> None:
    with pytest.raises(ValueError, match="resolution"):
        compute_features(one_voxel(), resolution)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "error"), [([1, 2], ValueError), ([-1], ValueError), ([1.0], TypeError), ([[1]], ValueError)]
)
def test_wrong_labels(labels: list[Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        SegmentedChunk(one_voxel()).features(labels, (1, 1, 1))


def test_centred_moments_of_long_volumes() -> None:
    """In nm^2, the sums of squares do not fit into 64 bits."""
    volume = np.zeros((65535, 3, 3), np.uint8)
    volume[:, 1, 1] = 1
    volume[60000:, 2, 1] = 2
    rows = compute_features(volume, (1000, 1000, 1000))
    for row, n in zip(rows, (65535, 5535), strict=True):
        expected = 1000 * (n * (n**2 - 1) / 12) ** 0.5 * (min(n - 1, 9999) / (n - 1)) ** 0.5
        assert row["pca_val"][0] == np.float32(expected)
        assert row["pca_val"][1:].tolist() == [0, 0]


def test_memory() -> None:
    """The limit is 400 MB for 256 x 256 x 512 voxels, scaled to this volume."""
    volume = make_blobs(np.random.default_rng(6), (128, 128, 64), 40)
    compute_features(volume, (16, 16, 40))
    spans.release_memory()
    tracemalloc.start()
    compute_features(volume, (16, 16, 40))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400e6 / 32


def test_fork() -> None:
    volume = make_blobs(np.random.default_rng(7), (30, 30, 30), 20)
    expected = compute_features(volume, (16, 16, 40)).tobytes()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.starmap(compute_features, [(volume, (16, 16, 40))] * 4)
    assert all(rows.tobytes() == expected for rows in results)


def test_import_is_cheap() -> None:
    code = "import sys, l2features; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
