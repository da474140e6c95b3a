"""The rows of roots and segments in a Bigtable table.

A root's cells have the row ``root_<root>``, their qualifiers are their names. A segment's nodes have the row
``segment_<segment>``: one cell for each chunk, whose qualifier is the chunk's id as 8 bytes, big-endian, so
that the cells are in the order of the nodes, and whose value is the node's id.
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
"""Bytes of values in one bulk mutation, unless one value alone is larger."""


def keys_of(prefix: bytes, ids: Ids) -> list[bytes]:
    """Return the sorted row keys of roots or segments."""
    return [prefix + key for key in row_keys(np.unique(as_ids(ids)))]


def root_entries(cells: Mapping[int, Mapping[str, bytes]], most: int) -> Iterator[list[CellEntry]]:
    """Yield the mutations that write roots' cells, in batches of at most ``most``. Raises ValueError."""
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
    """Return cells by root and name. Raises UnknownFormat, naming ``where``."""
    found: dict[int, dict[str, bytes]] = {}
    for part in parts:
        for root, raw_name, stored in zip(part.ids.tolist(), part.names, part.values, strict=True):
            name = raw_name.decode()
            found.setdefault(root, {})[name] = parse_root_cell(stored, root, name, where)
    return found


def index_entries(chunk_id: int, segments: Ids, stale: Ids, most: int) -> Iterator[list[CellEntry]]:
    """Yield the mutations that index a chunk's segments and remove ``stale`` ones, in batches of ``most``."""
    now, qualifier = datetime.now(UTC), chunk_id.to_bytes(8, "big")
    raw = to_bytes(numbered_ids(chunk_id, len(segments)))
    values = [raw[i : i + 8] for i in range(0, len(raw), 8)] + [None] * len(stale)
    keys = row_keys(np.concatenate([segments, stale]))
    for first in range(0, len(keys), most):
        rows = zip(keys[first : first + most], values[first : first + most], strict=True)
        yield [CellEntry(SEGMENT_PREFIX + key, qualifier, value, now) for key, value in rows]


def first_nodes(most: int) -> RowFilter:
    """Return the filter for the first nodes of segments."""
    return RowFilterChain(filters=[FamilyNameRegexFilter(FAMILY), CellsRowLimitFilter(most)])


def segment_nodes_of(parts: Sequence[AnyCells], where: str) -> dict[int, Ids]:
    """Return nodes by segment. Raises StoreError, naming ``where``."""
    found: dict[int, Ids] = {}
    for part in parts:
        wrong = [i for i, value in enumerate(part.values) if len(value) != 8]
        if wrong:
            size = len(part.values[wrong[0]])
            raise StoreError(f"{where}: segment {part.ids[wrong[0]]}: a node has {size} bytes, expected 8")
        nodes = from_bytes(b"".join(part.values))
        segments, first = np.unique(part.ids, return_index=True)
        found |= dict(zip(segments.tolist(), np.split(nodes, first)[1:], strict=True))
    return found
