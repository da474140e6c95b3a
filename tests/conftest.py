"""What the tests share: the recordings, an emulator, and the recorded graphs in it."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from beam_jobs.ingest import main as ingest_main
from l2features.core.rows import Rows
from l2features.local.sample.segmentation_files import Sample, make_sample
from l2features.store.base import Store
from tests.emulator import (
    HOW_TO_GET_IT,
    HOW_TO_GET_PUBSUB,
    Emulator,
    PubSubEmulator,
    find_emulator,
    find_pubsub_emulator,
    free_port,
    wait_for_port,
)
from tests.stores import INSTANCE, PROJECT, STORE_URL, bigtable_store, new_store, store

ROOT = Path(__file__).resolve().parent.parent
SHARED_VARIABLE = "L2FEATURES_SHARED"
MANY = (12, 10, 6)
SLOW = (
    "test_chaos",
    "test_stream",
    "test_up",
    "test_portable",
    "test_portable_deaths",
    "test_installed",
    "test_server",
    "test_api_limits",
    "test_api_slow",
    "test_ingest_failures",
)
"""Files of tests that take long."""
__all__ = ["INSTANCE", "PROJECT", "STORE_URL", "bigtable_store", "new_store", "store"]


@pytest.fixture(scope="session", autouse=True)
def _token(tmp_path_factory: pytest.TempPathFactory) -> None:
    """cloud-volume insists on a token for graphene://, even where the server wants none."""
    import cloudvolume.secrets

    folder = tmp_path_factory.mktemp("cloudvolume")
    (folder / "secrets").mkdir()
    (folder / "secrets" / "cave-secret.json").write_text(json.dumps({"token": "0123456789abcdef" * 2}))
    os.environ["CLOUD_VOLUME_DIR"] = str(folder)
    cloudvolume.secrets.CLOUD_VOLUME_DIR = str(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that no process is alone with one at the end."""
    items.sort(key=lambda item: item.path.stem not in SLOW)


def shared_folder() -> Path:
    return Path(os.environ.get(SHARED_VARIABLE, ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Path of a recording; the test is skipped, with a reason, where the recordings are not there."""

    def path(name: str) -> Path:
        if not shared_folder().is_dir():
            pytest.skip(f"the recordings are not at {shared_folder()}: set {SHARED_VARIABLE} to their folder")
        return shared_folder() / name

    return path


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


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """An emulator of Bigtable for the whole session; tests use table names of their own."""
    need_program(find_emulator(), HOW_TO_GET_IT)
    yield from running(Emulator())


@pytest.fixture(scope="session")
def pubsub() -> Iterator[PubSubEmulator]:
    """An emulator of Pub/Sub for the whole session; tests use topics and subscriptions of their own."""
    need_program(find_pubsub_emulator(), HOW_TO_GET_PUBSUB)
    yield from running(PubSubEmulator())


@pytest.fixture(scope="session")
def dead_topic(pubsub: PubSubEmulator) -> str:
    """The topic of dead letters that the jobs of Dataflow are launched with."""
    from google.pubsub_v1 import PublisherClient

    name = "projects/my-project/topics/dead"
    with PublisherClient() as publisher:
        publisher.create_topic(name=name)
    return name


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


@pytest.fixture(scope="session")
def recordings(
    shared: Callable[[str], Path], emulator: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Recordings]:
    """The three recorded tables in the emulator, and the stand-in for the graph's server."""
    folder = shared("cave")
    recordings = Recordings(folder, tmp_path_factory.mktemp("layers"))
    from google.cloud import bigtable

    client = bigtable.Client(project=PROJECT, admin=True)
    for name in ("graph_v2.json.gz", "graph_v1.json.gz", "cache.json.gz"):
        recordings.loader.load(client.instance(INSTANCE), recordings.dump(name))
    server = subprocess.Popen(
        [
            sys.executable,
            str(folder / "mini_graphene.py"),
            "--port",
            str(recordings.graphene_port),
            "--layer-dir",
            str(recordings.layers),
            f"fixture_v2={folder / 'watershed_v2.npz'}",
            f"fixture_v1={folder / 'watershed_v1.npz'}",
        ],
        env=emulator.environment(BIGTABLE_PROJECT=PROJECT, BIGTABLE_INSTANCE=INSTANCE),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_port(recordings.graphene_port, 60)
    yield recordings
    server.kill()
    server.wait()


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segmentation of a small sample, for reading only; `dataset_file` names it."""
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder, Sample(grid=(3, 2, 2), chunk_size=(32, 32, 16)))
    return folder / "segmentation"


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


@pytest.fixture(scope="session")
def undisturbed(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data sets file of a finished ingest of the sample."""
    config = dataset_file(tmp_path_factory.mktemp("undisturbed"), sample)
    done = run_ingest(config, "--create")
    assert done.returncode == 0, done.stderr
    return config


@pytest.fixture
def config(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of it, whose store may be written to."""
    return own_copy(undisturbed, tmp_path)


@pytest.fixture(scope="session")
def many_chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    make_sample(folder, Sample(grid=MANY, chunk_size=(32, 32, 16)))
    return folder / "segmentation"


@pytest.fixture
def slow_sample(tmp_path: Path, many_chunks: Path) -> Path:
    """The data sets file of a sample of many chunks, so that there is time to disturb its ingest."""
    return dataset_file(tmp_path, many_chunks)
