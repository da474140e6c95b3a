"""Open attempts at a chunk, as SQLite keeps them: in a table of their own, made when it is needed."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

_TABLE = """
CREATE TABLE IF NOT EXISTS "{name}.attempts" (
    chunk INTEGER NOT NULL, work TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (chunk, work)
) WITHOUT ROWID
"""
_COUNT = """
INSERT INTO "{name}.attempts" VALUES (?, ?, 1)
ON CONFLICT (chunk, work) DO UPDATE SET count = count + 1 RETURNING count
"""
_CLEAR = 'DELETE FROM "{name}.attempts" WHERE chunk = ? AND work = ?'


def count_attempts(db: sqlite3.Connection, name: str, chunk: int, works: Sequence[str]) -> list[int]:
    """Add one attempt to each work on a chunk; returns how many are open. ``chunk`` is the signed id."""
    db.execute(_TABLE.format(name=name))
    query = _COUNT.format(name=name)
    return [int(db.execute(query, (chunk, work)).fetchone()[0]) for work in works]


def clear_attempts(db: sqlite3.Connection, name: str, chunk: int, works: Sequence[str]) -> None:
    """Forget the attempts at these works on a chunk, if there are any."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (f"{name}.attempts",)).fetchone():
        db.executemany(_CLEAR.format(name=name), [(chunk, work) for work in works])
