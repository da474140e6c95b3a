"""Tests of finding runs of equal labels in compressed segmentations, compared with the decoded voxels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import compressed_segmentation
import numpy as np
import pytest

from l2features.core.geometry import Triple
from l2features.kernel import block_runs
from l2features.kernel.runs import Runs, find_runs
from l2features.volume.blocks import Grid
from l2features.volume.compressed import checked_words
from l2features.volume.encodings import Encoding
from l2features.volume.layer_runs import LayerRuns

BLOCK_SIZES: list[Triple] = [(8, 8, 8), (4, 4, 4), (8, 8, 4), (5, 3, 2), (16, 8, 8), (64, 32, 16)]


def labels_of(random: np.random.Generator, size: Triple, labels: int, dtype: Any) -> np.ndarray:
    """Return bricks of 3 x 2 x 2 voxels with random labels, background among them."""
    ids = random.integers(1, 2 ** (8 * np.dtype(dtype).itemsize - 1), labels).astype(dtype)
    ids[0] = 0
    coarse = random.integers(0, labels, [n // 2 + 1 for n in size])
    fine = coarse.repeat(3, 0).repeat(2, 1).repeat(2, 2)
    return np.asfortranarray(ids[fine[tuple(slice(0, n) for n in size)]])


def check_runs(pieces: Iterable[Runs], expected: np.ndarray) -> None:
    """Check that all ``pieces`` together have exactly the runs of equal labels in ``expected``, a volume."""
    parts = [runs._replace(starts=runs.starts.copy(), labels=runs.labels.copy()) for runs in pieces]
    found, ids = find_runs(parts, expected.shape)  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.concatenate([runs.voxels() for runs in parts], axis=2), expected)
    whole, whole_ids = find_runs([expected.reshape(-1, order="F")], expected.shape)  # type: ignore[arg-type]
    for ours, theirs in zip((*found[1:], ids), (*whole[1:], whole_ids), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("labels", [1, 2, 9, 2000])
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_boxes_of_files(
    monkeypatch: pytest.MonkeyPatch, seed: int, labels: int, block_size: Triple, dtype: Any
) -> None:
    """Check boxes that cut files and blocks or reach beyond the grid; some files are missing."""
    random = np.random.default_rng([seed, labels])
    monkeypatch.setattr(block_runs, "PIECE_VOXELS", int(random.choice([1, 1000, 1 << 19])))
    x, y, z = (int(n) for n in random.integers(1, 50, 3))
    step: Any = tuple(int(n) for n in random.integers(1, 30, 3))
    grid = Grid((7, -5, 100), (x, y, z), step)
    volume = labels_of(random, (x, y, z), labels, dtype)
    cell_z = int(random.integers(0, grid.shape[2]))
    low, high = (bounds[2] for bounds in grid.bounds(np.array([0, 0, cell_z])))
    begin = np.array([7 + random.integers(-20, x), -5 + random.integers(-20, y), random.integers(low, high)])
    shape: Any = (*(int(n) for n in random.integers(1, 60, 2)), int(random.integers(1, high - begin[2] + 1)))
    stop = begin + shape - random.integers(0, 3, 3) * [1, 1, 0]
    layer = LayerRuns(
        grid, Encoding("compressed_segmentation", np.dtype(dtype), block_size), begin, stop, shape
    )
    expected = np.zeros(shape, dtype, order="F")
    for cell in grid.cells(begin, stop):
        if cell[2] != cell_z or random.random() < 0.2:
            continue
        first, last = grid.bounds(cell)
        place = tuple(slice(a, b) for a, b in zip(first - grid.offset, last - grid.offset, strict=True))
        part = np.asfortranarray(volume[place])
        data = compressed_segmentation.compress(part, block_size, order="F")
        layer.add(cell, checked_words(data, part.shape, part.itemsize, block_size))
        a, b = np.maximum(first, begin), np.minimum(last, stop)
        ours = tuple(slice(*ends) for ends in zip(a - begin, b - begin, strict=True))
        expected[ours] = part[tuple(slice(*ends) for ends in zip(a - first, b - first, strict=True))]
    check_runs(layer.runs(), expected)


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_noise_of_every_width(dtype: Any) -> None:
    """Check random voxels in blocks of 1 and 16 bits per voxel."""
    random = np.random.default_rng(1)
    size, block_size = (96, 32, 32), (32, 32, 32)
    volume = np.asfortranarray(random.integers(0, 2**31, size).astype(dtype))
    for column, labels in enumerate((2, 300)):
        volume[32 * column : 32 * column + 32] %= labels
    data = compressed_segmentation.compress(volume, block_size, order="F")
    grid, encoding = (
        Grid((0, 0, 0), size, size),
        Encoding("compressed_segmentation", np.dtype(dtype), block_size),
    )
    layer = LayerRuns(grid, encoding, (0, 0, 0), size, size)
    layer.add(np.zeros(3, np.int64), checked_words(data, size, volume.itemsize, block_size))
    check_runs(layer.runs(), volume)


def test_labels_twice_in_a_table_make_one_run() -> None:
    """Check that equal labels in one block's table, or in the tables of two adjacent blocks, make one run."""
    heads = [4 | 2 << 24, 8, 9 | 32 << 24, 12]
    first, second = [5, 5, 5, 6], [6, 6, 7]
    words = np.array([*heads, *first, 0b11100100, *second, 0, 1, 2, 2], np.uint32)
    data = np.append(np.uint32(1), words).astype("<u4").tobytes()
    shape, block_size = (8, 1, 1), (4, 1, 1)
    layer = LayerRuns(
        Grid((0, 0, 0), shape, shape),
        Encoding("compressed_segmentation", np.dtype(np.uint32), block_size),
        (0, 0, 0),
        shape,
        shape,
    )
    layer.add(np.zeros(3, np.int64), checked_words(data, shape, 4, block_size))
    (runs,) = layer.runs()
    assert runs.starts.tolist() == [0, 3, 6]
    assert runs.labels.tolist() == [5, 6, 7]


def test_blocks_of_more_voxels_than_a_number_counts() -> None:
    shape, block_size = (8, 8, 8), (2**30, 2**30, 2**30)
    for bits, fails in ((0, False), (1, True), (32, True)):
        data = np.array([1, 2 | bits << 24, 4, 9, 0, 0], "<u4").tobytes()
        if fails:
            with pytest.raises(ValueError, match="voxels lie outside the data"):
                checked_words(data, shape, 8, block_size)
        else:
            checked_words(data, shape, 8, block_size)
