"""The number of shards of an index, so that files are near a wanted size.

The number is a power of two, and lists are of unequal lengths. So no file is planned to be larger than `MOST`
of the wanted size. Files that are smaller than `LEAST` of it are filled with zeros where they are written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from ..core.ids import Ids
from ..volume.sharded import Sharding

MINISHARD_KEYS = 1_000
"""Keys of a minishard, whose index a reader fetches as a whole."""
MOST_BITS = 13
"""Maximum minishard bits, of an index of 128 KB at the start of each file."""
MOST, LEAST = 1.1, 0.82
"""Size of the largest file by the plan, and of the smallest one, as shares of the wanted size."""
MURMUR, IDENTITY, RAW, GZIP = "murmurhash3_x86_128", "identity", "raw", "gzip"

Sizes = npt.NDArray[np.float64]


def least_bytes(sharding: Sharding, wanted: int) -> int:
    """Return the least size of a file in bytes; the only file of an index may be of any size."""
    return math.ceil(LEAST * wanted) if sharding.shard_bits else 0


def record_sharding(keys: int, size: float, wanted: int) -> Sharding:
    """Return the sharding of this number of ids by their hash; each has ``size`` bytes.

    Args:
        keys: number of ids.
        size: bytes of each in a file.
        wanted: size of a file in bytes.
    """
    bits = _fewest_bits(keys * size, wanted, keys.bit_length())
    return Sharding(0, minishard_bits(keys >> bits), bits, MURMUR, GZIP, RAW)


def list_sharding(lists: Iterable[tuple[Ids, Sizes]], keys: int, total: float, wanted: int) -> Sharding:
    """Return the sharding of ids by their hash.

    Args:
        lists: batches of ids (n,) and of the bytes of their lists (n,). They are not read for a single file.
        keys: number of ids.
        total: bytes of all lists.
        wanted: size of a file in bytes.
    """
    bits = _fewest_bits(total, wanted, keys.bit_length())
    finest = Sharding(0, minishard_bits(keys >> bits), bits + 1, MURMUR, GZIP, GZIP)
    if not bits:
        return finest._replace(shard_bits=0)
    files, largest = np.zeros(2 << bits), 0.0
    for ids, sizes in lists:
        files += _files(finest, ids, sizes)
        largest = max(largest, sizes.max(initial=0))
    halves = files.reshape(2, -1)
    found = [(finest._replace(shard_bits=bits), halves.sum(axis=0)), (finest, files)]
    return _first_near(found, largest, wanted)


def cell_sharding(codes: Ids, sizes: Sizes, bits: int, wanted: int) -> Sharding:
    """Return the sharding of cells by their Morton codes.

    A file has runs of 2^n neighbouring cells, so that a viewer reads few files: the longest runs with which
    no file is too large. Runs are dealt to the files in turn, or by their hash where that is more even.

    Args:
        codes: (n,) code of each cell that has nodes, sorted.
        sizes: (n,) bytes of its list.
        bits: bits of a code.
        wanted: size of a file in bytes.
    """
    fewest = _fewest_bits(float(sizes.sum()), wanted, bits)
    found = _cell_shardings(codes, sizes, bits, range(fewest, min(fewest + 1, bits) + 1))
    return _first_near(found, float(sizes.max(initial=0)), wanted)


def _cell_shardings(
    codes: Ids, sizes: Sizes, bits: int, shard_bits: Iterable[int]
) -> Iterator[tuple[Sharding, Sizes]]:
    """Yield shardings of cells, and the sizes of their files; the best ones to read first."""
    for shards in shard_bits:
        least = minishard_bits(len(codes) >> shards)
        for run in range(bits - shards, -1, -1):
            runs = codes >> np.uint64(run)
            starts = np.flatnonzero(np.append(True, runs[1:] != runs[:-1])[: len(runs)])
            firsts, sums = codes[starts], np.add.reduceat(sizes, starts) if len(starts) else sizes
            for sharding in _run_shardings(run, least, shards):
                yield sharding, _files(sharding, firsts, sums)


def _run_shardings(run: int, least: int, shard_bits: int) -> Iterator[Sharding]:
    """Yield shardings of runs of 2^run cells, with this number of minishard bits or more."""
    minishards = min(least, run)
    yield Sharding(run - minishards, minishards, shard_bits, IDENTITY, GZIP, GZIP)
    for minishards in range(least, MOST_BITS + 1):  # each takes other bits of the hash for the shard
        yield Sharding(run, minishards, shard_bits, MURMUR, GZIP, GZIP)


def _files(sharding: Sharding, keys: Ids, sizes: Sizes) -> Sizes:
    """Return the bytes of lists in each file, (2^shard_bits,)."""
    shards = sharding.places(keys)[0].astype(np.intp)
    return np.bincount(shards, sizes, 1 << sharding.shard_bits).astype(np.float64, copy=False)


def _first_near(found: Iterable[tuple[Sharding, Sizes]], largest: float, wanted: int) -> Sharding:
    """Return the first sharding none of whose files is too large, or else that with the smallest ones.

    A list that is too large for a file has one with others.
    """
    limit = MOST * wanted + (largest if largest > MOST * wanted else 0)
    ends = dict[Sharding, float]()
    for sharding, files in found:
        ends[sharding] = sharding.index_bytes + float(files.max())
        if not sharding.shard_bits or ends[sharding] <= limit:
            return sharding
    nearest = min(ends.values())
    return next(sharding for sharding, end in ends.items() if end <= 1.05 * nearest)


def _fewest_bits(total: float, wanted: int, most: int) -> int:
    """Return the fewest shard bits with which files of ``total`` bytes are not too large on average."""
    return min(most, math.ceil(math.log2(max(1.0, total / (MOST * wanted)))))


def minishard_bits(keys: int) -> int:
    """Return the number of minishard bits with which a minishard has about `MINISHARD_KEYS` keys at most."""
    return min(MOST_BITS, max(0, math.ceil(math.log2(max(keys, 1) / MINISHARD_KEYS))))
