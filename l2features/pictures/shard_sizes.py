"""The choice of the number of shards of an index, so that files are near a wanted size.

Each shard is a file. The number of shards is a power of two, and the stored values have unequal sizes, so
files vary in size. Where possible, files are planned to have at most `MOST` times the wanted size. If an
index has several files, each is padded with zeros to at least `LEAST` times the wanted size when written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from ..core.ids import Ids, group_starts
from ..volume.sharded import Sharding

MINISHARD_KEYS = 1_000
"""Approximate number of keys in a minishard; a reader fetches the index of a whole minishard."""
MOST_BITS = 13
"""Maximum minishard bits; the index at the start of a file then has 128 KB."""
MOST, LEAST = 1.1, 0.82
"""Maximum planned size of a file, and minimum size after padding, as shares of the wanted size."""
MORE_BITS = 2
"""Maximum number of shard bits to add to the fewest possible, to keep files from being too large."""
LARGE = 0.2
"""Share of the wanted size. For a larger list, at most 1 bit is added: more files would be mostly zeros."""
MINISHARD_BYTES = 48
"""Bytes of a minishard besides those of its keys: its entry in the shard's index, and gzip's overhead."""
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
    """Return the sharding of values of unequal size, one per id, by the hash of the ids.

    Args:
        lists: batches of ids (n,) and the bytes of their values (n,); not read if a single file suffices.
        keys: number of ids.
        total: bytes of all values.
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

    Runs of 2^n cells with successive codes stay in one file, so that a viewer reads few files; n is as large
    as the limit on the size of a file allows. Successive runs go to successive files, or, if that makes a
    file too large, to files chosen by a hash.

    Args:
        codes: (n,) code of each cell that has nodes, sorted.
        sizes: (n,) bytes of each cell's stored value, the list of its annotations.
        bits: bits of a code.
        wanted: size of a file in bytes.
    """
    fewest, largest = _fewest_bits(float(sizes.sum()), wanted, bits), float(sizes.max(initial=0))
    most = min(fewest + _more_bits(largest, wanted), bits)
    return _first_near(_cell_shardings(codes, sizes, bits, range(fewest, most + 1)), largest, wanted)


def _cell_shardings(
    codes: Ids, sizes: Sizes, bits: int, shard_bits: Iterable[int]
) -> Iterator[tuple[Sharding, Sizes]]:
    """Yield tuples: a sharding of the cells; the sizes of its files in bytes.

    Fewer shards come first. For equally many shards, longer runs of neighbouring cells in a file come first.
    """
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
    """Return the total bytes of the values that each file would store, (2^shard_bits,)."""
    shards = sharding.shards(hashed).astype(np.intp)
    return np.bincount(shards, sizes, 1 << sharding.shard_bits).astype(np.float64, copy=False)


def _first_near(found: Iterable[tuple[Sharding, Sizes]], largest: float, wanted: int) -> Sharding:
    """Return the first sharding whose files have at most `MOST` times the wanted size, or that has one file.

    ``largest`` is the bytes of the largest stored value. If a value exceeds the limit, ``largest`` is added
    to the limit. If no sharding fits, each is judged by its largest file: the first one is returned whose
    largest file is at most 5 % larger than the smallest of these.
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
    """Return how many bits may be added to `_fewest_bits`, if the largest value has ``largest`` bytes."""
    return MORE_BITS if largest <= LARGE * wanted else 1


def _fewest_bits(total: float, wanted: int, most: int) -> int:
    """Return the fewest shard bits with which files average at most `MOST` times the wanted size.

    ``total`` is the bytes of all files. The result is at most ``most``.
    """
    return min(most, math.ceil(math.log2(max(1.0, total / (MOST * wanted)))))


def minishard_bits(keys: int) -> int:
    """Return the number of minishard bits that limits a minishard to about `MINISHARD_KEYS` keys."""
    return min(MOST_BITS, max(0, math.ceil(math.log2(max(keys, 1) / MINISHARD_KEYS))))
