"""Tests of the data sets file: valid values, defaults and error messages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from l2features.config.datasets import CONFIG_VARIABLE, EXPECTED, Dataset, load_dataset, load_datasets
from l2features.core.errors import ConfigError
from l2features.core.geometry import MAX_CHUNK_VOXELS
from l2features.kernel.runs import MAX_VOXELS
from l2features.store.base import open_store

OLD_SERVICE = """\
minnie65_phase3_v1:
  cv_path: graphene://https://minnie.microns-daf.com/segmentation/table/minnie3_v1
  l2cache_id: l2cache_minnie3_v1_v3
fly_v31:
  cv_path: "graphene://https://prodv1.flywire-daf.com/segmentation/1.0/fly_v31/"
  l2cache_id: l2cache_fly_v31
"""
GRAPHENE = "graphene://https://server/segmentation/table/minnie"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (CONFIG_VARIABLE, "BIGTABLE_PROJECT", "BIGTABLE_INSTANCE"):
        monkeypatch.delenv(name, raising=False)


def write(folder: Path, content: Any) -> Path:
    path = folder / "datasets.yml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def load_one(folder: Path, **keys: Any) -> Dataset:
    entry = {"cv_path": "precomputed://file:///data/seg", "l2cache_id": "l2cache_a", **keys}
    return load_dataset("a", write(folder, {"a": {k: v for k, v in entry.items() if v != "absent"}}))


def test_pcgl2caches_file_works_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGTABLE_PROJECT", "neuromancer")
    monkeypatch.setenv("BIGTABLE_INSTANCE", "pychunkedgraph")
    monkeypatch.setenv(CONFIG_VARIABLE, str(write(tmp_path, OLD_SERVICE)))
    datasets = load_datasets()
    assert list(datasets) == ["minnie65_phase3_v1", "fly_v31"]
    fly = datasets["fly_v31"]
    assert fly.cv_path == "graphene://https://prodv1.flywire-daf.com/segmentation/1.0/fly_v31/"
    assert (fly.l2cache_id, fly.graph, fly.graph_id) == ("l2cache_fly_v31", "graphene", "fly_v31")
    assert (fly.store, fly.chunk_size) == ("bigtable://neuromancer/pychunkedgraph", None)


def test_all_keys(tmp_path: Path) -> None:
    keys = {
        "cv_path": GRAPHENE,
        "l2cache_id": "l2cache_minnie",
        "graph": "bigtable://project/instance/minnie_graph",
        "store": "sqlite:///data/features.db",
        "chunk_size": [256, 256, 512],
        "watershed": "gs://bucket/ws",
        "mip": 2,
        "empty_files": "background",
        "versions": "gs://bucket/versions",
    }
    dataset = load_dataset("minnie", write(tmp_path, {"minnie": keys}))
    assert dataset.model_dump() == keys | {"name": "minnie", "chunk_size": (256, 256, 512), "scale": None}
    assert {*keys, "scale"} == set(EXPECTED)
    assert dataset.graph_id == "minnie_graph"


@pytest.mark.parametrize(
    ("keys", "graph", "graph_id"),
    [
        ({}, "flat", "flat"),
        ({"graph": None}, "flat", "flat"),
        ({"cv_path": GRAPHENE}, "graphene", "minnie"),
        ({"cv_path": GRAPHENE, "graph": "flat"}, "flat", "flat"),
        ({"graph": "bigtable://p/i/t"}, "bigtable://p/i/t", "t"),
        ({"cv_path": "graphene://https://h/segmentation/1.0/fly_v31/"}, "graphene", "fly_v31"),
        ({"cv_path": "graphene://https://h/segmentation/api/v1/fly.v31?a=b/c"}, "graphene", "fly.v31"),
        ({"cv_path": "graphene://middleauth+https://h/segmentation/table/t/?a#b"}, "graphene", "t"),
        ({"cv_path": "graphene://https://h/segmentation/api/v1/table/t-1/info"}, "graphene", "t-1"),
        ({"cv_path": "graphene://https://h/some/where/else/"}, "graphene", "else"),
    ],
)
def test_graphs(tmp_path: Path, keys: dict[str, Any], graph: str, graph_id: str) -> None:
    dataset = load_one(tmp_path, **keys)
    assert (dataset.graph, dataset.graph_id) == (graph, graph_id)


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [
        ({}, None, "sqlite://{folder}/l2cache_a.db"),
        ({"BIGTABLE_PROJECT": "p"}, None, "sqlite://{folder}/l2cache_a.db"),
        ({"BIGTABLE_PROJECT": "p", "BIGTABLE_INSTANCE": "i"}, None, "bigtable://p/i"),
        ({"BIGTABLE_PROJECT": "p", "BIGTABLE_INSTANCE": "i"}, "sqlite:////x/y.db", "sqlite:////x/y.db"),
        ({}, "bigtable://project/instance/", "bigtable://project/instance/"),
        ({}, "sqlite:///data/with space #1?.db", "sqlite:///data/with space #1?.db"),
        ({}, "sqlite:///a", "sqlite:///a"),
    ],
)
def test_stores(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    given: str | None,
    expected: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    dataset = load_one(tmp_path, store=given)
    assert dataset.store == expected.format(folder=tmp_path)
    assert open_store(dataset.store, dataset.l2cache_id).name == "l2cache_a"


def test_the_default_store_is_beside_the_file_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"a": {"cv_path": GRAPHENE, "l2cache_id": "x"}})
    monkeypatch.chdir(tmp_path)
    assert load_dataset("a", "datasets.yml").store == f"sqlite://{tmp_path}/x.db"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("cv_path", "absent", "is missing: expected precomputed://… or graphene://…"),
        ("cv_path", None, "expected precomputed://… or graphene://…"),
        ("cv_path", 7, "expected precomputed://… or graphene://…"),
        ("cv_path", "ftp://server/x", "expected precomputed://… or graphene://…, or another path of docs"),
        ("cv_path", "precomputed://", "expected precomputed://…"),
        ("l2cache_id", "absent", "is missing: expected a table name"),
        ("l2cache_id", "a/b", "expected a table name of 1 to 50 letters, digits, '_', '-' or '.', got 'a/b'"),
        ("l2cache_id", "x" * 51, "expected a table name of 1 to 50"),
        ("l2cache_id", 12, "expected a table name"),
        ("l2cache_id", "", "expected a table name"),
        ("graph", "pcg", "expected flat, graphene or bigtable://project/instance/table, got 'pcg'"),
        ("graph", "bigtable://p/i", "expected flat, graphene or bigtable://project/instance/table"),
        ("graph", True, "expected flat, graphene or bigtable://project/instance/table, got True"),
        (
            "store",
            "mysql://h/d",
            "expected bigtable://project/instance or sqlite:///path/file.db, got 'mysql",
        ),
        ("store", "sqlite://rel/f.db", "expected bigtable://project/instance or sqlite:///path/file.db"),
        ("store", "sqlite:///folder/", "expected bigtable://project/instance or sqlite:///path/file.db"),
        ("store", "bigtable://p/i/t", "expected bigtable://project/instance or sqlite:///path/file.db"),
        ("chunk_size", [64, 64], "expected three integers from 1 to 65535, such as [256, 256, 512], got"),
        ("chunk_size", [64, 64, 64, 64], "expected three integers from 1 to 65535"),
        ("chunk_size", [64, 64, 0], "expected three integers from 1 to 65535"),
        ("chunk_size", [64, 64, 65_536], "expected three integers from 1 to 65535"),
        ("chunk_size", [64, 64, 32.0], "expected three integers from 1 to 65535"),
        ("chunk_size", [64, True, 32], "expected three integers from 1 to 65535"),
        ("chunk_size", "64,64,32", "expected three integers from 1 to 65535"),
        ("chunk_size", 64, "expected three integers from 1 to 65535"),
        ("mip", -1, "expected an integer of 0 or more, got -1"),
        ("mip", "0", "expected an integer of 0 or more, got '0'"),
        ("scale", [16, 16], "expected three positive numbers of nm, such as [16, 16, 40], got [16, 16]"),
        ("scale", [16, 16, 0], "expected three positive numbers of nm"),
        ("empty_files", "skip", "expected fail or background, got 'skip'"),
    ],
)
def test_a_wrong_value_names_data_set_key_and_what_was_expected(
    tmp_path: Path, key: str, value: Any, said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_one(tmp_path, **{key: value})
    message = str(error.value)
    assert str(tmp_path / "datasets.yml") in message
    assert "data set 'a'" in message
    assert re.search(f"key '{key}'( is missing)?: expected ", message)
    assert said in message


@pytest.mark.parametrize("key", ["l2cache", "Graph", "name", 5, None])
def test_an_unknown_key(tmp_path: Path, key: Any) -> None:
    entry = {"cv_path": GRAPHENE, "l2cache_id": "x", key: "y"}
    expected = f"data set 'a': unknown key {key!r}: expected cv_path, l2cache_id, graph, store, chunk_size"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        load_dataset("a", write(tmp_path, {"a": entry}))


def test_a_graph_server_needs_its_volume(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data set 'a': key 'graph': graphene needs a cv_path graphene://"):
        load_one(tmp_path, graph="graphene")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no data sets: expected <name>: {cv_path"),
        ("- a\n- b\n", "has no data sets: expected <name>: {cv_path"),
        ("just text", "has no data sets: expected <name>: {cv_path"),
        ("a: [unclosed", "not YAML: line 1, column 13: expected ',' or ']', but got '<stream end>'"),
        ("a: !!python/object/apply:os.mkdir [x]", "not YAML"),
        (
            "a: precomputed://x",
            "data set 'a': expected a mapping with cv_path and l2cache_id, got 'precomputed",
        ),
        ("a:", "data set 'a': expected a mapping with cv_path and l2cache_id, got None"),
        ("a/b: {cv_path: x, l2cache_id: y}", "data set 'a/b': expected a name of 1 to 100 letters"),
    ],
)
def test_invalid_data_sets_files(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_datasets(write(tmp_path, content))
    assert message in str(error.value)
    assert "datasets.yml" in str(error.value)


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00a")
    for name, message in [("none.yml", "No such file"), ("", "Is a directory"), ("binary", "not YAML")]:
        with pytest.raises(ConfigError, match=message):
            load_datasets(tmp_path / name)


def test_no_file_given() -> None:
    with pytest.raises(ConfigError, match="pass --config FILE or set GRAPH_L2CACHE_CONFIG_PATH"):
        load_datasets()


def test_an_unknown_data_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data set 'flywire' is not in .*: expected one of .*fly_v31"):
        load_dataset("flywire", write(tmp_path, OLD_SERVICE))


def test_a_duplicate_data_set(tmp_path: Path) -> None:
    path = tmp_path / "datasets.yml"
    entry = "{cv_path: precomputed://file:///a, l2cache_id: t}"
    path.write_text(f"one: {entry}\none: {entry}\n")
    with pytest.raises(ConfigError, match="key 'one' occurs twice"):
        load_datasets(path)


def test_a_scale_is_named_in_one_way(tmp_path: Path) -> None:
    assert load_one(tmp_path, scale=[16, 16.5, 40]).scale == (16, 16.5, 40)
    with pytest.raises(ConfigError, match="keys 'mip' and 'scale': expected only one of them"):
        load_one(tmp_path, mip=1, scale=[16, 16, 40])


def test_a_chunk_is_not_larger_than_the_kernel_takes(tmp_path: Path) -> None:
    assert MAX_CHUNK_VOXELS == MAX_VOXELS
    assert load_one(tmp_path, chunk_size=[65_535, 8, 8]).chunk_size == (65_535, 8, 8)
    with pytest.raises(
        ConfigError, match=r"\[2048, 2048, 1024\] has 4294967296 voxels in all, expected at most"
    ):
        load_one(tmp_path, chunk_size=[2048, 2048, 1024])
