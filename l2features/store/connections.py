"""Connections to a SQLite file: each for one use at a time, never those of a parent process.

They read where writing is not possible, and end queries at a deadline.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

PROGRESS_STEPS = 20_000
"""Steps of SQLite's machine between two looks at the clock: a few hundred microseconds."""
_READ_ONLY = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
_inherited: list[_Opened] = []
"""Connections of a parent process: closing them here would take its locks away."""


class _Opened(NamedTuple):
    """A connection and, where the file is taken not to change, the state in which it was opened."""

    db: sqlite3.Connection
    frozen: tuple[int, ...] | None


class Connections:
    """Connections of this process to the file at ``path``. Its methods raise sqlite3.Error."""

    def __init__(self, path: Path, deadline_s: float) -> None:
        self.path, self.deadline_s = path, deadline_s
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._idle: list[_Opened] = []

    @contextmanager
    def transaction(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else uses meanwhile; commits at the end, or rolls back."""
        pool = self._pool()
        opened = self._taken(pool) or self._open(create)
        try:
            with opened.db:
                yield opened.db
        finally:
            with self._lock:
                kept = pool is self._idle
                if kept:
                    pool.append(opened)
            if not kept:
                opened.db.close()

    @contextmanager
    def query(self) -> Iterator[sqlite3.Connection]:
        """As `transaction`, with queries that are interrupted at the deadline."""
        until = time.monotonic() + self.deadline_s
        with self.transaction() as db:
            db.set_progress_handler(lambda: time.monotonic() > until, PROGRESS_STEPS)
            try:
                yield db
            finally:
                db.set_progress_handler(None, 0)

    def close(self) -> None:
        """Close what is idle now, and the others when they are no longer used."""
        pool = self._pool()
        with self._lock:
            self._start()
        for opened in pool:
            opened.db.close()

    def _pool(self) -> list[_Opened]:
        """The idle connections of this process."""
        with self._lock:
            if self._pid != os.getpid():
                _inherited.extend(self._idle)
                self._start()
            return self._idle

    def _taken(self, pool: list[_Opened]) -> _Opened | None:
        """An idle connection, if there is one to the file as it is."""
        while True:
            with self._lock:
                if not pool:
                    return None
                opened = pool.pop()
            if opened.frozen is None or opened.frozen == self._state():
                return opened
            opened.db.close()

    def _open(self, create: bool) -> _Opened:
        there = self.path.exists()
        try:
            return self._open_once(create)
        except sqlite3.OperationalError:
            if there or not self.path.exists():
                raise
        return self._open_once(create)  # another process made the file just now

    def _open_once(self, create: bool) -> _Opened:
        try:
            db = self._connect("mode=rwc" if create else "mode=rw")
            with _closed_on_error(db):
                _use_wal(db, time.monotonic() + self.deadline_s)
                db.execute("PRAGMA synchronous = FULL")
            return _Opened(db, None)
        except sqlite3.OperationalError as error:
            read_only = error.sqlite_errorcode & 0xFF in _READ_ONLY and self.path.is_file()
            if create or not read_only or not self._is_frozen():
                raise
            state = self._state()
            return _Opened(self._connect("mode=ro&immutable=1"), state)

    def _connect(self, options: str) -> sqlite3.Connection:
        uri = f"{self.path.as_uri()}?{options}"
        return sqlite3.connect(uri, timeout=self.deadline_s, uri=True, check_same_thread=False)

    @property
    def _log(self) -> Path:
        return self.path.with_name(f"{self.path.name}-wal")

    def _is_frozen(self) -> bool:
        """Whether the file is all there is, and nobody writes: SQLite itself reads a log only where it may
        write beside it."""
        with suppress(FileNotFoundError):
            return self._log.stat().st_size == 0
        return True

    def _state(self) -> tuple[int, ...]:
        """What changes with the file; empty where there is none."""
        with suppress(FileNotFoundError):
            stat = self.path.stat()
            return stat.st_ino, stat.st_mtime_ns, stat.st_size, self._is_frozen()
        return ()


@contextmanager
def _closed_on_error(db: sqlite3.Connection) -> Iterator[None]:
    """Close the connection when this fails."""
    try:
        yield
    except BaseException:
        db.close()
        raise


def _use_wal(db: sqlite3.Connection, until: float) -> None:
    """The one step in which SQLite does not itself wait for other processes that do the same."""
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
