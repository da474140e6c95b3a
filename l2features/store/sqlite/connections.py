"""A pool of connections to a SQLite file, each used by one thread at a time.

`sqlite3.connect` alone is not enough: the file may be created, deleted or replaced at any time, the file's
folder may be read-only, and SQLite's locks do not survive a fork.

* One `stat` decides whether the file exists. Unless the call creates the file, a file that appears after the
  `stat` counts as missing.
* A pooled connection is reused only while the path still names the file that the connection opened; SQLite
  would continue with the deleted file. While a file is replaced, connections to the old and the new file may
  briefly share a log. SQLite then reports IOERR, and the call is retried for `SETTLE_S`.
* In a read-only folder, SQLite cannot create the log (``-wal``, ``-shm``) that it needs in WAL mode. So a
  file without a log is opened with ``immutable=1``, which SQLite documents for this case
  (https://sqlite.org/wal.html#readonly). A result is valid only if the file did not change during the read.
  While a writer creates or removes the log, SQLite reports READONLY or CANTOPEN; the read is retried for
  `SETTLE_S`.
* SQLite counts POSIX locks per process. A child process would inherit the count but not the lock, and another
  process could remove the log that the child uses (https://sqlite.org/howtocorrupt.html, 2.6). Idle
  connections are closed before a fork.
"""

from __future__ import annotations

import os
import sqlite3
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

PROGRESS_STEPS = 20_000
"""Steps of SQLite's virtual machine between checks of the clock: a few hundred microseconds."""
SETTLE_S, PAUSE_S = 0.5, 0.002
"""Seconds for which a call is retried while the file or its log is replaced; pause between two attempts."""
READ_ONLY = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
T = TypeVar("T")


class FileMissing(sqlite3.OperationalError):
    """The file does not exist."""


class _Changed(sqlite3.OperationalError):
    """The file changed or was replaced while it was opened or read."""


class _State(NamedTuple):
    """State of a file by `stat`: its device and inode, its times and size, and whether it is ``frozen``.

    A frozen file has no log (WAL) and no journal, or empty ones.
    """

    file: tuple[int, int] | None
    version: tuple[int, ...]
    frozen: bool


class _Opened(NamedTuple):
    """A connection, and the state of the file before the connection opened it."""

    db: sqlite3.Connection
    state: _State
    immutable: bool
    pid: int
    generation: int

    def discard(self) -> None:
        """Close the connection, unless a parent process opened it: SQLite forbids a child to close it."""
        if self.pid == os.getpid():
            self.db.close()
        else:
            _inherited.append(self)


