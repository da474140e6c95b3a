"""The number of shards of an index, and how they are encoded, so that files are near a wanted size.

The number is a power of two, which alone may leave files 0.7 or 1.4 times as large as wanted. Where gzip
misses the wanted size by more than `TOLERANCE`, and raw data or raw indexes do not, those are taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..core.ids import Ids
from ..volume.sharded import Sharding

MINISHARD_KEYS = 1_000
"""Keys of a minishard, whose index a reader fetches as a whole."""
MOST_BITS = 13
"""Maximum minishard bits, of an index of 128 KB at the start of each file."""
TOLERANCE = 0.2
MURMUR, IDENTITY, RAW, GZIP = "murmurhash3_x86_128", "identity", "raw", "gzip"


class Encoding(NamedTuple):
    """Encodings of data and of minishard indexes, and the bytes of a node in a file of both."""

    of_data: str
    of_index: str
    node_bytes: float


class _Choice(NamedTuple):
    sharding: Sharding
    off: float
    """How far files are from the wanted size, as a share of it: the mean over the files."""


def hashed_sharding(keys: int, nodes: int, encodings: Sequence[Encoding], wanted: int) -> Sharding:
    """Return the sharding of ids by their hash, in files of about ``wanted`` bytes.

    Args:
        keys: number of ids.
        nodes: number of nodes of all ids.
        encodings: those that may be taken, the best one first.
        wanted: size of a file in bytes.
    """

    def choose(encoding: Encoding) -> _Choice:
        size = max(1.0, nodes * encoding.node_bytes)
        bits = min(max(keys, 1).bit_length(), max(0, round(math.log2(size / wanted))))
        sharding = Sharding(
            0, minishard_bits(keys >> bits), bits, MURMUR, encoding.of_index, encoding.of_data
        )
        return _Choice(sharding, _off(np.array([size / (1 << bits)]), wanted))

    return _best([choose(encoding) for encoding in encodings])


def cell_sharding(
    codes: Ids, nodes: np.ndarray, bits: int, encodings: Sequence[Encoding], wanted: int
) -> Sharding:
    """Return the sharding of cells by ranges of their Morton codes, in files of about ``wanted`` bytes.

    Args:
        codes: (n,) code of each cell that has nodes, sorted.
        nodes: (n,) number of its nodes.
        bits: bits of a code.
        encodings: those that may be taken, the best one first.
        wanted: size of a file in bytes.
    """
    ranges = [_ranges(codes, nodes, within) for within in range(bits, -1, -1)] if len(codes) else []

    def choose(encoding: Encoding) -> _Choice:
        offs = [_off(sizes * encoding.node_bytes, wanted) for sizes, _ in ranges]
        shard_bits = int(np.argmin(offs)) if offs else 0
        keys = ranges[shard_bits][1] if ranges else 0
        minishards = min(minishard_bits(keys), bits - shard_bits)
        preshift = bits - shard_bits - minishards
        sharding = Sharding(preshift, minishards, shard_bits, IDENTITY, encoding.of_index, encoding.of_data)
        return _Choice(sharding, min(offs, default=0.0))

    return _best([choose(encoding) for encoding in encodings])


def _ranges(codes: Ids, nodes: np.ndarray, within: int) -> tuple[np.ndarray, int]:
    """Return the nodes in each range of 2^within codes that has some, and the most cells of a range."""
    shards = codes >> np.uint64(within)
    starts = np.flatnonzero(np.append(True, shards[1:] != shards[:-1]))
    return np.add.reduceat(nodes, starts), int(np.diff(np.append(starts, len(codes))).max())


def _off(sizes: np.ndarray, wanted: int) -> float:
    return float(np.abs(sizes / wanted - 1).mean())


def _best(choices: Sequence[_Choice]) -> Sharding:
    """Return the first choice that is near enough, or else the nearest; the first where there is one file."""
    first = choices[0]
    if first.sharding.shard_bits == 0:
        return first.sharding
    near = [choice for choice in choices if choice.off <= TOLERANCE]
    return (near or [min(choices, key=lambda choice: choice.off)])[0].sharding


def minishard_bits(keys: int) -> int:
    """Return the number of minishard bits with which a minishard has about `MINISHARD_KEYS` keys at most."""
    return min(MOST_BITS, max(0, math.ceil(math.log2(max(keys, 1) / MINISHARD_KEYS))))
