"""Blocks in shard files, and checks of the files' indexes.

The format is neuroglancer_uint64_sharded_v1. A shard begins with its index: start and end of each minishard's
index. A minishard's index lists the ids, offsets and sizes of its blocks. Ids and offsets are stored as
differences, modulo 2^64: each id minus the previous id, each offset minus the end of the previous block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from ..core.geometry import Triple
from .blocks import Block, Cells, Grid
from .encodings import Encoding, Labels
from .storage import MISSING, FileBytes, Request, Storage, StorageError, gunzip, ranges

CACHE_BYTES = 1 << 26
MAX_INDEX = 1 << 26
"""Maximum size of a minishard's index in bytes; it lists 2.8 million blocks."""
_LIMIT = np.uint64(1 << 62)
Codes = npt.NDArray[np.uint64]
Index = npt.NDArray[np.uint64]
Key = TypeVar("Key", bound=Hashable)
EMPTY_INDEX: Index = np.empty((0, 3), np.uint64)


class Sharding(NamedTuple):
    """The mapping of block ids to shards and minishards."""

    preshift_bits: int
    minishard_bits: int
    shard_bits: int
    hash: str
    minishard_index_encoding: str = "raw"
    data_encoding: str = "raw"

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Sharding:
        return cls(**{name: spec[name] for name in cls._fields if name in spec})

    @property
    def index_bytes(self) -> int:
        return 16 << self.minishard_bits

    def hashed(self, codes: Codes) -> Codes:
        """Hash block ids: the lowest bits of a hash are the minishard, the next bits the shard."""
        shifted = codes >> np.uint64(self.preshift_bits)
        return shifted if self.hash == "identity" else murmurhash3(shifted)

    def shards(self, hashed: Codes) -> Codes:
        """Return the shard of each hashed block id."""
        return hashed >> np.uint64(self.minishard_bits) & np.uint64((1 << min(self.shard_bits, 64)) - 1)

    def places(self, codes: Codes) -> tuple[Codes, Codes]:
        """Return a tuple: the shard of each block id; its minishard."""
        hashed = self.hashed(codes)
        return self.shards(hashed), hashed & np.uint64((1 << self.minishard_bits) - 1)

    def file(self, shard: int) -> str:
        return f"{shard:0{math.ceil(self.shard_bits / 4)}x}.shard"


