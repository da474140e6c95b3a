"""A SQLite file of tables: where its URL points, and SQLite's errors as this project's."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ...core.errors import ConfigError, StoreError, StoreUnavailable, TableNotFound
from .connections import FileMissing

_TEMPORARY = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_INTERRUPT,
)


def path_of(url: str) -> Path:
    """File of ``sqlite:///path/file.db``; a fourth slash is allowed. Raises ConfigError."""
    prefix = "sqlite://"
    path = url[len(prefix) :] if url.startswith(prefix) else ""
    if not path.startswith("/") or path.endswith("/"):
        raise ConfigError(f"store {url!r}: expected sqlite:///path/file.db with an absolute path")
    return Path("/" + path.lstrip("/"))


def store_error(
    error: sqlite3.DatabaseError, url: str, name: str, create: bool = False, reading: bool = False
) -> StoreError:
    """Return the error of table ``name``, transient if another attempt may succeed.

    Args:
        error: what SQLite reported.
        url: the store's URL.
        name: the table.
        create: whether the file was to be made.
        reading: whether the table was only read.
    """
    path, code = path_of(url), getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if isinstance(error, FileMissing):
        return TableNotFound(f"table {name} not found: there is no file {path}")
    if "no such table" in str(error):
        return TableNotFound(f"table {name} not found in {url}")
    log = path.with_name(f"{path.name}-wal")
    if reading and code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN) and log.exists():
        return StoreError(
            f"{url}: its log {log} can only be applied where the folder may be written to: "
            "open the file once with write permission"
        )
    if create and not path.parent.is_dir():
        return StoreError(f"{url}: there is no folder {path.parent}")
    return (StoreUnavailable if code in _TEMPORARY else StoreError)(f"{url}: {error}")
