"""Tests of data sets files in a bucket, read from a Cloud Storage emulator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from l2features.config.datasets import CONFIG_VARIABLE, load_datasets, server_environment
from l2features.config.entries import BUCKETS
from l2features.core.errors import ConfigError
from l2features.testing.bucket import bucket_of

FILES = {
    "good.yml": b"a: {cv_path: 'precomputed://gs://seg', l2cache_id: t, store: 'bigtable://p/i'}",
    "no_store.yml": b"a: {cv_path: 'precomputed://gs://seg', l2cache_id: t}",
    "broken.yml": b"a: [",
    "binary.yml": b"\xff\xfe\x00a",
}


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("BIGTABLE_PROJECT", "BIGTABLE_INSTANCE"):
        monkeypatch.delenv(name, raising=False)
    with bucket_of(lambda path: FILES.get(path.removeprefix("l2/"))) as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        yield


def test_a_file_in_a_bucket() -> None:
    dataset = load_datasets(f"{BUCKETS}my-bucket/l2/good.yml")["a"]
    assert (dataset.store, dataset.cv_path) == ("bigtable://p/i", "precomputed://gs://seg")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gs://my-bucket/l2/none.yml", "data sets file gs://my-bucket/l2/none.yml: 404"),
        ("gs://other/l2/good.yml", "404"),
        ("gs://my-bucket", "data sets file gs://my-bucket: "),
        ("gs://my-bucket/l2/broken.yml", "data sets file gs://my-bucket/l2/broken.yml: not YAML"),
        ("gs://my-bucket/l2/binary.yml", "not YAML"),
        ("gs://my-bucket/l2/no_store.yml", r"key 'store': expected bigtable://.*, got None"),
    ],
)
def test_one_that_cannot_be_read(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_datasets(url)


def test_the_server_receives_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = {
        "gs://my-bucket/l2/good.yml": "gs://my-bucket/l2/good.yml",
        "good.yml": f"{tmp_path}/good.yml",
    }
    for given, path in expected.items():
        assert server_environment(given, "127.0.0.1:1", 1, auth=False)[CONFIG_VARIABLE] == path