class ShardedBlocks:
    """Blocks in shard files; a block's id is the compressed Morton code of its coordinates."""

    def __init__(
        self, storage: Storage, key: str, grid: Grid, encoding: Encoding, sharding: Sharding
    ) -> None:
        self.storage, self.key, self.grid, self.encoding = storage, key, grid, encoding
        self.sharding = sharding
        self._indexes: LRUCache[Request, Any] = LRUCache(CACHE_BYTES, getsizeof=lambda index: index.nbytes)

    def forget(self) -> None:
        """Drop the cached indexes, since they may be wrong."""
        self._indexes.clear()

    def fetch(self, cells: Cells) -> Iterator[Block]:
        """Fetch blocks, in the order of ``cells``. The stored bytes of all blocks are in memory at once."""
        found = dict(self._found(cells))
        return (found.pop(i) for i in range(len(cells)))

    def _found(self, cells: Cells) -> Iterator[tuple[int, Block]]:
        codes = morton_codes(cells, self.grid.shape)
        shards, minishards = self.sharding.places(codes)
        where: list[tuple[int, Request]] = []
        indexes = self._minishards(shards, minishards)
        for i, (shard, minishard, code) in enumerate(
            zip(shards.tolist(), minishards.tolist(), codes.tolist(), strict=True)
        ):
            index = indexes[shard, minishard]
            name = f"{self.key}/{self.sharding.file(shard)}"
            if isinstance(index, FileBytes):
                yield i, Block(cells[i], name, index)
                continue
            row = int(np.searchsorted(index[:, 0], np.uint64(code)))
            if row == len(index) or int(index[row, 0]) != code:
                yield i, Block(cells[i], name, MISSING)
                continue
            start, size = int(index[row, 1]), int(index[row, 2])
            most = self.encoding.most_bytes(self.grid.step)
            if size > most:
                raise StorageError(
                    f"file {name}: index lists block {code} with {size} bytes, expected at most {most}"
                )
            if size == 0:
                yield i, Block(cells[i], f"{name}, block {code}", FileBytes(b""))
                continue
            where.append((i, Request(name, start, start + size)))
        yield from self._read(cells, codes, where)

    def _read(
        self, cells: Cells, codes: Codes, where: list[tuple[int, Request]]
    ) -> Iterator[tuple[int, Block]]:
        groups = ranges([request for _, request in where])
        spans = [
            Request(where[g[0]][1].name, where[g[0]][1].start, max(where[i][1].stop or 0 for i in g))
            for g in groups
        ]
        for group, span, found in zip(groups, spans, self.storage.fetch(spans), strict=True):
            for place in group:
                i, (name, start, stop, _) = where[place]
                block = f"{name}, block {codes[i]}"
                if found.content is None:
                    yield i, Block(cells[i], block, found)
                    continue
                low, high = (start or 0) - (span.start or 0), (stop or 0) - (span.start or 0)
                content = found.content[low:high]
                if len(content) != high - low:
                    raise StorageError(
                        f"file {block}: cut off after {len(content)} bytes, expected {high - low}"
                    )
                yield i, Block(cells[i], block, FileBytes(content))

    def decode(self, content: bytes, shape: Triple) -> Labels:
        """Return the labels (x, y, z) of a block; for compressed_segmentation, the block's 32-bit words.

        Raises ValueError for a broken block.
        """
        if self.sharding.data_encoding == "gzip":
            content = gunzip(content, self.encoding.most_bytes(shape))
        return self.encoding.decode(content, shape)

    def _minishards(self, shards: Codes, minishards: Codes) -> dict[tuple[int, int], Index | FileBytes]:
        """Return the indexes of minishards by (shard, minishard).

        Where a shard's file is missing or empty, return its `FileBytes` instead.
        """
        pairs = sorted(set(zip(shards.tolist(), minishards.tolist(), strict=True)))
        files = {shard: f"{self.key}/{self.sharding.file(shard)}" for shard, _ in pairs}
        size = self.sharding.index_bytes
        heads = self._cached({s: Request(file, 0, size) for s, file in files.items()}, self._decode_head)
        indexes: dict[tuple[int, int], Index | FileBytes] = {}
        wanted: dict[tuple[int, int], Request] = {}
        tables: dict[int, Index] = {}
        for shard, minishard in pairs:
            head = heads[shard]
            if isinstance(head, FileBytes):
                indexes[shard, minishard] = head
                continue
            tables[shard] = head
            start, end = (int(n) for n in head[minishard])
            if start == end:
                indexes[shard, minishard] = EMPTY_INDEX
            elif not start < end <= start + MAX_INDEX:
                raise StorageError(
                    f"file {files[shard]}: index places minishard {minishard} at bytes {start} to {end}: "
                    f"expected an end after the start, and a size of at most {MAX_INDEX} bytes"
                )
            else:
                wanted[shard, minishard] = Request(files[shard], start, end)

        def decode(pair: tuple[int, int], request: Request, found: FileBytes) -> Index:
            return self._decode_index(request, found, *pair, tables[pair[0]])

        return indexes | self._cached(wanted, decode)

    def _cached(
        self, requests: Mapping[Key, Request], decode: Callable[[Key, Request, FileBytes], Index | FileBytes]
    ) -> dict[Key, Index | FileBytes]:
        indexes = {key: self._indexes[r] for key, r in requests.items() if r in self._indexes}
        new = {key: request for key, request in requests.items() if key not in indexes}
        for (key, request), found in zip(new.items(), self.storage.fetch(list(new.values())), strict=True):
            index = indexes[key] = decode(key, request, found)
            if not isinstance(index, FileBytes) and index.nbytes <= CACHE_BYTES:
                self._indexes[request] = index
        return indexes

    def _decode_head(self, _: int, request: Request, found: FileBytes) -> Index | FileBytes:
        """Return start and end (excluded) of each minishard's index: (n, 2), in bytes from the file's start.

        Returns ``found`` if the file is missing or empty. Raises StorageError if the index is broken.
        """
        where, size = f"file {request.name}: index is broken", self.sharding.index_bytes
        if not found.content:
            return found
        if len(found.content) != size:
            what = f"cut off after {len(found.content)} bytes: its index takes {size}"
            raise StorageError(f"file {request.name}: {what}")
        index = np.frombuffer(found.content, "<u8").reshape(-1, 2)
        if (index >= _LIMIT).any():
            raise StorageError(f"{where}: points beyond the file's end")
        areas = index[index[:, 0] != index[:, 1]]
        if not len(areas) and self.storage.fetch_one(Request(request.name, size, size + 1)).content:
            raise StorageError(f"{where}: names no minishard, but data follows the index")
        areas = areas[np.argsort(areas[:, 0])]
        if (areas[1:, 0] < areas[:-1, 1]).any():
            raise StorageError(f"{where}: minishards overlap")
        return index + np.uint64(size)

    def _decode_index(
        self, request: Request, found: FileBytes, shard: int, minishard: int, head: Index
    ) -> Index:
        """Return ids, offsets in the file and sizes (n, 3) of a minishard's blocks, sorted by id.

        Raises StorageError for a broken index.
        """
        where = f"file {request.name}: the index of minishard {minishard}"
        content, length = found.content or b"", (request.stop or 0) - (request.start or 0)
        if len(content) != length:
            raise StorageError(f"{where} is cut off: {len(content)} bytes, expected {length}")
        if self.sharding.minishard_index_encoding == "gzip":
            try:
                content = gunzip(content, MAX_INDEX)
            except ValueError as error:
                raise StorageError(f"{where} is broken gzip: {error}") from error
        if len(content) % 24:
            raise StorageError(f"{where} has {len(content)} bytes, expected a multiple of 24")
        ids, offsets, sizes = np.frombuffer(content, "<u8").reshape(3, -1)
        offsets = np.cumsum(offsets, dtype=np.uint64)
        offsets[1:] += np.cumsum(sizes[:-1], dtype=np.uint64)
        offsets += np.uint64(self.sharding.index_bytes)
        index = np.stack([np.cumsum(ids, dtype=np.uint64), offsets, sizes], axis=1)
        problem = self._problem(index, shard, minishard, head)
        if problem:
            raise StorageError(f"{where} is broken: {problem}")
        return index

    def _problem(self, index: Index, shard: int, minishard: int, head: Index) -> str:
        ids, starts, sizes = index.T
        if (ids[1:] <= ids[:-1]).any():
            return "ids do not increase"
        shards, minishards = self.sharding.places(ids)
        if (shards != shard).any() or (minishards != minishard).any():
            return "lists ids of another minishard"
        if len(ids) and int(ids[-1]) >> sum((n - 1).bit_length() for n in self.grid.shape):
            return "lists an id beyond the grid"
        if (starts >= _LIMIT).any() or (sizes >= _LIMIT).any():
            return "places a block beyond the file"
        blocks = np.stack([starts, starts + sizes], axis=1)
        areas = np.concatenate([blocks, head])  # no block lies in the index of any minishard
        areas = areas[areas[:, 0] != areas[:, 1]]
        areas = areas[np.argsort(areas[:, 0], kind="stable")]
        if (areas[:-1, 1] > areas[1:, 0]).any() or (starts < self.sharding.index_bytes).any():
            return "blocks overlap"
        return ""


