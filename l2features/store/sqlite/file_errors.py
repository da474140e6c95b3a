"""Turn SQLite's errors into StoreErrors."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ...core.errors import MAKE_TABLE, StoreError, StoreUnavailable, TableNotFound
from .connections import READ_ONLY, FileMissing, error_code

_TRANSIENT = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_INTERRUPT,
)


def store_error(
    error: sqlite3.DatabaseError, path: Path, name: str, url: str, create: bool, reading: bool
) -> StoreError:
    """Return the StoreError for an error of SQLite.

    ``create`` says whether the call creates a missing file, ``reading`` whether it only reads.
    """
    code, log = error_code(error), path.with_name(f"{path.name}-wal")
    if isinstance(error, FileMissing):
        return TableNotFound(f"table {name} not found: there is no file {path}; {MAKE_TABLE}")
    if "no such table" in str(error):
        return TableNotFound(f"table {name} not found in {url}; {MAKE_TABLE}")
    if reading and code in READ_ONLY and log.exists():
        return StoreError(
            f"{url}: the log {log} cannot be applied in a read-only folder: "
            "open the file once with write permission"
        )
    if create and not path.parent.is_dir():
        return StoreError(f"{url}: there is no folder {path.parent}: create it")
    return (StoreUnavailable if code in _TRANSIENT else StoreError)(f"{url}: {error}")
