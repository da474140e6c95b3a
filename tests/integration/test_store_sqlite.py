"""Tests of what is specific to the SQLite store."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from l2features.core.errors import StoreError, TableExists, TableNotFound
from l2features.store.base import Meta, open_store
from l2features.testing.stores import CHUNK, FIRST, GEOMETRY, LAYOUT, META, META_REST, features_of
from l2features.testing.unprivileged import readable_folder, unprivileged
from tests.support.jobs import need_program
from tests.support.operations import WRITTEN


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("not a database, but long enough to look like one\n" * 100)
    store = open_store(f"sqlite://{path}", "t")
    for use in (store.meta, lambda: store.create(META), lambda: store.read([1])):
        with pytest.raises(StoreError, match=r"text\.db: file is not a database"):
            use()
    assert path.read_text().startswith("not a database")


def test_unusable_folders(tmp_path: Path) -> None:
    store = open_store(f"sqlite://{tmp_path}/none/store.db", "t")
    with pytest.raises(StoreError, match=f"there is no folder {tmp_path}/none"):
        store.create(META)
    with pytest.raises(TableNotFound, match=r"table t not found: there is no file .*none/store\.db"):
        store.meta()
    assert not (tmp_path / "none").exists()
    with pytest.raises(StoreError, match="unable to open database file"):
        open_store(f"sqlite://{tmp_path}", "t").create(META)


def test_reading_makes_no_file(tmp_path: Path) -> None:
    store = open_store(f"sqlite://{tmp_path}/store.db", "t")
    for use in (store.meta, lambda: store.read([1]), lambda: store.write(features_of([1]))):
        with pytest.raises(TableNotFound, match="there is no file"):
            use()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["with space", "a#b?c%20d", "ü"])
def test_files_of_any_name(tmp_path: Path, name: str) -> None:
    store = open_store(f"sqlite://{tmp_path}/{name}.db", "t")
    store.create(META)
    assert (tmp_path / f"{name}.db").exists()
    assert store.meta() == META
    store.close()


def test_table_names_that_differ_in_case_only(tmp_path: Path) -> None:
    lower, upper = (open_store(f"sqlite://{tmp_path}/store.db", name) for name in ("l2_a", "L2_A"))
    lower.create(META)
    with pytest.raises(TableExists):
        upper.create(Meta("other", *META_REST))
    lower.close()
    upper.close()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(f"sqlite://{tmp_path}/store.db", "t")
    store.create(META)
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute(
            f'CREATE TRIGGER full BEFORE INSERT ON "t.nodes" WHEN NEW.id = {FIRST + 5} '
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
    db.close()
    with pytest.raises(StoreError, match=r"store\.db: disk full"):
        store.write(features_of([FIRST + i for i in range(10)]))
    assert len(store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK))) == 0
    store.close()


WRITER = """
import sys
import threading
from l2features.store import open_store
from l2features.store import DONE, ChunkRecord
from l2features.testing.stores import FIRST, LAYOUT, META, T0, features_of
url, worker, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store = open_store(url, "t")
store.create(META)
for i in range(rounds):
    chunk = LAYOUT.chunk_id(worker, i, 0)
    store.write(features_of([chunk + 1 + n for n in range(200)], seed=i))
    store.put_chunk(ChunkRecord(chunk, DONE, T0, nodes=200))
"""
READER = """
import sys
import threading
from l2features.store import open_store
from l2features.core.errors import TableNotFound
from l2features.testing.stores import LAYOUT
store, seen = open_store(sys.argv[1], "t"), set()
while len(seen) < int(sys.argv[2]):
    try:
        done = {record.chunk_id for record in store.chunk_records()}
    except TableNotFound:
        continue
    assert seen <= done, "a done chunk went away"
    for chunk in done - seen:
        rows = store.scan_chunk(chunk, LAYOUT.last_id(chunk))
        assert len(rows) == 200, f"a done chunk with {len(rows)} rows"
    seen = done
"""


def test_processes_that_write_and_read_at_once(tmp_path: Path) -> None:
    url, workers, rounds = f"sqlite://{tmp_path}/store.db", 3, 10
    scripts: list[tuple[str, ...]] = [(WRITER, str(worker), str(rounds)) for worker in range(workers)]
    scripts += [(READER, str(workers * rounds))] * 2
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, url, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for script, *arguments in scripts
    ]
    try:
        errors = [process.communicate(timeout=60)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), errors
    store = open_store(url, "t")
    for worker, i in itertools.product(range(workers), range(rounds)):
        chunk = LAYOUT.chunk_id(worker, i, 0)
        expected = features_of([chunk + 1 + n for n in range(200)], seed=i)
        assert store.scan_chunk(chunk, LAYOUT.last_id(chunk)).features.tobytes() == expected.tobytes()
    store.close()
    with sqlite3.connect(tmp_path / "store.db") as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


CREATORS = """
import multiprocessing, sys
from l2features.store import open_store
from l2features.testing.stores import META
def create(url, barrier, errors):
    barrier.wait()
    try:
        open_store(url, "t").create(META)
    except Exception as error:
        errors.put(repr(error))
