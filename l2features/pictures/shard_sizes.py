"""The number of shards of an index, so that files are near a wanted size.

The number is a power of two, which alone may leave files 0.7 or 1.4 times as large as wanted. So files may be
smaller by the plan: where they are written, gzip stores some of their values as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..core.ids import Ids
from ..volume.sharded import Sharding

MINISHARD_KEYS = 1_000
"""Keys of a minishard, whose index a reader fetches as a whole."""
MOST_BITS = 13
"""Maximum minishard bits, of an index of 128 KB at the start of each file."""
TOLERANCE = 0.08
"""How far files may be from the wanted size by the plan, whose sizes are estimates."""
MURMUR, IDENTITY, RAW, GZIP = "murmurhash3_x86_128", "identity", "raw", "gzip"


class Encoding(NamedTuple):
    """Encodings of data and of minishard indexes.

    Attributes:
        least: bytes of a node in a file.
        most: bytes of it where gzip stores all values as they are.
    """

    of_data: str
    of_index: str
    least: float = 0.0
    most: float = 0.0

    def sharding(self, preshift: int, minishards: int, shards: int, by: str) -> Sharding:
        return Sharding(preshift, minishards, shards, by, self.of_index, self.of_data)


class _Files(NamedTuple):
    """A number of files, and how far their mean is from the wanted size, as a share of it."""

    encoding: Encoding
    shard_bits: int
    off: float


def hashed_sharding(keys: int, nodes: int, encodings: Sequence[Encoding], wanted: int) -> Sharding:
    """Return the sharding of ids by their hash, in files of about ``wanted`` bytes.

    Args:
        keys: number of ids.
        nodes: number of nodes of all ids.
        encodings: those that may be taken, the best one first.
        wanted: size of a file in bytes.
    """
    encoding, bits, _ = _files(nodes, encodings, wanted, max(keys, 1).bit_length())[0]
    return encoding.sharding(0, minishard_bits(keys >> bits), bits, MURMUR)


def cell_sharding(
    codes: Ids, nodes: np.ndarray, bits: int, encodings: Sequence[Encoding], wanted: int
) -> Sharding:
    """Return the sharding of cells by their Morton codes, in files of about ``wanted`` bytes.

    A file has runs of 2^n neighbouring cells, so that a viewer reads few files: the longest runs with which
    all files are near the wanted size, or else about as near as can be. Runs are dealt to the files in turn,
    or by their hash where that is more even.

    Args:
        codes: (n,) code of each cell that has nodes, sorted.
        nodes: (n,) number of its nodes.
        bits: bits of a code.
        encodings: those that may be taken, the best one first.
        wanted: size of a file in bytes.
    """
    offs = dict[Sharding, float]()
    for encoding, shard_bits, mean_off in _files(float(nodes.sum()), encodings, wanted, bits):
        least = minishard_bits(len(codes) >> shard_bits)
        for run in range(bits - shard_bits, -1, -1):
            runs = codes >> np.uint64(run)
            starts = np.flatnonzero(np.append(True, runs[1:] != runs[:-1])[: len(runs)])
            firsts, sums = codes[starts], np.add.reduceat(nodes, starts)
            for sharding in _run_shardings(run, least, shard_bits, encoding):
                shards = sharding.places(firsts)[0].astype(np.intp)
                files = np.bincount(shards, sums, 1 << shard_bits)
                offs[sharding] = _off(files, encoding, wanted, sharding.index_bytes)
                if not shard_bits or offs[sharding] <= max(TOLERANCE, mean_off + TOLERANCE / 2):
                    return sharding
    nearest = min(offs.values())
    return next(sharding for sharding, off in offs.items() if off <= nearest + TOLERANCE / 4)


def _run_shardings(run: int, least: int, shard_bits: int, encoding: Encoding) -> Iterator[Sharding]:
    """Yield shardings of runs of 2^run cells, with this number of minishard bits or more."""
    minishards = min(least, run)
    yield encoding.sharding(run - minishards, minishards, shard_bits, IDENTITY)
    for minishards in range(least, MOST_BITS + 1):  # each takes other bits of the hash for the shard
        yield encoding.sharding(run, minishards, shard_bits, MURMUR)


def _files(nodes: float, encodings: Sequence[Encoding], wanted: int, most_bits: int) -> list[_Files]:
    """Return the numbers of files whose mean is near the wanted size, or else the nearest.

    It is one file of the first encoding where that is enough.
    """
    if nodes * encodings[0].least <= wanted * (1 + TOLERANCE):
        return [_Files(encodings[0], 0, 0.0)]
    found = list[_Files]()
    for encoding in encodings:
        fewest, most = (math.log2(max(1.0, nodes * size / wanted)) for size in encoding[2:])
        for bits in range(math.floor(fewest), math.ceil(most) + 1):
            bits = min(bits, most_bits)
            found.append(_Files(encoding, bits, _off(np.array([nodes / (1 << bits)]), encoding, wanted)))
    near = [files for files in found if files.off <= TOLERANCE]
    return near or [min(found, key=lambda files: files.off)]


def _off(nodes: np.ndarray, encoding: Encoding, wanted: int, index_bytes: int = 0) -> float:
    """Return how far the farthest file is from the wanted size, as a share of it."""
    sizes = np.clip(wanted, nodes * encoding.least + index_bytes, nodes * encoding.most + index_bytes)
    return float(np.abs(sizes / wanted - 1).max())


def minishard_bits(keys: int) -> int:
    """Return the number of minishard bits with which a minishard has about `MINISHARD_KEYS` keys at most."""
    return min(MOST_BITS, max(0, math.ceil(math.log2(max(keys, 1) / MINISHARD_KEYS))))
