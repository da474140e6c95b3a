"""A cache for results of roots: in the memory of this process, and in cells of the features table.

A result is an array, such as a root's L2 ids or summary. The array's bytes are split over cells. Each cell
has a header with the format and a checksum. A cell of a newer format is an error. A malformed cell is logged,
and the result is computed again.
"""

from __future__ import annotations

import logging
import math
import struct
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from cachetools import LRUCache

from ..core.batches import batched
from ..core.errors import StoreError
from ..core.ids import Ids
from ..store.base import RootCells
from ..store.formats import check_version
from .neuron_summary import GRAPH_SUMMARIES, SUMMARIES

FORMAT = 1
"""Format of all cells. Increase it when the content of a cell changes, for example by a new measure."""
FIRST_BYTES, CELL_BYTES = 320_000, 8_000_000
"""Maximum payload of a result's first cell, and of each other cell, in bytes.

First cells are small, because those of many roots are read at once.
"""
PUT_BYTES = 32_000_000
"""Maximum bytes of results in one write to the table; a larger result is written alone."""
REST_S = 60.0
"""Seconds after a failed write during which no other write is tried."""
MAGIC = b"L2"
HEADER = struct.Struct("<2sHHIQ")
"""Header of a cell: `MAGIC`, `FORMAT`, number of cells, checksum of the payload, total number of items."""
BASIS_BYTES = 16
_ENTRY_BYTES = 400
"""Bytes of an entry of the memory cache besides its array."""
logger = logging.getLogger(__name__)


class ResultKind(NamedTuple):
    """A kind of cached result: the name of its first table cell, and its array's dtype and item shape."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...] = ()

    def cells(self, number: int) -> list[str]:
        """Return the names of the cells of a result that is split over ``number`` table cells."""
        return [self.name, *(f"{self.name}_{i}" for i in range(1, number))]


def _with_basis(dtype: np.dtype) -> np.dtype:
    return np.dtype([("basis", f"V{BASIS_BYTES}"), ("summary", dtype)])


L2_IDS = ResultKind("l2_ids", np.dtype("<u8"))
"""The L2 ids of a root, sorted."""
EDGES = ResultKind("edges", np.dtype("<u4"), (2,))
"""The edges of a root's L2 graph, (m, 2), as indices into the root's sorted L2 ids."""
SUMMARY = ResultKind("summary", _with_basis(SUMMARIES))
"""One item: ``basis``, 16 bytes that change when the rows behind the summary change; then the summary."""
GRAPH_SUMMARY = ResultKind("graph_summary", _with_basis(GRAPH_SUMMARIES))
SKELETON = ResultKind("skeleton", np.dtype("u1"))
"""The 16 bytes of the basis (see `SUMMARY`), then the skeleton's bytes as Neuroglancer reads them."""


class Malformed(ValueError):
    """A cell is missing, or has a wrong header, size or checksum."""


@dataclass
class KeptResults:
    """Cached results. ``arrays`` maps a root to its result.

    Results with more items than the argument ``most`` of `KeptRoots.get` are not in ``arrays``: ``longer``
    maps their roots to the number of items.
    """

    arrays: dict[int, np.ndarray] = field(default_factory=dict)
    longer: dict[int, int] = field(default_factory=dict)