context = multiprocessing.get_context("fork")
for i in range(30):
    barrier, errors = context.Barrier(5), context.SimpleQueue()
    arguments = (f"sqlite://{sys.argv[1]}/{i}.db", barrier, errors)
    processes = [context.Process(target=create, args=arguments) for _ in range(5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert errors.empty(), errors.get()
"""


def test_processes_that_create_the_same_file_at_once(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", CREATORS, str(tmp_path)],
        check=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert len(list(tmp_path.glob("*.db"))) == 30


@pytest.fixture
def open_folder() -> Iterator[Path]:
    with readable_folder() as path:
        yield path


def test_reading_in_a_read_only_folder(open_folder: Path) -> None:
    writer = open_store(f"sqlite://{open_folder}/store.db", "t")
    writer.create(META)
    writer.write(features_of([FIRST]))
    writer.close()
    reader = open_store(f"sqlite://{open_folder}/store.db", "t")
    open_folder.chmod(0o555)
    (open_folder / "store.db").chmod(0o444)
    with unprivileged():
        assert reader.read([FIRST, FIRST + 1]).found.tolist() == [True, False]
        assert reader.meta() == META
        with pytest.raises(StoreError, match="readonly database"):
            reader.write(features_of([FIRST]))
    open_folder.chmod(0o755)
    (open_folder / "store.db").chmod(0o644)
    writer.write(features_of([FIRST + 1]))
    writer.close()
    assert reader.read([FIRST, FIRST + 1]).found.tolist() == [True, True]
    reader.close()


def test_a_deleted_file_in_a_read_only_folder(open_folder: Path) -> None:
    writer = open_store(f"sqlite://{open_folder}/store.db", "t")
    writer.create(META)
    writer.close()
    reader = open_store(writer.url, "t")
    open_folder.chmod(0o555)
    with unprivileged():
        reader.ping()
    open_folder.chmod(0o755)
    (open_folder / "store.db").unlink()
    with pytest.raises(TableNotFound, match="there is no file"):
        reader.ping()


def test_a_table_without_meta(tmp_path: Path) -> None:
    store = open_store(f"sqlite://{tmp_path}/store.db", "t")
    store.create(META)
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute("DELETE FROM tables")
    db.close()
    assert (store.meta(), store.geometry()) == (None, None)
    store.put_geometry(GEOMETRY)
    assert (store.meta(), store.geometry()) == (None, GEOMETRY)
    store.create(Meta(META.graph_id, META.cv_path, META.timestamp))
    assert store.meta() == META
    store.close()


def test_threads_that_come_and_go_leave_no_open_file(tmp_path: Path) -> None:
    store = open_store(f"sqlite://{tmp_path}/store.db", "t")
    store.create(META)
    store.write(features_of([FIRST]))
    process, counts = psutil.Process(), []
    for _ in range(20):
        thread = threading.Thread(target=lambda: store.read([FIRST]))
        thread.start()
        thread.join()
        counts.append(process.num_fds())
    assert counts[-1] == counts[0]
    before = process.num_fds()
    store.close()
    assert process.num_fds() < before
    assert store.read([FIRST]).found.all()
    store.close()


WRITE_AND_DIE = """
import os, sys
from l2features.store.base import open_store
from l2features.testing.stores import features_of
open_store(sys.argv[1], "t").write(features_of([int(sys.argv[2])]))
os._exit(9)
"""


def test_backup_and_restore_as_the_page_says(tmp_path: Path) -> None:
    """Use an open store and a killed writer's write-ahead log. Rows written after the backup are gone."""
    need_program(shutil.which("sqlite3"), "sqlite3 is not installed: apt-get install sqlite3")
    backup, restore = re.findall(r"`(sqlite3 l2cache\.db [^`]+)`", WRITTEN)
    url = f"sqlite://{tmp_path}/l2cache.db"
    store = open_store(url, "t")
    store.create(META)

    def write_and_die(node: int) -> None:
        died = subprocess.run([sys.executable, "-c", WRITE_AND_DIE, url, str(node)], check=False)
        assert died.returncode == 9

    def run(command: str) -> None:
        ran = subprocess.run(shlex.split(command), cwd=tmp_path, capture_output=True, text=True, check=True)
        assert (ran.stdout, ran.stderr) == ("", "")

    write_and_die(FIRST)
    run(backup)
    assert (tmp_path / "l2cache.db-wal").stat().st_size
    write_and_die(FIRST + 1)
    with sqlite3.connect(tmp_path / "l2cache.db") as db:
        db.execute('DROP TABLE "t.nodes"')
    db.close()
    run(restore)
    assert store.meta() == META
    assert store.read([FIRST, FIRST + 1]).found.tolist() == [True, False]
    store.write(features_of([FIRST + 1]))
    assert store.read([FIRST + 1]).found.all()
    store.close()
