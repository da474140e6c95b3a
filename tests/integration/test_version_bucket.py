"""Tests of versions and exports in a bucket, which must equal those in a folder."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from l2features.core.errors import VersionError
from l2features.testing.storage_emulator import storage_emulator
from l2features.versions import bucket_files
from l2features.versions.folders import Folder
from l2features.versions.manifest import read_manifest, version_numbers
from tests.support.command import run
from tests.support.jobs import Recordings, own_copy
from tests.support.static_export import SMALL, run_export
from tests.support.version_job import content, files_of, ingested, made, run_materialize

BUCKET = "versions"
FOLDER = f"gs://{BUCKET}/data/sample"
T0, T1 = 1_795_220_864_000, 1_795_224_833_000


@pytest.fixture(scope="module")
def v2(recordings: Recordings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingested(tmp_path_factory.mktemp("v2"), recordings, "fixture_v2")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    """Yield an empty folder in an emulated bucket."""
    with storage_emulator(BUCKET) as host:
        monkeypatch.setenv(bucket_files.EMULATOR, host)
        bucket_files._client.cache_clear()
        yield Folder(FOLDER)
    bucket_files._client.cache_clear()


def files_in(folder: Folder, path: str = "") -> dict[str, bytes]:
    """Return the content of every file below ``path``, by its path."""
    found = dict[str, bytes]()
    for name in (f"{path}/{each}".lstrip("/") for each in folder.names(path)):
        if folder.is_folder(name):
            found |= files_in(folder, name)
        else:
            found[name] = folder.read(name) or b""
    return found


# ------------------------------------------------------------------ a folder in a bucket
def test_a_folder_lists_files_and_folders(bucket: Folder) -> None:
    assert bucket.names() == bucket.names("none") == []
    for path in (
        "000001/plan.json",
        "000001/by_root/part",
        "000002/manifest.json",
        "a",
        "other/x/manifest.json",
    ):
        bucket.write(path, path.encode())
    assert bucket.names() == ["000001", "000002", "a", "other"]
    assert bucket.names("000001") == ["by_root", "plan.json"]
    assert bucket.folders_with("manifest.json") == ["000002"]
    assert Folder(f"gs://{BUCKET}").names() == ["data"]
    assert [bucket.is_folder(path) for path in ("000001", "a", "0000")] == [True, False, False]
    assert bucket.read("000001/by_root/part") == b"000001/by_root/part"
    bucket.delete_folder("000001")
    assert bucket.names() == ["000002", "a", "other"]


def test_a_file_is_read_at_any_place(bucket: Folder) -> None:
    content = bytes(range(256)) * 100
    bucket.write("a", content)
    with bucket.open("a") as file:
        assert (file.size(), file.read(5), file.tell()) == (25_600, content[:5], 5)
        file.seek(-3, 2)
        assert (file.read(10), file.read(10)) == (content[-3:], b"")
        file.seek(20_000)
        assert file.read() == content[20_000:]
    with pytest.raises(VersionError, match=f"cannot open {FOLDER}/none") as raised:
        bucket.open("none")
    assert isinstance(raised.value.__cause__, FileNotFoundError)


def test_of_two_writers_one_creates_a_file(bucket: Folder) -> None:
    barrier = threading.Barrier(8)

    def create(i: int) -> bool:
        barrier.wait()
        return bucket.create("plan.json", bytes([i]))

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(create, range(8)))
    assert won.count(True) == 1
    assert bucket.read("plan.json") == bytes([won.index(True)])


def test_a_missing_bucket_is_named(bucket: Folder) -> None:
    missing = Folder("gs://no-such-bucket/data")
    for read in (missing.names, lambda: missing.folders_with("x"), lambda: missing.create("x", b"")):
        with pytest.raises(VersionError, match=r"cannot (list|write) gs://no-such-bucket/data"):
            read()


# ------------------------------------------------------------------ jobs
def test_versions_are_those_of_a_folder(v2: Path, bucket: Folder, tmp_path: Path) -> None:
    config, here = own_copy(v2, tmp_path), tmp_path / "here"
    for output in (str(here), FOLDER):
        made(config, output, T0)
        renewed = made(config, output, T1, "--base", 1)
    assert version_numbers(bucket) == [1, 2]
    assert set(files_in(bucket)) == set(files_of(here))
    local = read_manifest(Folder(str(here)), 2)
    assert renewed.layers == local.layers
    assert content(renewed, FOLDER) == content(local, here)
    listed = json.loads(run("versions", "list", "sample", "--config", config, "--json").stdout)
    assert [(each["number"], each["nodes"]) for each in listed][1] == (2, renewed.totals.nodes)
    verified = run("versions", "verify", "sample", "2", "--config", config)
    assert verified.exit_code == 0, verified.output
    counted = run("query", "sample", "SELECT count(*) FROM nodes", "--config", config)
    assert str(renewed.totals.nodes) in counted.stdout, counted.output
    assert run("versions", "delete", "sample", "1", "--config", config, "--yes").exit_code == 1
    deleted = run("versions", "delete", "sample", "2", "--config", config, "--yes")
    assert deleted.exit_code == 0, deleted.output
    assert (version_numbers(bucket), bucket.names()) == ([1], ["000001"])


@pytest.mark.parametrize("runner", ["local", "FnApiRunner"])
def test_of_two_jobs_at_once_one_wins(
    v2: Path, bucket: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str
) -> None:
    """Check that the job that finishes second fails and keeps the first manifest. A bucket has no locks."""
    config, create, firsts = own_copy(v2, tmp_path), Folder.create, list[bytes]()

    def overtaken(self: Folder, path: str, content: bytes) -> bool:
        if path.endswith("manifest.json") and not firsts:
            firsts.append(json.dumps(json.loads(content) | {"job": "another"}).encode())
            assert create(self, path, firsts[0])
        return create(self, path, content)

    monkeypatch.setattr(Folder, "create", overtaken)
    done = run_materialize(config, FOLDER, T0, f"--runner={runner}")
    assert done.returncode == 1
    assert f"version 1 in {FOLDER} was finished by another job" in done.stderr
    assert bucket.read("000001/manifest.json") == firsts[0]


def test_an_export_is_that_of_a_folder(v2: Path, bucket: Folder, tmp_path: Path) -> None:
    config = own_copy(v2, tmp_path)
    made(config, tmp_path / "versions", T0)
    here, there = tmp_path / "export", Folder(f"gs://{BUCKET}/export")
    for output in (here, there.url):
        done = run_export(config, output, 1, *SMALL)
        assert done.returncode == 0, done.stderr
    found = files_in(there)
    assert set(found) == set(files_of(here))
    for name in found.keys() - {"manifest.json", "plan.json"}:
        assert found[name] == (here / name).read_bytes(), name
    again = run_export(config, there.url, 1, *SMALL)
    assert again.returncode == 0, again.stderr
    assert files_in(there) == found
