"""Ranges of ids in a box of chunks, for all layers.

An id contains the x, y and z of its chunk, z in lower bits than x and y. So the ids in chunks that are
neighbours along z are one range.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.chunks import ChunkBox
from ..core.geometry import Triple
from ..core.ids import L2, IdLayout, Ids, as_ids

LONGEST = 32
"""Maximum number of chunks in a range."""
SHORTEST = 4
"""Minimum consecutive ids that are cut out of a range: an extra range costs as much as some rows."""
CHUNK_ROWS = 1_000
"""Number of rows in a dense chunk, to estimate the size of a part of a chunk."""
MOST_RANGES = 1_000
"""Maximum number of ranges in a request, which must be smaller than 512 KB."""


class IdRanges(NamedTuple):
    """Ascending ranges of ids: first and last id of each (both included), and its estimated size in chunks.

    The size of a range of few ids can be below 1.
    """

    first: Ids
    last: Ids
    chunks: npt.NDArray[np.float64]


def ranges_within(layout: IdLayout, grid: Triple, box: ChunkBox, layers: range, fan_out: int) -> IdRanges:
    """Return the ranges of all chunks in ``layers`` that lie entirely in a box.

    A chunk of layer l covers ``fan_out`` ** (l - 2) chunks of layer 2 along each axis, fewer at the end of
    the grid. ``layers`` ascend from 2 or higher. ``layout`` must have the bit fields of each of them.
    """
    parts = [IdRanges(as_ids([]), as_ids([]), np.empty(0))]
    edge = np.array(grid)
    start, stop = np.maximum(box.start, 0), np.minimum(box.stop, edge)
    for layer in layers:
        size = fan_out ** (layer - L2)
        first, last = -(-start // size), np.where(stop == edge, -(-edge // size), stop // size)
        last = np.minimum(last, [1 << bits for bits in layout.axis_bits(layer)])
        if (first >= last).any():
            break
        parts.append(_rows_along_z(layout, layer, first, last))
    return IdRanges(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def one_range(first: int | np.uint64, last: int | np.uint64) -> IdRanges:
    """Return one range within a chunk, from the id ``first`` to the id ``last``, both included."""
    return IdRanges(as_ids([first]), as_ids([last]), np.ones(1))


def ranges_after(ranges: IdRanges, read: int) -> IdRanges:
    """Return what remains of the ranges after the id ``read``."""
    left = ranges.last > np.uint64(read)
    first = np.maximum(ranges.first[left], np.uint64(read + 1))
    return IdRanges(first, ranges.last[left], ranges.chunks[left])


def in_ranges(ranges: IdRanges, ids: Ids) -> npt.NDArray[np.bool_]:
    """Return whether each id is in one of the ranges, shape (n,)."""
    at = np.searchsorted(ranges.first, ids, side="right") - 1
    found = at >= 0
    found[found] = ids[found] <= ranges.last[at[found]]
    return found


def ranges_without(layout: IdLayout, ranges: IdRanges, ids: Ids) -> IdRanges:
    """Return the ranges, minus each run of `SHORTEST` or more consecutive ids in ``ids``.

    The ranges are of layer 2. ``ids`` are sorted, unique ids in the ranges.
    """
    ends = np.flatnonzero(np.diff(ids) != 1)
    begin, end = np.append(ids[:1], ids[ends + 1]), np.append(ids[ends], ids[-1:])
    cut = end - begin >= SHORTEST - 1
    first = np.sort(np.append(ranges.first, end[cut] + np.uint64(1)))
    last = np.sort(np.append(ranges.last, begin[cut] - np.uint64(1)))
    first, last = first[first <= last], last[first <= last]
    shift = np.uint64(layout.segment_bits(L2))
    chunks = (last >> shift) - (first >> shift) + np.uint64(1)
    return IdRanges(first, last, np.minimum(chunks, (last - first + np.uint64(1)) / CHUNK_ROWS))


def batches_of(ranges: IdRanges, chunks: int) -> list[IdRanges]:
    """Return the ranges in batches, each of about ``chunks`` chunks and at most `MOST_RANGES` ranges."""
    sizes = np.maximum(ranges.chunks, chunks / (MOST_RANGES - 1))  # one less, as floats are rounded
    before = np.cumsum(sizes) - sizes
    cuts = np.flatnonzero(np.diff(before // chunks, prepend=-1))
    return [IdRanges(*part) for part in zip(*(np.split(array, cuts)[1:] for array in ranges), strict=True)]


def _rows_along_z(
    layout: IdLayout, layer: int, first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]
) -> IdRanges:
    """Return id ranges for a layer's box of chunks, from ``first`` (x, y, z) to ``last`` (excluded)."""
    x, y, z = np.meshgrid(
        np.arange(first[0], last[0]),
        np.arange(first[1], last[1]),
        np.arange(first[2], last[2], LONGEST),
        indexing="ij",
    )
    end = np.minimum(z + LONGEST, last[2])
    starts, ends = (layout.chunk_id_array(np.stack([x, y, along], axis=-1), layer) for along in (z, end - 1))
    room = np.uint64((1 << layout.segment_bits(layer)) - 1)
    return IdRanges(starts + np.uint64(1), ends | room, (end - z).ravel().astype(np.float64))
