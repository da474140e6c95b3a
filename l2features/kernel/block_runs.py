"""Find the runs of labels that are packed in blocks, without unpacking the voxels.

The blocks are those of neuroglancer's compressed_segmentation. A block has a table of labels and, for each
voxel, the index of its label in the table; an index takes 0 to 32 bits. To compare neighbouring voxels, a
32-bit word of indices is XORed with itself, shifted by one index. Where two indices differ, a run may end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..core.jit import compiled, inlined
from .runs import Runs
from .simd import trailing_zeros

PIECE_VOXELS = 1 << 19
"""Number of voxels, or one z plane if that has more, whose runs are found at a time: up to 5 MB of runs."""


class PackedBlocks(NamedTuple):
    """Validated blocks that cover a box, and the place of each voxel of the box in its block."""

    words: np.ndarray
    """uint32 words of the blocks; a label has ``label_words`` (one or two), the low word first."""
    blocks: np.ndarray
    """int64 (z, y, x, 3): log2 of the bits of an index; the positions in ``words`` of the block's table and
    of its indices. A block with a single label has -1, the label's 64 bits, and an unused number instead."""
    columns: np.ndarray
    """int64 (n, 4), for each block that a line along x crosses: first x and end x (excluded) in the box; the
    block's index along x; the first voxel's x in the block."""
    rows: np.ndarray
    """int64 (n, 2), for each y of the box: the block's index along y, and the voxel's y in the block."""
    layers: np.ndarray
    """int64 (n, 2), for each z of the box: the block's index along z, and the voxel's z in the block."""
    block_size: tuple[int, int]
    """Size of a block along x and y, in voxels."""
    label_words: int


def find_block_runs(packed: PackedBlocks) -> Iterator[Runs]:
    """Yield the runs of a few z planes at a time, with uint64 labels.

    The yielded runs share memory: use each before taking the next.
    """
    extent, n_rows = int(packed.columns[-1, 1]), len(packed.rows)
    step = max(1, min(len(packed.layers), PIECE_VOXELS // (extent * n_rows)))
    most = extent * n_rows * step
    starts, labels = np.empty(most, np.uint16), np.empty(most, np.uint64)
    for first in range(0, len(packed.layers), step):
        part = packed._replace(layers=packed.layers[first : first + step])
        offsets = np.zeros(n_rows * len(part.layers) + 1, np.int32)
        _trace(part, offsets, starts, labels)
        n = offsets[-1]
        yield Runs((extent, n_rows, len(part.layers)), offsets, starts[:n], labels[:n])


@compiled
def _trace(packed: PackedBlocks, offsets: np.ndarray, starts: np.ndarray, labels: np.ndarray) -> None:
    words, blocks, columns, n_words = packed.words, packed.blocks, packed.columns, packed.label_words
    size_x, size_y = packed.block_size
    n, line = 0, 0
    for z in range(len(packed.layers)):
        for y in range(len(packed.rows)):
            row = blocks[packed.layers[z, 0], packed.rows[y, 0]]
            skipped = size_x * (packed.rows[y, 1] + size_y * packed.layers[z, 1])
            last = np.uint64(0)
            for column in range(len(columns)):
                x, stop, place = columns[column, 0], columns[column, 1], columns[column, 2]
                log, table = row[place, 0], row[place, 1]
                if log < 0:
                    value = np.uint64(table)
                    if value != last or x == 0:
                        starts[n], labels[n], last = x, value, value
                        n += 1
                    continue
                width = np.int64(1) << log
                mask = (np.int64(1) << width) - 1
                bit = (row[place, 2] << 5) + ((skipped + columns[column, 3]) << log)
                previous = np.int64(-1)
                while x < stop:
                    word = np.int64(words[bit >> 5]) >> (bit & 31)
                    here = min((32 - (bit & 31)) >> log, stop - x)
                    bit += here << log
                    number = word & mask
                    if number != previous:
                        value = _label(words, table + number * n_words, n_words)
                        if value != last or x == 0:
                            starts[n], labels[n], last = x, value, value
                            n += 1
                    changes = (word ^ (word >> width)) & ((np.int64(1) << ((here - 1) << log)) - 1)
                    while changes != 0:
                        i = trailing_zeros(changes) >> log
                        changes &= ~(mask << (i << log))
                        number = (word >> ((i + 1) << log)) & mask
                        value = _label(words, table + number * n_words, n_words)
                        if value != last:
                            starts[n], labels[n], last = x + i + 1, value, value
                            n += 1
                    previous = number
                    x += here
            line += 1
            offsets[line] = n


@inlined
def _label(words: np.ndarray, at: Any, label_words: Any) -> Any:
    value = np.uint64(words[at])
    if label_words == 2:
        value |= np.uint64(words[at + 1]) << np.uint64(32)
    return value
