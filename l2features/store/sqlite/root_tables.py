"""SQL tables for root cells (named values of a root) and the segment index (the node ids of a segment)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

import numpy as np

from ...core.ids import Ids, as_ids, numbered_ids
from ..formats import parse_root_cell, root_cell
from .tables import exists, listed, signed

_ROOTS = """
CREATE TABLE IF NOT EXISTS "{name}.roots" (
    root INTEGER NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (root, name)
)
"""
_SEGMENTS = """
CREATE TABLE IF NOT EXISTS "{name}.segments" (
    segment INTEGER NOT NULL, node INTEGER NOT NULL, PRIMARY KEY (segment, node)
) WITHOUT ROWID
"""


def read_roots(
    db: sqlite3.Connection, name: str, roots: Ids, names: Sequence[str], where: str
) -> dict[int, dict[str, bytes]]:
    """Return values by root and cell name. Raises UnknownFormat for a cell of a newer format."""
    found: dict[int, dict[str, bytes]] = {}
    if exists(db, f"{name}.roots"):
        query = (
            "SELECT roots.root, roots.name, roots.value FROM json_each(?) AS wanted "
            f'CROSS JOIN "{name}.roots" AS roots ON roots.root = wanted.value '
            "WHERE roots.name IN (SELECT value FROM json_each(?))"
        )
        parameters = (listed(np.unique(as_ids(roots))), json.dumps(list(names)))
        for key, cell, value in db.execute(query, parameters):
            root = key % (1 << 64)
            found.setdefault(root, {})[cell] = parse_root_cell(value, root, cell, where)
    return found


def put_roots(db: sqlite3.Connection, name: str, cells: Mapping[int, Mapping[str, bytes]]) -> None:
    """Write values by root and cell name. Raises ValueError for a malformed name or too large a value."""
    db.execute(_ROOTS.format(name=name))
    for root, values in cells.items():
        [key] = signed([root])
        for cell, value in values.items():
            row = (key, cell, root_cell(root, cell, value))
            db.execute(f'INSERT OR REPLACE INTO "{name}.roots" VALUES (?, ?, ?)', row)


def delete_roots(db: sqlite3.Connection, name: str, roots: Ids) -> None:
    """Delete all cells of these roots."""
    if exists(db, f"{name}.roots"):
        keys = [(key,) for key in signed(np.unique(as_ids(roots)))]
        db.executemany(f'DELETE FROM "{name}.roots" WHERE root = ?', keys)


def read_nodes(db: sqlite3.Connection, name: str, segments: Ids, most: int) -> dict[int, Ids]:
    """Return the ``most`` lowest node ids of each segment, in ascending order; leave out unknown segments.

    The order is that of unsigned integers, although SQLite stores ids as signed ones.
    """
    found: dict[int, Ids] = {}
    if exists(db, f"{name}.segments"):
        query = f'SELECT node FROM "{name}.segments" WHERE segment = ? ORDER BY node < 0, node LIMIT ?'
        wanted = np.unique(as_ids(segments))
        for segment, key in zip(wanted.tolist(), signed(wanted), strict=True):
            nodes = [node for (node,) in db.execute(query, (key, most))]
            if nodes:
                found[segment] = np.array(nodes, dtype=np.int64).view(np.uint64)
    return found


def replace_segments(
    db: sqlite3.Connection, name: str, chunk_id: int, segments: Ids | None, earlier: Ids | None
) -> None:
    """Replace a chunk's ``earlier`` segments in the index by ``segments``; None means no segments."""
    before, after = (as_ids([] if ids is None else ids) for ids in (earlier, segments))
    if np.array_equal(before, after):
        return
    db.execute(_SEGMENTS.format(name=name))
    for ids, query in (
        (before, f'DELETE FROM "{name}.segments" WHERE segment = ? AND node = ?'),
        (after, f'INSERT OR IGNORE INTO "{name}.segments" VALUES (?, ?)'),
    ):
        nodes = numbered_ids(chunk_id, len(ids))
        db.executemany(query, zip(signed(ids), signed(nodes), strict=True))
