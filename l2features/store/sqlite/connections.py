"""Connections to a SQLite file, each used by one thread at a time.

Why this is more than `sqlite3.connect`: the file may be created, deleted or replaced at any time; its folder
may be read-only; and SQLite's locks do not survive a fork.

* A file that appears between two looks is not an error. Whether it exists is decided once, by one `stat`.
* A pooled connection is reused only while the path still names the file that it has open. SQLite itself
  would go on with the deleted one. While a file is replaced, connections to the old and the new one may
  share a log for a moment: SQLite reports IOERR, and the read is repeated for `SETTLE_S`.
* Where the folder is read-only, SQLite cannot make the log (``-wal``, ``-shm``) that it needs to read a file
  in WAL mode, so a file without a log is opened with ``immutable=1``, which SQLite documents for this case
  (https://sqlite.org/wal.html#readonly). A result counts only if the file did not change meanwhile. While a
  writer makes or removes the log, SQLite reports READONLY or CANTOPEN; such a read is repeated for
  `SETTLE_S`.
* SQLite counts POSIX locks per process. A child would inherit the count but not the lock, and another
  process could remove the log under it (https://sqlite.org/howtocorrupt.html, 2.6). Idle connections are
  closed before a fork.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

PROGRESS_STEPS = 20_000
"""Steps of SQLite's machine between two looks at the clock: a few hundred microseconds."""
SETTLE_S, PAUSE_S = 0.5, 0.002
"""How long a read is repeated while a writer makes or removes the log, and the pause between two attempts."""
_READ_ONLY = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
_IN_TRANSITION = (*_READ_ONLY, sqlite3.SQLITE_IOERR)
T = TypeVar("T")


class FileMissing(sqlite3.OperationalError):
    """The file does not exist."""


class _Changed(sqlite3.OperationalError):
    """The file changed or was replaced while it was opened or read."""


class _State(NamedTuple):
    """A file as `stat` shows it; ``frozen`` if it has no log or journal with content."""

    file: tuple[int, int]
    version: tuple[int, ...]
    frozen: bool


class _Opened(NamedTuple):
    """A connection and the file that it has open.

    ``state`` is set where the connection assumes that the file does not change.
    """

    db: sqlite3.Connection
    file: tuple[int, int]
    state: _State | None
    pid: int
    generation: int


