"""Tests of invalid entries in the data sets file: they are named, and the others are served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import requests

from l2features.config.datasets import load_dataset, load_datasets, read_datasets
from l2features.core.errors import ConfigError
from l2features.testing.server import Server
from tests.support.command import run
from tests.support.jobs import own_copy, run_job

WRONG = {
    "unknown_key": "{cv_path: 'precomputed://file:///a', l2cache_id: t, colour: red}",
    "no_path": "{l2cache_id: t}",
    "wrong_graph": "{cv_path: 'precomputed://file:///a', l2cache_id: t, graph: pcg}",
    "text": "precomputed://file:///a",
    "nothing": "",
    "twice_inside": "{cv_path: 'precomputed://file:///a', cv_path: b, l2cache_id: t}",
    "tagged": "!!python/object/apply:os.mkdir [x]",
    "date": "{cv_path: 2026-13-45, l2cache_id: t}",
    "set": "!!set {a, b}",
    "a/b": "{cv_path: 'precomputed://file:///a', l2cache_id: t}",
    "5": "{cv_path: 'precomputed://file:///a', l2cache_id: 99999999999999999999999}",
}


@pytest.fixture
def mixed(undisturbed: Path, tmp_path: Path) -> Path:
    """Return a data sets file with one valid entry and every invalid one."""
    config = own_copy(undisturbed, tmp_path)
    right = json.loads(config.read_text())["sample"]
    entries = [f"{name}: {text}" for name, text in WRONG.items()]
    config.write_text("\n".join([*entries[:4], f"sample: {json.dumps(right)}", *entries[4:]]))
    return config


def test_each_is_named_and_the_other_is_read(mixed: Path) -> None:
    datasets = read_datasets(mixed)
    assert list(datasets.usable) == list(load_datasets(mixed)) == ["sample"]
    assert list(datasets.problems) == list(WRONG)
    assert list(datasets.entries) == [*list(WRONG)[:4], "sample", *list(WRONG)[4:]]
    for name, line in zip(WRONG, datasets.errors, strict=True):
        assert line.startswith(f"data sets file {mixed}: data set {name!r}: ")
        assert "\n" not in line
        with pytest.raises(ConfigError) as error:
            load_dataset(name, mixed)
        assert str(error.value) == line
    assert load_dataset("sample", mixed).name == "sample"


def test_a_duplicate_entry_is_not_guessed(mixed: Path) -> None:
    mixed.write_text(mixed.read_text() + "\nunknown_key: {cv_path: 'precomputed://file:///a', l2cache_id: t}")
    assert "'unknown_key' occurs twice" in read_datasets(mixed).problems["unknown_key"]


def test_a_file_without_one_that_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "datasets.yml"
    path.write_text("\n".join(f"{name}: {text}" for name, text in WRONG.items()))
    with pytest.raises(ConfigError, match=r"data set 'unknown_key': unknown key 'colour'.* \(and 10 more"):
        read_datasets(path)
    served = run("serve", path)
    assert (served.exit_code, served.output.count("\n")) == (2, 1)


def test_entries_that_share_a_part(tmp_path: Path) -> None:
    path = tmp_path / "datasets.yml"
    path.write_text(
        "a: &a {cv_path: 'precomputed://file:///a', l2cache_id: t}\nb: {<<: *a, l2cache_id: u}\nc: &c {d: *c}"
    )
    datasets = read_datasets(path)
    assert datasets.usable["b"].cv_path == "precomputed://file:///a"
    assert datasets.usable["b"].l2cache_id == "u"
    assert list(datasets.problems) == ["c"]


@pytest.mark.parametrize("text", ["[" * 5000, "a: " + "{a: " * 5000, "? [a, b]\n: c\n", "a: &x [*x]\n"])
def test_what_yaml_can_make_of_a_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "datasets.yml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"data sets file \S+datasets.yml: "):
        read_datasets(path)


# ------------------------------------------------------------------ commands
def test_status_and_get_of_the_others(mixed: Path) -> None:
    assert run("status", "sample", "--config", mixed).output.startswith("12/12 chunks done")
    wrong = run("status", "wrong_graph", "--config", mixed)
    assert (wrong.exit_code, wrong.output) == (
        2,
        f"error: data sets file {mixed}: data set 'wrong_graph': key 'graph': "
        "expected flat, graphene or bigtable://project/instance/table, got 'pcg'\n",
    )


def test_updates_of_the_others(mixed: Path, tmp_path: Path) -> None:
    from beam_jobs.update import main

    message = tmp_path / "messages" / "1.bin"
    message.parent.mkdir()
    message.write_bytes(b"")
    message.with_suffix(".json").write_text(
        json.dumps({"attributes": {"table_id": "sample", "l2_cache_id": "l2cache_sample"}})
    )
    done = run_job(main, "--config", mixed, "--messages", message.parent)
    assert "1 of 1 messages done" in done.stdout
    for name in WRONG:
        assert f"error: data sets file {mixed}: data set {name!r}: " in done.stderr
    assert done.returncode == 0


def test_the_api_serves_the_others(mixed: Path) -> None:
    with Server(mixed) as server:
        assert requests.get(f"{server.api}/table/sample", timeout=20).json()["coverage"]["done"] == 12
        mapping = requests.get(f"{server.api}/table_mapping", timeout=20).json()
        assert list(mapping) == list(read_datasets(mixed).entries)
        assert mapping["no_path"] == {"l2cache_id": "t"}
        for path, method in (("table/wrong_graph", "GET"), ("table/wrong_graph/attributes", "POST")):
            answer = requests.request(method, f"{server.api}/{path}", json={"l2_ids": []}, timeout=20)
            assert (answer.status_code, answer.json()["code"]) == (503, "dataset_misconfigured")
            assert "data set 'wrong_graph': key 'graph': expected flat" in answer.json()["message"]
        assert requests.get(f"{server.api}/table/other", timeout=20).status_code == 404
        ready = requests.get(f"{server.url}/ready", timeout=20)
        assert (ready.status_code, ready.json()["datasets"]["sample"]) == (200, "ready")
        assert set(ready.json()["datasets"]) == {"sample", *WRONG}
        errors = [record["message"] for record in server.records if record["level"] == "error"]
        assert len(errors) == len(WRONG)
