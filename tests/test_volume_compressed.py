"""Whole compressed segmentations pass the check, cut-off ones do not."""

from __future__ import annotations

from typing import Any

import compressed_segmentation
import numpy as np
import pytest

from l2features.volume.compressed import check_compressed_segmentation


def encoded(seed: int, labels: int, dtype: Any, block_size: tuple[int, int, int]) -> tuple[bytes, Any]:
    """A random volume of some shape, and that shape."""
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
    check_compressed_segmentation(data, shape, np.dtype(dtype).itemsize, block_size)
    for missing in {1, 4, 8, 16, len(data) // 2, len(data) - 4, len(data)}:
        if missing <= len(data):
            with pytest.raises(ValueError, match="compressed segmentation"):
                check_compressed_segmentation(
                    data[: len(data) - missing], shape, np.dtype(dtype).itemsize, block_size
                )


def test_garbage() -> None:
    for seed in range(200):
        junk = np.random.default_rng(seed).integers(0, 256, 400, dtype=np.uint8).tobytes()
        with pytest.raises(ValueError, match="compressed segmentation"):
            check_compressed_segmentation(junk, (32, 32, 16), 8, (8, 8, 8))