class KeptRoots:
    """A cache for arrays computed for roots, in memory and in the features table. Thread-safe.

    Results that are not in memory are read from the table. New results are written to it only if ``write``
    is True. A failed write is only logged; the next write is tried no earlier than `REST_S` seconds later.
    """

    def __init__(self, table: RootCells, name: str, write: bool, cache_bytes: int) -> None:
        self._table, self._name, self._write = table, name, write
        self._lock = threading.Lock()
        self._cache: LRUCache[tuple[int, str], np.ndarray] = LRUCache(
            cache_bytes, getsizeof=lambda array: array.nbytes + _ENTRY_BYTES
        )
        self._rest_until = float("-inf")

    def get(
        self, kind: ResultKind, roots: Ids, most: int | None = None, bases: Mapping[int, bytes] | None = None
    ) -> KeptResults:
        """Return the cached results of roots; roots without a cached result are left out.

        For a result with more than ``most`` items, only their number is returned. ``bases`` maps each root
        to its current basis (see `SUMMARY`). A result stored with another basis is outdated and left out.
        Raises StoreError, and UnknownFormat for a cell that a newer l2features wrote.
        """
        wanted = roots.tolist()
        with self._lock:
            cached = {r: a for r in wanted if (a := self._cache.get((r, kind.name))) is not None}
        found = KeptResults(_on_bases(cached, bases))
        if most is not None:
            found.longer = {root: len(a) for root, a in found.arrays.items() if len(a) > most}
            for root in found.longer:
                del found.arrays[root]
        missing = [r for r in wanted if r not in found.arrays and r not in found.longer]
        if missing:
            read = self._read(kind, np.array(missing, dtype=np.uint64), most)
            read.arrays = _on_bases(read.arrays, bases)
            self._remember(kind, read.arrays)
            found.arrays |= read.arrays
            found.longer |= read.longer
        return found

    def put(self, kind: ResultKind, arrays: Mapping[int, np.ndarray]) -> None:
        """Cache results of one kind, by root; see `put_all`."""
        self.put_all({kind: arrays})

    def put_all(self, results: Mapping[ResultKind, Mapping[int, np.ndarray]]) -> None:
        """Cache results of roots, by kind; with ``write``, also store them in the table.

        A failed write is only logged: a result that was not stored is computed again when needed.
        """
        for kind, arrays in results.items():
            self._remember(kind, arrays)
        if not self._write or time.monotonic() < self._rest_until:
            return
        try:
            items = [(root, kind, array) for kind in results for root, array in results[kind].items()]
            for batch in batched(items, lambda item: item[2].nbytes, PUT_BYTES):
                cells = dict[int, dict[str, bytes]]()
                for root, kind, array in batch:
                    cells.setdefault(root, {}).update(encode(kind, array))
                self._table.put_root_cells(cells)
        except StoreError as error:
            self._rest_until = time.monotonic() + REST_S
            logger.warning("cannot store results computed for roots, next attempt in %g s: %s", REST_S, error)

    def _remember(self, kind: ResultKind, arrays: Mapping[int, np.ndarray]) -> None:
        with self._lock:
            for root, array in arrays.items():
                if isinstance(array.base, np.ndarray) and array.base.nbytes > array.nbytes:
                    array = array.copy()  # or the cache would hold the whole array
                array.flags.writeable = False
                if array.nbytes + _ENTRY_BYTES <= self._cache.maxsize:
                    self._cache[root, kind.name] = array

    def _read(self, kind: ResultKind, roots: Ids, most: int | None) -> KeptResults:
        """Return the results in the table; of a result with more than ``most`` items, only their number.

        Reads the first cells of all roots at once, then the other cells of each root.
        """
        found = KeptResults()
        for root, cells in self._table.root_cells(roots, [kind.name]).items():
            try:
                number, items, payload = self._open(root, kind.name, cells)
                if most is not None and items > most:
                    found.longer[root] = items
                    continue
                if number > 1:
                    payload += self._others(kind, root, number)
                found.arrays[root] = decode(kind, items, payload)
            except Malformed as error:
                logger.warning("table %s: root %s: %s; the result is computed again", self._name, root, error)
        return found

    def _others(self, kind: ResultKind, root: int, number: int) -> bytes:
        """Return the joined payload of a result's cells except the first; the result has ``number`` cells."""
        names = kind.cells(number)[1:]
        cells = self._table.root_cells(np.array([root], dtype=np.uint64), names).get(root, {})
        return b"".join(self._open(root, name, cells)[2] for name in names)

    def _open(self, root: int, name: str, cells: Mapping[str, bytes]) -> tuple[int, int, bytes]:
        """Return a tuple: the number of the result's cells; the number of its items; cell ``name``'s payload.

        Raises Malformed for a missing or corrupt cell, and UnknownFormat for a newer format.
        """
        data = cells.get(name, b"")
        if len(data) < HEADER.size or not data.startswith(MAGIC):
            raise Malformed(
                f"the cell {name!r} ({len(data)} bytes) has no header, expected {HEADER.size} bytes "
                f"that begin with {MAGIC.decode()}"
            )
        _, version, number, checksum, items = HEADER.unpack_from(data)
        if version > FORMAT:
            check_version(version, FORMAT, f"table {self._name}: root {root}: the cell {name!r}")
        payload = data[HEADER.size :]
        if version < FORMAT:
            raise Malformed(f"the cell {name!r} has format {version}, expected {FORMAT}")
        if checksum != (found := zlib.crc32(payload)):
            raise Malformed(f"the cell {name!r} has the checksum {found:08x}, expected {checksum:08x}")
        return number, items, payload


def _on_bases(arrays: dict[int, np.ndarray], bases: Mapping[int, bytes] | None) -> dict[int, np.ndarray]:
    if bases is None:
        return arrays
    return {root: array for root, array in arrays.items() if _basis(array) == bases[root]}


def _basis(array: np.ndarray) -> bytes:
    return (array["basis"] if array.dtype.names else array[:BASIS_BYTES]).tobytes()


def encode(kind: ResultKind, array: np.ndarray) -> dict[str, bytes]:
    """Return the cells in which a result is stored, by name."""
    data = np.ascontiguousarray(array, dtype=kind.dtype).tobytes()
    starts = [0, *range(FIRST_BYTES, len(data), CELL_BYTES)]
    parts = [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]
    names = kind.cells(len(parts))
    return {
        name: HEADER.pack(MAGIC, FORMAT, len(parts), zlib.crc32(part), len(array)) + part
        for name, part in zip(names, parts, strict=True)
    }


def decode(kind: ResultKind, items: int, payload: bytes) -> np.ndarray:
    """Return the array of ``items`` items that `encode` stored, from the joined payload of its cells.

    Raises Malformed if the payload has another size.
    """
    shape = (items, *kind.shape)
    expected = math.prod(shape) * kind.dtype.itemsize
    if len(payload) != expected:
        raise Malformed(f"the cells {kind.name!r} have {len(payload)} bytes, expected {expected}")
    return np.frombuffer(payload, kind.dtype).reshape(shape)