def morton_codes(cells: Cells, shape: Triple) -> Codes:
    """Return compressed Morton codes of coordinates (n, 3): the bits of the axes, interleaved."""
    codes, place = np.zeros(len(cells), np.uint64), 0
    bits = [(n - 1).bit_length() for n in shape]
    for bit in range(max(bits)):
        for axis in range(3):
            if bit < bits[axis]:
                codes |= (cells[:, axis].astype(np.uint64) >> np.uint64(bit) & np.uint64(1)) << np.uint64(
                    place
                )
                place += 1
    return codes


def murmurhash3(values: Codes) -> Codes:
    """Return the low 64 bits of murmurhash3_x86_128 (seed 0) of each value's 8 bytes."""
    word = np.uint64(0xFFFFFFFF)

    def rotated(k: Codes, n: int) -> Codes:
        return (k << np.uint64(n) | k >> np.uint64(32 - n)) & word

    def mixed(h: Codes) -> Codes:
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            h = (h ^ h >> np.uint64(shift)) * np.uint64(factor) & word
        return h

    low, high = values & word, values >> np.uint64(32)
    c1, c2, c3 = (np.uint64(c) for c in (0x239B961B, 0xAB0E9789, 0x38B34AE5))
    h2 = rotated(high * c2 & word, 16) * c3 & word
    h1 = rotated(low * c1 & word, 15) * c2 & word
    length = np.uint64(8)
    h1, h2, h3 = h1 ^ length, h2 ^ length, np.full_like(values, length)
    h1 = h1 + h2 + h3 + h3 & word
    h2, h3 = h2 + h1 & word, h3 + h1 & word
    h1, h2, h3 = mixed(h1), mixed(h2), mixed(h3)
    h1 = h1 + h2 + h3 + h3 & word
    return h1 | (h2 + h1 & word) << np.uint64(32)
