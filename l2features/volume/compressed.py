"""Checks of a ``compressed_segmentation`` before it is decoded.

The decoder trusts the offsets in its input: past the end of a truncated file it reads other memory, and an
index beyond a block's table yields a label that is not in it. The format is neuroglancer's: per channel an
offset, then per block a table offset (24 bits), the bits per voxel (8) and an offset of the voxels, all in
32-bit words. A table has no length; it ends at the latest where another table or the voxels of a block begin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..core.jit import compiled

_POSSIBLE = np.isin(np.arange(33), (0, 1, 2, 4, 8, 16, 32))
"""Whether a voxel can have this number of bits."""
Words = npt.NDArray[np.uint32]
Offsets = npt.NDArray[np.int64]
BROKEN = "the compressed segmentation is cut off, or broken"


def check_compressed_segmentation(
    data: bytes, shape: Sequence[int], itemsize: int, block_size: Sequence[int]
) -> None:
    """Raise ValueError where a block of one channel names words or labels that ``data`` does not have.

    ``shape`` is in voxels, ``itemsize`` the bytes of a label.
    """
    if len(data) % 4 or len(data) < 4:
        raise ValueError(f"{BROKEN}: it has {len(data)} bytes")
    words = np.frombuffer(data, dtype="<u4")
    if words[0] != 1:
        raise ValueError(f"{BROKEN}: its only channel begins at word {words[0]}, expected 1")
    words = words[1:]
    blocks = math.prod(-(-n // step) for n, step in zip(shape, block_size, strict=True))
    if len(words) < 2 * blocks:
        raise ValueError(f"{BROKEN}: it has no room for {blocks} blocks")
    headers = words[: 2 * blocks].astype(np.int64).reshape(-1, 2)
    tables, bits, values = headers[:, 0] & 0xFFFFFF, headers[:, 0] >> 24, headers[:, 1]
    if bits.max() > 32 or not _POSSIBLE[bits].all():
        raise ValueError(f"{BROKEN}: a block has an impossible number of bits")
    _check_blocks(words, tables, bits, values, math.prod(block_size), itemsize // 4)


def _check_blocks(
    words: Words, tables: Offsets, bits: Offsets, values: Offsets, voxels: int, entry: int
) -> None:
    first, last = 2 * len(tables), len(words)
    if (tables < first).any() or (tables + entry > last).any():
        raise ValueError(f"{BROKEN}: a block's table lies beyond its end")
    packed = bits > 0
    starts, lengths = values[packed], -(-voxels * bits[packed] // 32)
    if (starts < first).any() or (starts + lengths > last).any():
        raise ValueError(f"{BROKEN}: a block's voxels lie beyond its end")
    order = np.argsort(starts)
    begin, end = starts[order], (starts + lengths)[order]
    if ((begin[1:] < end[:-1]) & ((begin[1:] != begin[:-1]) | (end[1:] != end[:-1]))).any():
        raise ValueError(f"{BROKEN}: the voxels of two blocks overlap")
    before = np.searchsorted(begin, tables, side="right") - 1
    if len(starts) and ((before >= 0) & (tables < end[before])).any():
        raise ValueError(f"{BROKEN}: a block's table lies in the voxels of another")
    bounds = np.sort(np.concatenate([tables, starts, [last]]))
    entries = (bounds[np.searchsorted(bounds, tables, side="right")] - tables) // entry
    if (entries < 1).any():
        raise ValueError(f"{BROKEN}: a block's table is cut short")
    unsure = entries[packed] < 1 << bits[packed]
    if _exceed(words, starts[unsure], lengths[unsure], bits[packed][unsure], entries[packed][unsure]):
        raise ValueError(f"{BROKEN}: a block's voxels name labels that its table does not hold")


@compiled
def _exceed(words: Words, starts: Offsets, lengths: Offsets, bits: Offsets, limits: Offsets) -> bool:
    """Return whether any number packed into a block's words reaches the block's limit.

    Numbers at even and at odd places are tested in turn, with a gap of their own width between them. A
    constant is added to each that carries into the gap where the number reaches the limit.
    """
    for block in range(len(starts)):
        width = np.uint64(bits[block])
        one = np.uint64(1)
        low, step = np.uint64(0), np.uint64(0)
        while step < np.uint64(32):
            low |= one << step
            step += width + width
        field = (one << width) - one
        places, carries = low * field, low << width
        added = low * ((one << width) - np.uint64(limits[block]))
        seen = np.uint64(0)
        for index in range(starts[block], starts[block] + lengths[block]):
            word = np.uint64(words[index])
            seen |= ((word & places) + added) | ((word >> width & places) + added)
        if seen & carries:
            return True
    return False
