"""Tests of processes and threads that open, read, write and close one SQLite file at once."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.sqlite_rounds import SCENARIOS, run_rounds
from l2features.core.errors import StoreError, TableNotFound
from l2features.store.base import open_store
from l2features.store.sqlite.connections import SETTLE_S, Connections, FileMissing
from l2features.testing.stores import FIRST, META, features_of
from l2features.testing.unprivileged import readable_folder, unprivileged

ROUNDS = 200


@pytest.fixture
def folder() -> Iterator[Path]:
    with readable_folder() as path:
        yield path


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_rounds_of_open_read_close_beside_writers(folder: Path, scenario: str) -> None:
    name, replace = SCENARIOS[scenario]
    path = folder / name
    path.mkdir(mode=0o755)
    problems, writes = run_rounds(path, ROUNDS, replace)
    assert not problems
    assert writes


def test_a_file_that_appears_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is created after it was found missing, and before the error is raised."""
    store = open_store(f"sqlite://{tmp_path}/store.db", "t")
    looked = Connections._state

    def appears(self: Connections) -> object:
        found = looked(self)
        with closing(open_store(store.url, "t")) as other:
            monkeypatch.undo()
            other.create(META)
        return found

    monkeypatch.setattr(Connections, "_state", appears)
    with pytest.raises(TableNotFound, match="there is no file"):
        store.ping()
    store.ping()
    store.close()


def test_a_file_that_disappears_and_returns_while_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"sqlite://{tmp_path}/store.db", "t")
    store.create(META)
    store.write(features_of([FIRST]))
    store.close()
    connect = Connections._connect

    def after_a_while(self: Connections, options: str) -> sqlite3.Connection:
        monkeypatch.undo()
        (tmp_path / "store.db").rename(tmp_path / "away.db")
        try:
            return connect(self, options)
        finally:
            (tmp_path / "away.db").rename(tmp_path / "store.db")

    monkeypatch.setattr(Connections, "_connect", after_a_while)
    assert store.read([FIRST]).found.all()
    store.close()


def test_a_file_that_is_deleted_and_recreated(tmp_path: Path) -> None:
    store, other = (open_store(f"sqlite://{tmp_path}/store.db", "t") for _ in range(2))
    store.create(META)
    store.write(features_of([FIRST]))
    other.ping()
    for path in tmp_path.iterdir():
        path.unlink()
    for use in (store.ping, lambda: store.write(features_of([FIRST]))):
        with pytest.raises(TableNotFound, match="there is no file"):
            use()
    other.create(META)
    assert store.read([FIRST]).found.tolist() == [False]
    store.write(features_of([FIRST + 1]))
    assert other.read([FIRST, FIRST + 1]).found.tolist() == [False, True]
    store.close()
    other.close()


def test_closing_beside_threads_that_read(tmp_path: Path) -> None:
    store = open_store(f"sqlite://{tmp_path}/store.db", "t")
    store.create(META)
    store.write(features_of([FIRST]))
    until = time.monotonic() + 1

    def use(number: int) -> int:
        count = 0
        while time.monotonic() < until:
            assert store.read([FIRST]).found.all()
            count += 1
            if count % 3 == number:
                store.close()
        return count

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(4)))
    store.close()


FORK = '''
import os, subprocess, sys
from l2features.store import open_store
from l2features.testing.stores import FIRST, features_of
store = open_store(sys.argv[1], "t")
store.ping()
down, up = os.pipe(), os.pipe()
if not os.fork():
    store.ping()
    os.write(up[1], b"x")
    os.read(down[0], 1)
    os._exit(0)
os.read(up[0], 1)
store.close()
another = """
import sys
from l2features.store import open_store
store = open_store(sys.argv[1], "t")
store.ping()
store.close()
"""
subprocess.run([sys.executable, "-c", another, sys.argv[1]], check=True)
print(os.path.exists(sys.argv[1].removeprefix("sqlite://") + "-wal"))
os.write(down[1], b"x")
os.wait()
'''


def test_a_child_process_takes_its_own_locks(tmp_path: Path) -> None:
    """If the child held no locks, another process that closes the file would delete the write-ahead log."""
    url = f"sqlite://{tmp_path}/store.db"
    with closing(open_store(url, "t")) as store:
        store.create(META)
    command = [sys.executable, "-W", "ignore", "-c", FORK, url]
    root = Path(__file__).parents[2]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=root)
    assert (ran.returncode, ran.stdout) == (0, "True\n"), ran.stderr


def test_a_log_that_cannot_be_applied_fails_soon(folder: Path) -> None:
    """A killed writer leaves a write-ahead log. SQLite can apply it only in a writable folder."""
    path = folder / "store.db"
    writer = open_store(f"sqlite://{path}", "t")
    writer.create(META)
    writer.write(features_of([FIRST]))
    for name in ("store.db", "store.db-wal"):
        (folder / "left").mkdir(exist_ok=True)
        (folder / "left" / name).write_bytes((folder / name).read_bytes())
    (folder / "left").chmod(0o555)
    writer.close()
    with closing(open_store(f"sqlite://{folder}/left/store.db", "t")) as reader, unprivileged():
        start = time.monotonic()
        with pytest.raises(StoreError, match=r"the log .*store\.db-wal cannot be applied"):
            reader.read([FIRST])
        assert SETTLE_S <= time.monotonic() - start < SETTLE_S + 5


def test_a_read_is_repeated_when_the_file_changes_under_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite locks no file opened as immutable, so a read could mix two states of the file."""
    path = folder / "store.db"
    writer = open_store(f"sqlite://{path}", "t")
    writer.create(META)
    writer.close()
    connections, calls = Connections(path, 5.0), []

    def query(db: sqlite3.Connection) -> int:
        calls.append(db)
        found: int = db.execute('SELECT COUNT(*) FROM "t.nodes"').fetchone()[0]
        if len(calls) == 1:
            command = [sys.executable, "-c", WRITE, f"sqlite://{path}"]
            subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
        return found

    def read_only(self: Connections, options: str) -> sqlite3.Connection:
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        raise error

    monkeypatch.setattr(Connections, "_connect_in_wal", read_only)
    assert connections.read(query) == 1
    assert len(calls) == 2
    connections.close()


WRITE = """
import sys
from l2features.store import open_store
from l2features.testing.stores import FIRST, features_of
store = open_store(sys.argv[1], "t")
store.write(features_of([FIRST]))
store.close()
"""


def test_a_missing_file_is_an_error_at_once(tmp_path: Path) -> None:
    connections, start = Connections(tmp_path / "none.db", 5.0), time.monotonic()
    with pytest.raises(FileMissing):
        connections.read(lambda db: None)
    with pytest.raises(FileMissing), connections.transaction():
        pass
    assert time.monotonic() - start < SETTLE_S
