"""Helpers for recordings, data sets files, and jobs run in this process."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from l2features.core.rows import Rows
from l2features.local import pool, worker
from l2features.store.base import Store
from l2features.testing.emulators import Emulator, free_port

ROOT = Path(__file__).resolve().parents[2]
SHARED_VARIABLE = "L2FEATURES_SHARED"
MANY = (12, 10, 3)


def shared_folder() -> Path:
    return Path(os.environ.get(SHARED_VARIABLE, ROOT.parent / "shared"))


def need_program(path: str | None, how_to_get_it: str) -> None:
    """Skip the test, or fail it in CI, if a program or other file is missing (``path`` is None)."""
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(how_to_get_it)
        pytest.skip(how_to_get_it)


def running(emulator: Emulator) -> Iterator[Any]:
    """Set the environment variable of a running emulator, and stop the emulator after the tests."""
    before = os.environ.get(emulator.variable)
    os.environ[emulator.variable] = emulator.host
    yield emulator
    if before is None:
        del os.environ[emulator.variable]
    else:
        os.environ[emulator.variable] = before
    emulator.stop()


def load_module(path: Path) -> Any:
    """Load a Python file from outside the packages as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Recordings:
    """The folder of recorded files, and the port of the server that serves the recorded graphs."""

    def __init__(self, folder: Path, layers: Path) -> None:
        self.folder, self.layers = folder, layers
        self.graphene_port = free_port()
        self.loader = load_module(folder / "load_tables.py")

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    def dump(self, name: str) -> Any:
        with gzip.open(self.folder / name, "rt") as f:
            return json.load(f)

    def cv_path(self, graph: str) -> str:
        return f"graphene://http://127.0.0.1:{self.graphene_port}/segmentation/table/{graph}"


def dataset_file(folder: Path, segmentation: Path | str, **keys: Any) -> Path:
    """Write a data sets file with one data set, ``sample``, by default with a SQLite store in ``folder``."""
    cv_path = segmentation if isinstance(segmentation, str) else f"precomputed://file://{segmentation}"
    entry = {
        "cv_path": cv_path,
        "l2cache_id": "l2cache_sample",
        "graph": "flat",
        "chunk_size": [32, 32, 16],
        "store": f"sqlite://{folder}/l2cache.db",
        **keys,
    }
    path = folder / "datasets.yml"
    path.write_text(json.dumps({"sample": {k: v for k, v in entry.items() if v is not None}}))
    return path


def write_protect(database: Path) -> None:
    """Make a SQLite store read-only by triggers; `own_copy` makes a writable copy."""
    with closing(sqlite3.connect(database)) as db:
        for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for change in ("INSERT", "UPDATE", "DELETE"):
                db.execute(
                    f'CREATE TRIGGER "{table} {change}" BEFORE {change} ON "{table}" '
                    "BEGIN SELECT RAISE(ABORT, 'this table is for reading only: write to an own copy'); END"
                )
        db.commit()


def own_copy(config: Path, folder: Path) -> Path:
    """Copy a data sets file and its SQLite store to ``folder``, and make the copy writable."""
    names = (config.parent / "l2cache.db", folder / "l2cache.db")
    with closing(sqlite3.connect(names[0])) as source, closing(sqlite3.connect(names[1])) as target:
        source.backup(target)
        for (name,) in target.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            target.execute(f'DROP TRIGGER "{name}"')
        target.commit()
    copy = folder / "datasets.yml"
    copy.write_text(config.read_text().replace(str(config.parent), str(folder)))
    return copy


class Ran(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class WorkerHere:
    """A worker that runs its tasks in this process, because a new process takes seconds to start."""

    def __init__(self) -> None:
        worker._shared["progress"] = SimpleNamespace(value=0.0)
        self.future: Future[tuple[Any, str]] | None = None
        self.work: Any = None
        self.is_over = True

    def schedule(self, task: Callable[..., Any], *arguments: object, work: Any = None) -> None:
        self.work, self.future = work, Future()
        self.future.set_result(worker._attempt(task, *arguments))

    def result(self) -> tuple[Any, str]:
        future, self.future = self.future, None
        assert future
        return future.result()

    def end_overdue(self, timeout_s: float) -> None:
        """Do nothing: each task is over when `schedule` returns."""

    def kill(self) -> None:
        """Do nothing: there is no process."""

    def close(self) -> None:
        """Drop what the tasks have opened."""
        pool._opened.clear()


def run_job(main: Callable[[list[str]], int], *argv: object, processes: bool = False) -> Ran:
    """Run a job's command in this process, and its workers too unless ``processes`` is true."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        if not processes:
            patch.setattr(pool, "Worker", WorkerHere)
        try:
            code = main([str(a) for a in argv])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())


def all_rows(store: Store) -> Rows:
    meta = store.meta()
    assert meta
    assert meta.geometry
    geometry, parts = meta.geometry, []
    for xyz in np.ndindex(*geometry.grid):
        chunk_id = geometry.layout.chunk_id(*xyz)
        parts.append(store.scan_chunk(chunk_id, geometry.layout.last_id(chunk_id)))
    return Rows(np.concatenate([p.features for p in parts]), np.concatenate([p.present for p in parts]))
