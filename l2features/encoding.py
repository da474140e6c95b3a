"""Whether an encoded block of a segmentation is whole, where its decoder does not look.

The decoder of ``compressed_segmentation`` trusts the offsets in its input: of a file that was cut off it
reads whatever lies behind in memory. The format is neuroglancer's ``compressed_segmentation``: per channel
an offset, then per block a table offset (24 bits), the bits per voxel (8) and an offset of the voxels, all in
32-bit words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_BITS = (0, 1, 2, 4, 8, 16, 32)
Words = npt.NDArray[np.uint32]


def check_compressed_segmentation(
    data: bytes, shape: Sequence[int], itemsize: int, block_size: Sequence[int]
) -> None:
    """Raise ValueError where a block of one channel names words that ``data`` does not have.

    ``shape`` is in voxels, ``itemsize`` the bytes of a label.
    """
    if len(data) % 4 or len(data) < 4:
        raise ValueError(f"{len(data)} bytes are no compressed segmentation")
    words = np.frombuffer(data, dtype="<u4")[int.from_bytes(data[:4], "little") :]
    blocks = math.prod(-(-n // step) for n, step in zip(shape, block_size, strict=True))
    if len(words) < 2 * blocks:
        raise ValueError(f"the compressed segmentation is cut off: it has no room for {blocks} blocks")
    headers = words[: 2 * blocks].astype(np.int64).reshape(-1, 2)
    tables, bits, values = headers[:, 0] & 0xFFFFFF, headers[:, 0] >> 24, headers[:, 1]
    if not np.isin(bits, _BITS).all():
        raise ValueError("the compressed segmentation is broken: a block has an impossible number of bits")
    voxels, entry = math.prod(block_size), itemsize // 4
    stops = values + -(-voxels * bits // 32)
    ends = np.maximum(np.where(bits > 0, stops, 0), tables + entry)
    could_end = tables + entry * np.minimum(1 << bits, voxels)
    for block in np.flatnonzero((could_end > len(words)) & (ends <= len(words)) & (bits > 0)):
        largest = _largest_value(words[values[block] : stops[block]], int(bits[block]))
        ends[block] = max(ends[block], tables[block] + entry * (largest + 1))
    if (ends > len(words)).any():
        raise ValueError("the compressed segmentation is cut off, or broken: a block points beyond its end")


def _largest_value(words: Words, bits: int) -> int:
    """The largest of the numbers of so many bits that are packed into words."""
    if bits == 32:
        return int(words.max())
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return int(((words[:, None] >> shifts) & np.uint32((1 << bits) - 1)).max())