class Connections:
    """Pool of this process's connections to the file at ``path``. Methods raise sqlite3.Error."""

    def __init__(self, path: Path, deadline_s: float) -> None:
        self.path, self.deadline_s = path, deadline_s
        self._idle: deque[_Opened] = deque()
        self._generation = 0
        _live.add(self)

    @contextmanager
    def transaction(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """Enter a write transaction, which is committed at the end, or rolled back after an error.

        A missing file is created with ``create``; without it, FileMissing is raised.
        """

        def begin() -> _Opened:
            opened = self._taken(to_write=True) or self._open(create, to_write=True)
            with _closed_on_error(opened.db):
                opened.db.execute("BEGIN IMMEDIATE")
            return opened

        opened = self._until_settled(begin, (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR))
        try:
            with opened.db:
                yield opened.db
        finally:
            self._return(opened)

    def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of ``query``, which may run more than once.

        Interrupts the query after ``deadline_s``. Raises FileMissing if the file is missing.
        """
        until = time.monotonic() + self.deadline_s

        def run() -> T:
            opened = self._taken() or self._open()
            with _closed_on_error(opened.db):
                opened.db.set_progress_handler(lambda: time.monotonic() > until, PROGRESS_STEPS)
                try:
                    found = query(opened.db)
                except sqlite3.DatabaseError as error:
                    self._check(opened.state, opened.immutable, error)
                    raise
                opened.db.set_progress_handler(None, 0)
                if opened.immutable:
                    self._check(opened.state, immutable=True)
            self._return(opened)
            return found

        return self._until_settled(run, (*READ_ONLY, sqlite3.SQLITE_IOERR))

    def close(self) -> None:
        """Close idle connections now, and connections in use when they are returned."""
        self._generation += 1
        self._drain()

    def _drain(self) -> None:
        with suppress(IndexError):
            while True:
                self._idle.pop().discard()

    def _taken(self, to_write: bool = False) -> _Opened | None:
        """Return an idle connection to the path's current file, never immutable if ``to_write``; or None."""
        with suppress(IndexError):
            while True:
                opened = self._idle.pop()
                usable = opened.generation == self._generation and not (to_write and opened.immutable)
                if usable and self._is_current(opened.state, opened.immutable):
                    return opened
                opened.discard()
        return None

    def _return(self, opened: _Opened) -> None:
        """Put a connection into the pool; close it if `close` was called since the connection was opened."""
        self._idle.append(opened)
        if opened.generation != self._generation:
            self._drain()

    def _until_settled(self, attempt: Callable[[], T], retry: tuple[int, ...]) -> T:
        """Retry ``attempt`` while the file or its log is replaced, for `SETTLE_S` from the first failure.

        ``retry`` lists SQLite's result codes that are retried.
        """
        until = None
        while True:
            try:
                return attempt()
            except sqlite3.OperationalError as error:
                until = until or time.monotonic() + min(SETTLE_S, self.deadline_s)
                settling = isinstance(error, _Changed) or (error_code(error) in retry and self.path.is_file())
                if not settling or time.monotonic() > until:
                    raise
            time.sleep(PAUSE_S)

    def _check(self, state: _State, immutable: bool = False, error: BaseException | None = None) -> None:
        """Raise _Changed if the path names another file, or if a file opened as immutable has changed."""
        if not self._is_current(state, immutable):
            raise _Changed("the file changed or was replaced while it was opened or read") from error

    def _is_current(self, state: _State, immutable: bool) -> bool:
        return self._state() == state if immutable else _file(_stat(self.path)) == state.file

    def _open(self, create: bool = False, to_write: bool = False) -> _Opened:
        """Open the file that the path names.

        Raises FileMissing if the file is missing, and _Changed if another file replaced it meanwhile.
        """
        generation, state = self._generation, self._state()
        if state is None and create:
            self._connect_in_wal("mode=rwc").close()
            state = self._state()
        if state is None:
            raise FileMissing(f"file {self.path} does not exist")
        try:
            db, immutable = self._connect_in_wal("mode=rw"), False
        except sqlite3.DatabaseError as error:
            self._check(state, error=error)
            if to_write or error_code(error) not in READ_ONLY or not state.frozen:
                raise
            db, immutable = self._connect("mode=ro&immutable=1"), True
        with _closed_on_error(db):
            self._check(state)
        return _Opened(db, state, immutable, os.getpid(), generation)

    def _connect_in_wal(self, options: str) -> sqlite3.Connection:
        db, until = self._connect(options), time.monotonic() + self.deadline_s
        with _closed_on_error(db):
            while not _uses_wal(db, until):
                time.sleep(0.01)
            db.execute("PRAGMA synchronous = FULL")
        return db

    def _connect(self, options: str) -> sqlite3.Connection:
        uri = f"{self.path.as_uri()}?{options}"
        return sqlite3.connect(uri, timeout=self.deadline_s, uri=True, check_same_thread=False)

    def _state(self) -> _State | None:
        """Return the state of the file; None if the file is missing.

        The log is examined before the file, because writers remove the log last.
        """
        logs = [_stat(f"{self.path}{suffix}") for suffix in ("-wal", "-journal")]
        stat = _stat(self.path)
        if stat is None:
            return None
        version = stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size
        return _State(_file(stat), version, not any(log and log.st_size for log in logs))


def error_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code of an error."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _stat(path: Path | str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _file(stat: os.stat_result | None) -> tuple[int, int] | None:
    return stat and (stat.st_dev, stat.st_ino)


@contextmanager
def _closed_on_error(db: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        db.close()
        raise


def _uses_wal(db: sqlite3.Connection, until: float) -> bool:
    """Switch a connection to WAL mode; return False if another process is busy and the caller should retry.

    This is the only step in which SQLite does not wait for other processes.
    """
    try:
        db.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
            raise
        return False
    return True


_live: weakref.WeakSet[Connections] = weakref.WeakSet()
_inherited: list[_Opened] = []
"""Connections of the parent process that were in use at a fork."""


def _close_idle() -> None:
    for connections in list(_live):
        connections.close()


os.register_at_fork(before=_close_idle)
