"""Checks of a ``compressed_segmentation`` before it is decoded.

`kernel.block_runs` trusts the offsets in its input. Past the end of a truncated file, it reads other memory.
For an index beyond a block's table of labels, it returns a label that is not in the table.

The format is neuroglancer's. A file consists of 32-bit words: first an offset per channel, then a header of
two words per block. The first word has the offset of the block's table (24 bits) and the bits per voxel (8),
the second the offset of the block's voxels. The length of a table is not stored; a table ends at the latest
where another table or the voxels of a block begin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.jit import compiled, inlined

Words = npt.NDArray[np.uint32]
BROKEN = "the compressed segmentation is cut off, or broken"
_PROBLEMS = (
    "",
    "the bits per voxel of a block are not 0, 1, 2, 4, 8, 16 or 32",
    "a block's table lies outside the data",
    "a block's voxels lie outside the data",
    "the voxels of two blocks overlap",
    "a block's table lies in the voxels of a block",
    "a block's table has no room for a label",
    "a block's voxels name labels that its table does not hold",
)
_VOXELS, _FIRST = 1, 2
"""Flags of a word: it belongs to a block's voxels; it is the first word of voxels or of a table."""
_MOST_VOXELS = 1 << 40
"""Upper limit of a block's number of voxels. No file has so many, and their total of bits fits into int64."""


def checked_words(data: bytes, shape: Sequence[int], itemsize: int, block_size: Sequence[int]) -> Words:
    """Return a file's 32-bit words after the channel offset. Block headers, two words each, come first.

    ``shape`` is in voxels, ``itemsize`` in bytes per label. Raises ValueError for a file with several
    channels, and for a broken file: for example, one in which a block's voxels lie outside ``data``, or refer
    to labels that the block's table does not have.
    """
    if len(data) % 4 or len(data) < 4:
        raise ValueError(f"{BROKEN}: {len(data)} bytes, expected a multiple of 4, and 4 at least")
    words = np.frombuffer(data, dtype="<u4")
    if words[0] != 1:
        raise ValueError(f"{BROKEN}: channel 0 begins at word {words[0]}, expected 1 for a single channel")
    words = words[1:]
    blocks = math.prod(-(-n // step) for n, step in zip(shape, block_size, strict=True))
    if len(words) < 2 * blocks:
        raise ValueError(f"{BROKEN}: {len(words)} words, expected at least 2 for each of {blocks} blocks")
    voxels = min(math.prod(block_size), _MOST_VOXELS)
    problem = _find_problem(words, blocks, voxels, itemsize // 4)
    if problem:
        raise ValueError(f"{BROKEN}: {_PROBLEMS[problem]}")
    return words


@compiled
def _find_problem(words: Words, n_blocks: int, voxels: int, entry: int) -> int:
    """Return the first problem's index in `_PROBLEMS`, or 0; ``entry`` is the number of words of a label."""
    problem = _check_offsets(words, n_blocks, voxels, entry)
    if problem:
        return problem
    flags, lengths = np.zeros(len(words), np.uint8), np.zeros(len(words), np.int64)
    problem = _mark_parts(words, n_blocks, voxels, flags, lengths)
    if problem:
        return problem
    room, end = lengths, len(words)
    for word in range(len(words) - 1, -1, -1):
        room[word] = end - word
        if flags[word] & _FIRST:
            end = word
    return _check_labels(words, n_blocks, voxels, entry, room)


@compiled
def _check_offsets(words: Words, n_blocks: int, voxels: int, entry: int) -> int:
    first, last = 2 * n_blocks, len(words)
    for block in range(n_blocks):
        bits = np.int64(words[2 * block] >> 24)
        if bits > 32 or bits & (bits - 1):
            return 1
    for block in range(n_blocks):
        table = np.int64(words[2 * block] & 0xFFFFFF)
        if table < first or table + entry > last:
            return 2
    for block in range(n_blocks):
        start, length = np.int64(words[2 * block + 1]), _length(words, block, voxels)
        if length and (start < first or start + length > last):
            return 3
    return 0


@compiled
def _mark_parts(words: Words, n_blocks: int, voxels: int, flags: np.ndarray, lengths: np.ndarray) -> int:
    """Flag all words of voxels and the first word of each table; return the index of a problem, or 0.

    If a block's voxels begin at word i, ``lengths[i]`` is set to the number of words that they take. Blocks
    may share voxels or tables.
    """
    for block in range(n_blocks):
        start, length = np.int64(words[2 * block + 1]), _length(words, block, voxels)
        if length and lengths[start] != length:
            for word in range(start, start + length):
                if flags[word]:
                    return 4
                flags[word] = _VOXELS
            flags[start] |= _FIRST
            lengths[start] = length
    for block in range(n_blocks):
        table = np.int64(words[2 * block] & 0xFFFFFF)
        if flags[table] & _VOXELS:
            return 5
        flags[table] |= _FIRST
    return 0


@compiled
def _check_labels(words: Words, n_blocks: int, voxels: int, entry: int, room: np.ndarray) -> int:
    """Check that voxels refer only to labels in their tables; return the index of a problem, or 0.

    ``room[i]`` is the number of words from word i to the next word at which a table or a block's voxels
    begin, or to the end of ``words``.
    """
    for block in range(n_blocks):
        if room[np.int64(words[2 * block] & 0xFFFFFF)] < entry:
            return 6
    for block in range(n_blocks):
        entries = room[np.int64(words[2 * block] & 0xFFFFFF)] // entry
        bits, length = np.int64(words[2 * block] >> 24), _length(words, block, voxels)
        start = np.int64(words[2 * block + 1])
        if length and entries < 1 << bits and _exceed(words, start, length, bits, entries):
            return 7
    return 0


@inlined
def _length(words: Words, block: int, voxels: int) -> Any:
    """Return the number of words that a block's voxels take."""
    return (np.int64(words[2 * block] >> 24) * voxels + 31) // 32


@inlined
def _exceed(words: Words, start: Any, length: Any, bits: Any, limit: Any) -> bool:
    """Return whether any number packed into the ``length`` words from word ``start`` is ``limit`` or more.

    Each number has ``bits`` bits. First every second number is tested, with the others set to 0; then the
    others. So each tested number has ``bits`` zero bits above it. Adding ``2 ** bits - limit`` to the number
    sets the lowest of these bits if the number is ``limit`` or more, else none.
    """
    width = np.uint64(bits)
    one = np.uint64(1)
    low, step = np.uint64(0), np.uint64(0)
    while step < np.uint64(32):
        low |= one << step
        step += width + width
    field = (one << width) - one
    places, carries = low * field, low << width
    added = low * ((one << width) - np.uint64(limit))
    seen = np.uint64(0)
    for index in range(start, start + length):
        word = np.uint64(words[index])
        seen |= ((word & places) + added) | ((word >> width & places) + added)
    return bool(seen & carries)
