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
    """Write a token: cloud-volume needs one for graphene://, even if the server does not."""
    import cloudvolume.secrets

    folder = tmp_path_factory.mktemp("cloudvolume")
    (folder / "secrets").mkdir()
    (folder / "secrets" / "cave-secret.json").write_text(json.dumps({"token": "0123456789abcdef" * 2}))
    os.environ["CLOUD_VOLUME_DIR"] = str(folder)
    cloudvolume.secrets.CLOUD_VOLUME_DIR = str(folder)


@pytest.fixture(scope="module")
def without_tokens() -> Iterator[None]:
    """Have the API's applications in this process answer without a token."""
    from tests.support.api_app import need_no_token

    with pytest.MonkeyPatch.context() as patch:
        need_no_token(patch)
        yield


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Return a function that returns a recorded file's path, or skips the test (in CI: fails it)."""

    def path(name: str) -> Path:
        folder, how = shared_folder(), f"recordings: set {SHARED_VARIABLE} to their folder"
        need_program(str(folder) if folder.is_dir() else None, f"{how}; they are not at {folder}")
        return folder / name

    return path


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """Run one Bigtable emulator for the whole session; tests use their own table names."""
    need_program(find_emulator(), HOW_TO_GET_IT)
    yield from running(Emulator())


@pytest.fixture(scope="session")
def pubsub() -> Iterator[PubSubEmulator]:
    """Run one Pub/Sub emulator for the whole session; tests use their own topics and subscriptions."""
    need_program(find_pubsub_emulator(), HOW_TO_GET_PUBSUB)
    yield from running(PubSubEmulator())


@pytest.fixture(scope="session")
def dead_topic(pubsub: PubSubEmulator) -> str:
    """Create the dead-letter topic of the Dataflow jobs, and return its name."""
    from google.pubsub_v1 import PublisherClient

    name = "projects/my-project/topics/dead"
    with PublisherClient() as publisher:
        publisher.create_topic(name=name)
    return name


@pytest.fixture(scope="session")
def recordings(
    shared: Callable[[str], Path], emulator: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Recordings]:
    """Load the three recorded tables into the emulator, and serve the graphs."""
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
    """Return a small segmentation for reading only. `dataset_file` makes a data sets file for it."""
    size = Sample(grid=(3, 2, 2), chunk_size=(32, 32, 16))
    return once(tmp_path_factory, "sample", lambda folder: make_sample(folder, size)) / "segmentation"


@pytest.fixture(scope="session")
def undisturbed(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ingest the sample into a store, write-protect the store, and return its data sets file."""

    from tests.support.ingest_jobs import run_ingest

    def make(folder: Path) -> None:
        done = run_ingest(dataset_file(folder, sample), "--create")
        assert done.returncode == 0, done.stderr
        write_protect(folder / "l2cache.db")

    return once(tmp_path_factory, "undisturbed", make) / "datasets.yml"


@pytest.fixture
def config(undisturbed: Path, tmp_path: Path) -> Path:
    """Return a writable copy of ``undisturbed``."""
    return own_copy(undisturbed, tmp_path)


@pytest.fixture(scope="session")
def many_chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    size = Sample(grid=MANY, chunk_size=(32, 32, 16))
    return once(tmp_path_factory, "many", lambda folder: make_sample(folder, size)) / "segmentation"


@pytest.fixture
def slow_sample(tmp_path: Path, many_chunks: Path) -> Path:
    """Return the data sets file of a sample with so many chunks that a test can disturb its ingest."""
    return dataset_file(tmp_path, many_chunks)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return Published.below(once(tmp_path_factory, "published", build_packages))
