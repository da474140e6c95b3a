"""The rows of roots and segments in a Bigtable table.

A root's cells are in the row ``root_<root>``, with their names as qualifiers. A segment's nodes are in the
row ``segment_<segment>``, one cell for each chunk. The qualifier is the chunk's id as 8 big-endian bytes,
which sorts the cells by node. The value is the node's id, little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
from google.cloud.bigtable.data.row_filters import (
    CellsRowLimitFilter,
    FamilyNameRegexFilter,
    RowFilter,
    RowFilterChain,
)

from ...core.errors import StoreError
from ...core.ids import Ids, as_ids, from_bytes, numbered_ids, row_keys, to_bytes
from ..formats import parse_root_cell, root_cell
from .cells import FAMILY, CellEntry
from .row_arrays import AnyCells

ROOT_PREFIX, SEGMENT_PREFIX = b"root_", b"segment_"
WRITE_BYTES = 10_000_000
"""Maximum bytes of values in one bulk mutation."""


def keys_of(prefix: bytes, ids: Ids) -> list[bytes]:
    """Return the sorted, unique row keys of roots or segments; ``prefix`` tells which of the two."""
    return [prefix + key for key in row_keys(np.unique(as_ids(ids)))]


def root_entries(cells: Mapping[int, Mapping[str, bytes]], most: int) -> Iterator[list[CellEntry]]:
    """Yield the mutations that write roots' cells, in batches of up to ``most`` mutations and `WRITE_BYTES`.

    Raises ValueError for a malformed name, and for a value that is too large.
    """
    now, batch, size = datetime.now(UTC), list[CellEntry](), 0
    for root, values in cells.items():
        [key] = keys_of(ROOT_PREFIX, as_ids([root]))
        for name, value in values.items():
            if batch and (len(batch) == most or size + len(value) > WRITE_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(CellEntry(key, name.encode(), root_cell(root, name, value), now))
            size += len(value)
    if batch:
        yield batch


def root_cells_of(parts: Sequence[AnyCells], where: str) -> dict[int, dict[str, bytes]]:
    """Return values of cells by root and name. Raises UnknownFormat for a newer format."""
    found: dict[int, dict[str, bytes]] = {}
    for part in parts:
        for root, raw_name, stored in zip(part.ids.tolist(), part.names, part.values, strict=True):
            name = raw_name.decode()
            found.setdefault(root, {})[name] = parse_root_cell(stored, root, name, where)
    return found


def index_entries(chunk_id: int, segments: Ids, stale: Ids, most: int) -> Iterator[list[CellEntry]]:
    """Yield batches of up to ``most`` mutations that update the segment index for a chunk.

    They add the chunk's nodes to ``segments``, and remove the chunk from the segments in ``stale``.
    """
    now, qualifier = datetime.now(UTC), chunk_id.to_bytes(8, "big")
    raw = to_bytes(numbered_ids(chunk_id, len(segments)))
    values = [raw[i : i + 8] for i in range(0, len(raw), 8)] + [None] * len(stale)
    keys = row_keys(np.concatenate([segments, stale]))
    for first in range(0, len(keys), most):
        rows = zip(keys[first : first + most], values[first : first + most], strict=True)
        yield [CellEntry(SEGMENT_PREFIX + key, qualifier, value, now) for key, value in rows]


def first_nodes(most: int) -> RowFilter:
    """Return the filter for the nodes with the lowest ids of each segment, at most ``most`` per segment."""
    return RowFilterChain(filters=[FamilyNameRegexFilter(FAMILY), CellsRowLimitFilter(most)])


def segment_nodes_of(parts: Sequence[AnyCells], where: str) -> dict[int, Ids]:
    """Return each segment's node ids, from its row. Raises StoreError for an id that is not 8 bytes long."""
    found: dict[int, Ids] = {}
    for part in parts:
        wrong = [i for i, value in enumerate(part.values) if len(value) != 8]
        if wrong:
            size = len(part.values[wrong[0]])
            segment = part.ids[wrong[0]]
            raise StoreError(f"{where}: segment {segment}: a stored node id has {size} bytes, expected 8")
        nodes = from_bytes(b"".join(part.values))
        segments, first = np.unique(part.ids, return_index=True)
        found |= dict(zip(segments.tolist(), np.split(nodes, first)[1:], strict=True))
    return found
