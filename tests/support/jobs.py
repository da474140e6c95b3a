"""Helpers of the tests: recordings, data sets files, jobs run in this process."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from beam_jobs.ingest import main as ingest_main
from l2features.core.rows import Rows
from l2features.store.base import Store
from l2features.testing.emulators import Emulator, free_port

ROOT = Path(__file__).resolve().parents[2]
SHARED_VARIABLE = "L2FEATURES_SHARED"
MANY = (12, 10, 6)


def shared_folder() -> Path:
    return Path(os.environ.get(SHARED_VARIABLE, ROOT.parent / "shared"))


def need_program(path: str | None, how_to_get_it: str) -> None:
    """Skip the test, or fail it in CI, where a program is not installed."""
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(how_to_get_it)
        pytest.skip(how_to_get_it)


def running(emulator: Emulator) -> Iterator[Any]:
    """Name a running emulator in the environment of the tests, and stop it after them."""
    before = os.environ.get(emulator.variable)
    os.environ[emulator.variable] = emulator.host
    yield emulator
    if before is None:
        del os.environ[emulator.variable]
    else:
        os.environ[emulator.variable] = before
    emulator.stop()


def load_module(path: Path) -> Any:
    """A Python file from outside the packages, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Recordings:
    """The recorded tables, restored in an emulator, and a server for their graphs."""

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
    """A data sets file with one data set, ``sample``, whose store is a SQLite file in ``folder``."""
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


def own_copy(config: Path, folder: Path) -> Path:
    """A copy of a data sets file and its SQLite store in a folder of its own, where it may be written to."""
    shutil.copy(config.parent / "l2cache.db", folder)
    copy = folder / "datasets.yml"
    copy.write_text(config.read_text().replace(str(config.parent), str(folder)))
    return copy


class Ran(NamedTuple):
    """What a command left: its exit status and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run_job(main: Callable[[list[str]], int], *argv: object) -> Ran:
    """The command of a job, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main([str(a) for a in argv])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())


def run_ingest(config: Path, *flags: str, dataset: str = "sample") -> Ran:
    """The ingest command; its workers are processes of their own, one unless the flags say otherwise."""
    return run_job(ingest_main, "--config", config, "--dataset", dataset, "--workers", 1, *flags)


def all_rows(store: Store) -> Rows:
    """Every row of a table, by scanning its chunks."""
    meta = store.meta()
    assert meta
    assert meta.geometry
    geometry, parts = meta.geometry, []
    for xyz in np.ndindex(*geometry.grid):
        chunk_id = geometry.layout.chunk_id(*xyz)
        parts.append(store.scan_chunk(chunk_id, geometry.layout.last_id(chunk_id)))
    return Rows(np.concatenate([p.features for p in parts]), np.concatenate([p.present for p in parts]))
