"""The number of shards of an index, so that files are near a wanted size.

The number is a power of two, and lists are of unequal lengths. So no file is planned to be larger than `MOST`
of the wanted size. Files that are smaller than `LEAST` of it are filled with zeros where they are written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from ..core.ids import Ids, group_starts
from ..volume.sharded import Sharding

MINISHARD_KEYS = 1_000
"""Keys of a minishard, whose index a reader fetches as a whole."""
MOST_BITS = 13
"""Maximum minishard bits, of an index of 128 KB at the start of each file."""
MOST, LEAST = 1.1, 0.82
"""Size of the largest file by the plan, and of the smallest one, as shares of the wanted size."""
MORE_BITS = 2
"""How many more shard bits than the fewest may be taken so that no file is too large."""
LARGE = 0.2
"""Share of the wanted size above which a list may leave files uneven: even more would mostly have zeros."""
MINISHARD_BYTES = 48
"""Bytes of a minishard in a file, besides those of its keys: its place, and what gzip adds to its index."""
DEVIATIONS = 5
"""Standard deviations by which the fullest of many files may exceed the mean."""
MURMUR, IDENTITY, RAW, GZIP = "murmurhash3_x86_128", "identity", "raw", "gzip"

Sizes = npt.NDArray[np.float64]


def least_bytes(sharding: Sharding, wanted: int) -> int:
    """Return the minimum size of a file in bytes; 0 if the index has only one file."""
    return math.ceil(LEAST * wanted) if sharding.shard_bits else 0


def record_sharding(keys: int, size: float, wanted: int) -> Sharding:
    """Return the sharding of records by the hash of their ids.

    Args:
        keys: number of ids.
        size: bytes of one record in a file.
        wanted: size of a file in bytes.
    """
    bits = _fewest_bits(keys * size, wanted, keys.bit_length())
    mean = keys / (1 << bits)
    if 0 < bits < keys.bit_length() and (mean + DEVIATIONS * math.sqrt(mean)) * size > MOST * wanted:
        bits += 1
    return Sharding(0, minishard_bits(keys >> bits), bits, MURMUR, GZIP, RAW)


def list_sharding(lists: Iterable[tuple[Ids, Sizes]], keys: int, total: float, wanted: int) -> Sharding:
    """Return the sharding of lists by the hash of their ids.

    Args:
        lists: batches of ids (n,) and the bytes of their lists (n,); not read if a single file suffices.
        keys: number of ids.
        total: bytes of all lists.
        wanted: size of a file in bytes.
    """
    fewest = _fewest_bits(total, wanted, keys.bit_length())
    least, most = minishard_bits(keys >> fewest), fewest + MORE_BITS
    if not fewest:
        return Sharding(0, least, 0, MURMUR, GZIP, GZIP)
    finest = [Sharding(0, bits, most, MURMUR, GZIP, GZIP) for bits in range(least, MOST_BITS + 1)]
    files, largest = np.zeros((len(finest), 1 << most)), 0.0
    for ids, sizes in lists:
        hashed = finest[0].hashed(ids)
        for sharding, sums in zip(finest, files, strict=True):
            sums += _files(sharding, hashed, sizes)
        largest = max(largest, float(sizes.max(initial=0)))
    found = (
        (sharding._replace(shard_bits=bits), sums.reshape(-1, 1 << bits).sum(axis=0))
        for bits in range(fewest, fewest + _more_bits(largest, wanted) + 1)
        for sharding, sums in zip(finest, files, strict=True)
    )
    return _first_near(found, largest, wanted)


def cell_sharding(codes: Ids, sizes: Sizes, bits: int, wanted: int) -> Sharding:
    """Return the sharding of cells by their Morton codes.

    A file has runs of 2^n neighbouring cells, so that a viewer reads few files; n is the largest with which
    no file becomes too large. Runs are assigned to the files in turn, or by their hash if that is more even.

    Args:
        codes: (n,) code of each cell that has nodes, sorted.
        sizes: (n,) bytes of the list of each cell.
        bits: bits of a code.
        wanted: size of a file in bytes.
    """
    fewest, largest = _fewest_bits(float(sizes.sum()), wanted, bits), float(sizes.max(initial=0))
    most = min(fewest + _more_bits(largest, wanted), bits)
    return _first_near(_cell_shardings(codes, sizes, bits, range(fewest, most + 1)), largest, wanted)


def _cell_shardings(
    codes: Ids, sizes: Sizes, bits: int, shard_bits: Iterable[int]
) -> Iterator[tuple[Sharding, Sizes]]:
    """Yield shardings of cells, and the sizes of their files; the best ones to read first."""
    for shards in shard_bits:
        least = minishard_bits(len(codes) >> shards)
        for run in range(bits - shards, -1, -1):
            runs = codes >> np.uint64(run)
            starts = group_starts(runs)
            firsts, sums = codes[starts], np.add.reduceat(sizes, starts) if len(starts) else sizes
            minishards = min(least, run)
            in_turn = Sharding(run - minishards, minishards, shards, IDENTITY, GZIP, GZIP)
            yield in_turn, _files(in_turn, in_turn.hashed(firsts), sums)
            hashed = Sharding(run, 0, 0, MURMUR).hashed(firsts)
            for minishards in range(least, MOST_BITS + 1):  # each takes other bits of the hash for the shard
                by_hash = Sharding(run, minishards, shards, MURMUR, GZIP, GZIP)
                yield by_hash, _files(by_hash, hashed, sums)


def _files(sharding: Sharding, hashed: Ids, sizes: Sizes) -> Sizes:
    """Return the bytes of lists in each file, (2^shard_bits,)."""
    shards = sharding.shards(hashed).astype(np.intp)
    return np.bincount(shards, sizes, 1 << sharding.shard_bits).astype(np.float64, copy=False)


def _first_near(found: Iterable[tuple[Sharding, Sizes]], largest: float, wanted: int) -> Sharding:
    """Return the first sharding whose files all fit, or else the one with the smallest files.

    A list too large for a file shares one with others.
    """
    limit = MOST * wanted + (largest if largest > MOST * wanted else 0)
    ends = dict[Sharding, float]()
    for sharding, files in found:
        ends[sharding] = (MINISHARD_BYTES << sharding.minishard_bits) + float(files.max())
        if not sharding.shard_bits or ends[sharding] <= limit:
            return sharding
    nearest = min(ends.values())
    return next(sharding for sharding, end in ends.items() if end <= 1.05 * nearest)


def _more_bits(largest: float, wanted: int) -> int:
    """Return how many more shard bits may be taken, by the bytes of the largest list."""
    return MORE_BITS if largest <= LARGE * wanted else 1


def _fewest_bits(total: float, wanted: int, most: int) -> int:
    """Return the fewest shard bits with which files of ``total`` bytes are not too large on average."""
    return min(most, math.ceil(math.log2(max(1.0, total / (MOST * wanted)))))


def minishard_bits(keys: int) -> int:
    """Return the number of minishard bits that limits a minishard to about `MINISHARD_KEYS` keys."""
    return min(MOST_BITS, max(0, math.ceil(math.log2(max(keys, 1) / MINISHARD_KEYS))))
