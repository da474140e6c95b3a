"""What the tests share: the recordings, an emulator, and the recorded graphs in it."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from l2features.sample import Sample, make_sample

from .emulator import HOW_TO_GET_IT, Emulator, find_emulator, free_port, wait_for_port

ROOT = Path(__file__).resolve().parent.parent
SHARED_VARIABLE = "L2FEATURES_SHARED"
PROJECT, INSTANCE = "test-project", "test-instance"
STORE_URL = f"bigtable://{PROJECT}/{INSTANCE}"


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


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """An emulator for the whole session; tests use table names of their own."""
    if find_emulator() is None:
        if os.environ.get("CI"):
            pytest.fail(HOW_TO_GET_IT)
        pytest.skip(HOW_TO_GET_IT)
    emulator = Emulator()
    before = os.environ.get("BIGTABLE_EMULATOR_HOST")
    os.environ["BIGTABLE_EMULATOR_HOST"] = emulator.host
    yield emulator
    if before is None:
        del os.environ["BIGTABLE_EMULATOR_HOST"]
    else:
        os.environ["BIGTABLE_EMULATOR_HOST"] = before
    emulator.stop()


def load_module(path: Path) -> Any:
    """A Python file from outside the packages, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Recordings:
    """The recorded tables, restored in an emulator, and a server for their graphs."""

    def __init__(self, folder: Path, layers: Path) -> None:
        self.folder, self.layers = folder, layers
        self.graphene_port = free_port()

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
    _give_cloudvolume_a_token(tmp_path_factory.mktemp("cloudvolume"))
    from google.cloud import bigtable

    loader = load_module(folder / "load_tables.py")
    client = bigtable.Client(project=PROJECT, admin=True)
    for name in ("graph_v2.json.gz", "graph_v1.json.gz", "cache.json.gz"):
        loader.load(client.instance(INSTANCE), recordings.dump(name))
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


def _give_cloudvolume_a_token(folder: Path) -> None:
    """cloud-volume insists on a token for graphene://, even where the server wants none."""
    (folder / "secrets").mkdir()
    (folder / "secrets" / "cave-secret.json").write_text(json.dumps({"token": "0123456789abcdef" * 2}))
    os.environ["CLOUD_VOLUME_DIR"] = str(folder)


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


def run_ingest(
    config: Path, *flags: str, dataset: str = "sample", **more: Any
) -> subprocess.CompletedProcess[str]:
    """The command, as a user gives it."""
    command = [
        sys.executable,
        "-m",
        "beam_jobs.ingest",
        "--config",
        str(config),
        "--dataset",
        dataset,
        *flags,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **more)