class Connections:
    """This process's connections to the file at ``path``. Methods raise sqlite3.Error."""

    def __init__(self, path: Path, deadline_s: float) -> None:
        self.path, self.deadline_s = path, deadline_s
        self._lock = threading.Lock()
        self._idle: list[_Opened] = []
        self._generation = 0
        _live.add(self)

    @contextmanager
    def transaction(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection within a write transaction, which is committed at the end or rolled back.

        With ``create``, make the file if it is missing. Raises FileMissing.
        """
        opened = self._until_settled(
            lambda: self._begun(create), retry=(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR)
        )
        try:
            with opened.db:
                yield opened.db
        finally:
            self._return(opened)

    def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of ``query``, which may run more than once; it is interrupted at the deadline.

        Raises FileMissing.
        """
        until = time.monotonic() + self.deadline_s
        return self._until_settled(lambda: self._read(query, until), retry=_IN_TRANSITION)

    def close(self) -> None:
        """Close idle connections now, and the others when they are returned."""
        with self._lock:
            idle = self._emptied()
        for opened in idle:
            opened.db.close()

    def _emptied(self) -> list[_Opened]:
        """Take all idle connections out of the pool. The lock is held."""
        idle, self._idle = self._idle, []
        self._generation += 1
        return idle

    def _taken(self, to_write: bool = False) -> _Opened | None:
        """An idle connection to the file that the path names now, if there is one."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                opened = self._idle.pop()
            if opened.state is None:
                if opened.file == self._file():
                    return opened
            elif not to_write and opened.state == self._state():
                return opened
            opened.db.close()

    def _begun(self, create: bool) -> _Opened:
        """A connection that has begun a write transaction."""
        opened = self._taken(to_write=True) or self._open(create, to_write=True)
        with _closed_on_error(opened.db):
            opened.db.execute("BEGIN IMMEDIATE")
        return opened

    def _return(self, opened: _Opened) -> None:
        """Put a connection into the pool, or close it where the pool was closed meanwhile."""
        if opened.pid != os.getpid():
            _inherited.append(opened)
            return
        with self._lock:
            kept = opened.generation == self._generation
            if kept:
                self._idle.append(opened)
        if not kept:
            opened.db.close()

    def _until_settled(self, attempt: Callable[[], T], retry: tuple[int, ...]) -> T:
        """Repeat ``attempt`` while the file changes hands, for `SETTLE_S` from the first failure."""
        until = None
        while True:
            try:
                return attempt()
            except FileMissing:
                raise
            except sqlite3.OperationalError as error:
                code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
                if not isinstance(error, _Changed) and (code not in retry or not self.path.is_file()):
                    raise
                until = until or time.monotonic() + min(SETTLE_S, self.deadline_s)
                if time.monotonic() > until:
                    raise
            time.sleep(PAUSE_S)

    def _read(self, query: Callable[[sqlite3.Connection], T], until: float) -> T:
        opened = self._taken() or self._open(create=False, to_write=False)
        opened.db.set_progress_handler(lambda: time.monotonic() > until, PROGRESS_STEPS)
        try:
            found = query(opened.db)
            opened.db.set_progress_handler(None, 0)
        except BaseException as error:
            opened.db.close()
            if isinstance(error, sqlite3.DatabaseError):
                self._check_in_place(opened.file, error)
                self._check_unchanged(opened, error)
            raise
        if opened.state is not None:
            self._check_unchanged(opened)
        self._return(opened)
        return found

    def _check_unchanged(self, opened: _Opened, error: BaseException | None = None) -> None:
        """Raise _Changed where the connection assumed that the file does not change, and it did."""
        if opened.state is not None and opened.state != self._state():
            opened.db.close()
            raise _Changed("the file changed while it was read") from error

    def _open(self, create: bool, to_write: bool) -> _Opened:
        """Open the file that the path names. Raises FileMissing; _Changed where another takes its place."""
        before = self._state()
        if before is None and create:
            self._connect_in_wal("mode=rwc").close()
            before = self._state()
        if before is None:
            raise FileMissing(f"no file {self.path}")
        generation, state = self._generation, None
        try:
            db = self._connect_in_wal("mode=rw")
        except sqlite3.DatabaseError as error:
            self._check_in_place(before.file, error)
            read_only = error.sqlite_errorcode & 0xFF in _READ_ONLY
            if to_write or not read_only or not before.frozen:
                raise
            db, state = self._connect("mode=ro&immutable=1"), before
        with _closed_on_error(db):
            self._check_in_place(before.file)
        return _Opened(db, before.file, state, os.getpid(), generation)

    def _check_in_place(self, file: tuple[int, int], error: BaseException | None = None) -> None:
        """Raise _Changed where the path no longer names this file."""
        if self._file() != file:
            raise _Changed("the file was replaced while it was opened or read") from error

    def _connect_in_wal(self, options: str) -> sqlite3.Connection:
        db = self._connect(options)
        with _closed_on_error(db):
            _use_wal(db, time.monotonic() + self.deadline_s)
            db.execute("PRAGMA synchronous = FULL")
        return db

    def _connect(self, options: str) -> sqlite3.Connection:
        uri = f"{self.path.as_uri()}?{options}"
        return sqlite3.connect(uri, timeout=self.deadline_s, uri=True, check_same_thread=False)

    def _file(self) -> tuple[int, int] | None:
        """Which file the path names; None if it is missing."""
        try:
            stat = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return stat.st_dev, stat.st_ino

    def _state(self) -> _State | None:
        """The file as it is now; None if it is missing. The log is looked at first, as it is removed last."""
        frozen = not any(self._size(f"{self.path}{suffix}") for suffix in ("-wal", "-journal"))
        try:
            stat = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        version = stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size
        return _State((stat.st_dev, stat.st_ino), version, frozen)

    @staticmethod
    def _size(path: str) -> int:
        with suppress(FileNotFoundError, NotADirectoryError):
            return os.stat(path).st_size
        return 0


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


# ------------------------------------------------------------------ forks
_live: weakref.WeakSet[Connections] = weakref.WeakSet()
_forking: list[Connections] = []
_one_fork = threading.Lock()
_inherited: list[_Opened] = []
"""A parent's connections that were in use at a fork: closing them here would release its locks."""


def _before_fork() -> None:
    """Close what is idle; the locks are held across the fork, so that the child finds them free."""
    _one_fork.acquire()
    _forking[:] = list(_live)
    for connections in _forking:
        connections._lock.acquire()
        for opened in connections._emptied():
            opened.db.close()


def _after_fork() -> None:
    for connections in _forking:
        connections._lock.release()
    _forking.clear()
    _one_fork.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
