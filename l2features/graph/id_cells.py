"""Cells with ids in a graph's table: raw in PyChunkedGraph 1, compressed by zstd in PyChunkedGraph 2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import zstandard

from ..core.errors import GraphError
from ..core.ids import Ids, as_ids, from_bytes

CHILDREN, PARENTS, SUCCESSORS, PREDECESSORS = "children", "parents", "new_parents", "former_parents"
"""Columns of a node's row.

A retired root has `SUCCESSORS`, the roots that replaced it; a root that replaced others has `PREDECESSORS`.
"""
MOST_IDS = 1 << 24
"""Maximum number of ids in a cell."""
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
Places = npt.NDArray[np.int64]


class Lists(NamedTuple):
    """Lists of ids, joined into one array: list ``i`` is ``values[starts[i] : starts[i + 1]]``."""

    values: Ids
    starts: Places

    @classmethod
    def joined(cls, parts: Sequence[bytes]) -> Lists:
        """Return one list for each item of ``parts``: the list's ids, 8 bytes each, little-endian."""
        lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts)) // 8
        return cls(from_bytes(b"".join(parts)), np.concatenate([[0], np.cumsum(lengths)]))

    @property
    def lengths(self) -> Places:
        return np.diff(self.starts)

    def parts(self) -> list[Ids]:
        """Return the lists as separate arrays."""
        return [self.values[start:end] for start, end in pairwise(self.starts.tolist())]

    def take(self, which: Places) -> Lists:
        """Return the lists with these indices, in the order of the indices."""
        lengths = self.lengths[which]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(starts[-1]) + np.repeat(self.starts[which] - starts[:-1], lengths)
        return Lists(self.values[places], starts)


@dataclass(frozen=True)
class NodeLists:
    """A list of ids for each of ``ids``, which are sorted and unique.

    ``known`` (n,) is False for an id that has no list in the table; its list in ``lists`` is empty.
    ``errors`` maps ids with a malformed cell to an error message; their lists lack the ids of this cell.
    """

    ids: Ids
    lists: Lists
    known: npt.NDArray[np.bool_]
    errors: dict[int, str]

    @classmethod
    def decoded(cls, ids: Ids, rows: Ids, cells: Sequence[bytes], most: int, what: str) -> NodeLists:
        """Decode one list per node in ``ids``, from the cells of the node's row.

        ``cells[i]`` belongs to node ``rows[i]``; a node's cells are joined in order. A compressed cell with
        more than ``most`` ids is malformed. ``what`` names the listed ids in error messages.
        """
        errors, parts = dict[int, str](), _decompressed(cells, most)
        if parts is None:
            decompressor, parts = zstandard.ZstdDecompressor(), []
            for row, cell in zip(rows.tolist(), cells, strict=True):
                try:
                    parts.append(id_bytes(cell, most, what, decompressor))
                except ValueError as error:
                    errors[row] = f"node {row}: {error}"
                    parts.append(b"")
        lists = Lists.joined(parts)
        if (rows[1:] < rows[:-1]).any():
            order = np.argsort(rows, kind="stable")
            rows, lists = rows[order], lists.take(order)
        ends = np.searchsorted(rows, ids, side="right")
        lists = Lists(lists.values, lists.starts[np.concatenate([[0], ends])])
        return cls(ids, lists, np.diff(ends, prepend=0) > 0, errors)

    @classmethod
    def joined(cls, parts: Sequence[NodeLists]) -> NodeLists:
        """Return the parts as one; the ids of each part must be above those of the part before it."""
        lists = Lists(
            np.concatenate([as_ids([]), *(part.lists.values for part in parts)]),
            np.concatenate([[0], *(part.lists.lengths for part in parts)]).cumsum(),
        )
        ids = np.concatenate([as_ids([]), *(part.ids for part in parts)])
        known = np.concatenate([np.empty(0, dtype=bool), *(part.known for part in parts)])
        return cls(ids, lists, known, {node: why for part in parts for node, why in part.errors.items()})


def _decompressed(cells: Sequence[bytes], most: int) -> list[bytes] | None:
    """Return the bytes of the ids in each cell, as `id_bytes` does, but in a third of the time.

    Returns None if a cell is not compressed, does not declare its size, or is invalid.
    """
    try:
        sizes = np.fromiter(map(zstandard.frame_content_size, cells), dtype=np.int64, count=len(cells))
        if ((sizes < 0) | (sizes > 8 * most) | (sizes % 8 > 0)).any():
            return None
        decompress = zstandard.ZstdDecompressor().decompress
        return [decompress(cell) for cell in cells]
    except (zstandard.ZstdError, OverflowError):
        return None


def check_lists(errors: Mapping[int, str]) -> None:
    """Raise GraphError if ``errors`` has any message; the error has the first three."""
    if errors:
        raise GraphError("; ".join(list(errors.values())[:3]))


def decode_ids(cell: bytes, most: int, what: str) -> Ids:
    """Return the ids in a cell of at most ``most`` ids; ``what`` names the ids in errors.

    Raises ValueError for a malformed cell.
    """
    return from_bytes(id_bytes(cell, most, what, zstandard.ZstdDecompressor()))


def id_bytes(cell: bytes, most: int, what: str, decompressor: zstandard.ZstdDecompressor) -> bytes:
    """Return the ids in a cell as bytes, little-endian; ``what`` names the ids in errors.

    Compressed cells begin with zstd's magic number. Raw cells begin with the low four bytes of an id. These
    can equal the magic number only if the id's chunk has millions of ids.

    Raises:
        ValueError: the length is not a multiple of 8, a compressed cell has more than ``most`` ids, or it
            cannot be decompressed.
    """
    if cell[:4] == _ZSTD_MAGIC:
        try:
            size = zstandard.frame_content_size(cell)
            if size <= 8 * most:
                cell = decompressor.decompress(cell, max_output_size=8 * most)
        except zstandard.ZstdError as error:
            raise ValueError(f"{what} cannot be decompressed: {error}") from error
        if size > 8 * most:
            raise ValueError(f"{what} have {size} bytes: expected {8 * most} at most")
    if len(cell) % 8:
        raise ValueError(f"{what} have {len(cell)} bytes: expected 8 per id")
    return cell


def places_of(known: Ids, ids: Ids) -> tuple[Places, npt.NDArray[np.bool_]]:
    """Return a tuple of arrays (n,): each id's index in the sorted ``known``; whether ``known`` has it."""
    at = np.searchsorted(known, ids)
    found = at < len(known)
    found[found] = known[at[found]] == ids[found]
    return at, found


def batches(ids: Ids, size: int) -> Iterable[Ids]:
    """Return the ids in consecutive parts of ``size`` ids; the last part may be shorter."""
    return (ids[first : first + size] for first in range(0, len(ids), size))
