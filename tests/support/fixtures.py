"""Fixtures that the tests share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from l2features.local.sample.segmentation_files import Sample, make_sample
from l2features.testing.emulators import (
    HOW_TO_GET_IT,
    HOW_TO_GET_PUBSUB,
    Emulator,
    PubSubEmulator,
    find_emulator,
    find_pubsub_emulator,
    wait_for_port,
)
from l2features.testing.stores import INSTANCE, PROJECT, bigtable_store, new_store, store, store_url
from tests.support.jobs import (
    MANY,
    ROOT,
    SHARED_VARIABLE,
    Recordings,
    dataset_file,
    need_program,
    own_copy,
    run_ingest,
    running,
    shared_folder,
    write_protect,
)
from tests.support.once import once
from tests.support.published import Published, build_packages

RECORDED = ("graph_{}.json.gz", "watershed_{}.npz")
__all__ = ["bigtable_store", "new_store", "store", "store_url"]


@pytest.fixture(scope="session", autouse=True)
def _token(tmp_path_factory: pytest.TempPathFactory) -> None:
    """cloud-volume insists on a token for graphene://, even where the server wants none."""
    import cloudvolume.secrets

    folder = tmp_path_factory.mktemp("cloudvolume")
    (folder / "secrets").mkdir()
    (folder / "secrets" / "cave-secret.json").write_text(json.dumps({"token": "0123456789abcdef" * 2}))
    os.environ["CLOUD_VOLUME_DIR"] = str(folder)
    cloudvolume.secrets.CLOUD_VOLUME_DIR = str(folder)


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Path of a recording; without the recordings the test is skipped, and fails in CI."""

    def path(name: str) -> Path:
        folder, how = shared_folder(), f"recordings: set {SHARED_VARIABLE} to their folder"
        need_program(str(folder) if folder.is_dir() else None, f"{how}; they are not at {folder}")
        return folder / name

    return path


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


@pytest.fixture(scope="session")
def recordings(
    shared: Callable[[str], Path], emulator: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Recordings]:
    """The three recorded tables in the emulator, and a server of the graphs."""
    folder = shared("cave")
    recordings = Recordings(folder, tmp_path_factory.mktemp("layers"))
    from google.cloud import bigtable

    client = bigtable.Client(project=PROJECT, admin=True)
    for name in ("graph_v2.json.gz", "graph_v1.json.gz", "cache.json.gz"):
        recordings.loader.load(client.instance(INSTANCE), recordings.dump(name))
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "l2features.testing.pcg_server",
            str(recordings.graphene_port),
            str(recordings.layers),
            *(str(folder / file.format(v)) for v in ("v2", "v1") for file in RECORDED),
        ],
        cwd=ROOT,
        env=emulator.environment(),
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
    size = Sample(grid=(3, 2, 2), chunk_size=(32, 32, 16))
    return once(tmp_path_factory, "sample", lambda folder: make_sample(folder, size)) / "segmentation"


@pytest.fixture(scope="session")
def undisturbed(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data sets file of a finished ingest of the sample, whose store cannot be written to."""

    def make(folder: Path) -> None:
        done = run_ingest(dataset_file(folder, sample), "--create")
        assert done.returncode == 0, done.stderr
        write_protect(folder / "l2cache.db")

    return once(tmp_path_factory, "undisturbed", make) / "datasets.yml"


@pytest.fixture
def config(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of it, whose store may be written to."""
    return own_copy(undisturbed, tmp_path)


@pytest.fixture(scope="session")
def many_chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    size = Sample(grid=MANY, chunk_size=(32, 32, 16))
    return once(tmp_path_factory, "many", lambda folder: make_sample(folder, size)) / "segmentation"


@pytest.fixture
def slow_sample(tmp_path: Path, many_chunks: Path) -> Path:
    """The data sets file of a sample of many chunks, so that there is time to disturb its ingest."""
    return dataset_file(tmp_path, many_chunks)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The packages as they are published."""
    return Published.below(once(tmp_path_factory, "published", build_packages))
