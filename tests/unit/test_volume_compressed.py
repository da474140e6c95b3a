"""Tests of the check of compressed segmentations: whole ones pass, truncated ones do not."""

from __future__ import annotations

from typing import Any

import compressed_segmentation
import numpy as np
import pytest

from l2features.volume.compressed import checked_words


def encoded(seed: int, labels: int, dtype: Any, block_size: tuple[int, int, int]) -> tuple[bytes, Any]:
    """Return a compressed random volume and its shape."""
    random = np.random.default_rng(seed)
    shape = tuple(int(n) for n in random.integers(1, 40, 3))
    coarse = random.integers(0, labels, [-(-n // 4) for n in shape])
    volume = coarse if seed % 2 else np.kron(coarse, np.ones((4, 4, 4), dtype=int))
    volume = np.resize(volume, shape) if seed % 2 else volume[tuple(slice(0, n) for n in shape)]
    data = compressed_segmentation.compress(np.asfortranarray(volume.astype(dtype)), block_size, order="F")
    return data, shape


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("labels", [1, 2, 5, 40, 100_000])
@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_whole_and_cut_off(seed: int, labels: int, dtype: Any) -> None:
    block_size = [(8, 8, 8), (4, 4, 4), (8, 8, 4)][seed % 3]
    data, shape = encoded(seed, labels, dtype, block_size)
    checked_words(data, shape, np.dtype(dtype).itemsize, block_size)
    for missing in {1, 4, 8, 16, len(data) // 2, len(data) - 4, len(data)}:
        if missing <= len(data):
            with pytest.raises(ValueError, match="compressed segmentation"):
                checked_words(data[: len(data) - missing], shape, np.dtype(dtype).itemsize, block_size)


def test_garbage() -> None:
    for seed in range(200):
        junk = np.random.default_rng(seed).integers(0, 256, 400, dtype=np.uint8).tobytes()
        with pytest.raises(ValueError, match="compressed segmentation"):
            checked_words(junk, (32, 32, 16), 8, (8, 8, 8))


@pytest.mark.parametrize(("labels", "bits"), [(2, 1), (3, 2), (5, 4), (16, 4), (17, 8), (300, 16)])
@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_a_voxel_names_a_label_of_its_table(labels: int, bits: int, dtype: Any) -> None:
    """Table lengths are not stored: a table ends at the next table, the next voxels, or the data's end."""
    volume = np.asfortranarray((np.arange(16 * 8 * 8) % labels).reshape(16, 8, 8).astype(dtype))
    data = bytearray(compressed_segmentation.compress(volume, (8, 8, 8), order="F"))
    checked_words(bytes(data), (16, 8, 8), np.dtype(dtype).itemsize, (8, 8, 8))
    for block in (0, 1):
        at = 4 + 4 * int.from_bytes(data[8 * block + 8 : 8 * block + 12], "little")
        assert data[8 * block + 7] == bits
        broken = bytearray(data)
        broken[at + 8 : at + 12] = b"\xff" * 4
        if labels < 1 << bits:
            with pytest.raises(ValueError, match="voxels name labels that its table does not hold"):
                checked_words(bytes(broken), (16, 8, 8), np.dtype(dtype).itemsize, (8, 8, 8))
        else:
            checked_words(bytes(broken), (16, 8, 8), np.dtype(dtype).itemsize, (8, 8, 8))


@pytest.mark.parametrize("word", [1, 2, 3, 4])
def test_offsets_into_other_parts(word: int) -> None:
    data = encoded(2, 40, np.uint64, (8, 8, 8))[0]
    shape = encoded(2, 40, np.uint64, (8, 8, 8))[1]
    for value in (0, 1, 2**24 - 1):
        broken = bytearray(data)
        broken[4 * word : 4 * word + 3] = value.to_bytes(3, "little")
        with pytest.raises(ValueError, match="compressed segmentation"):
            checked_words(bytes(broken), shape, 8, (8, 8, 8))
