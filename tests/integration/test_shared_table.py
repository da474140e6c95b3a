"""Tests of several data set names for one table, as PCGL2Cache's virtual tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from l2features.config.datasets import datasets_of_table, load_datasets
from l2features.testing.small_table import DATASET, node_ids, small_table
from tests.support.api_app import client_of, need_no_token
from tests.support.command import run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A data sets file with two names for one table."""
    path = small_table(tmp_path)
    entry = json.loads(path.read_text())[DATASET]
    path.write_text(json.dumps({DATASET: entry, "public": entry}))
    return path


def test_both_names_serve_the_same_rows(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_no_token(monkeypatch)
    client = client_of(config)
    body = {"l2_ids": node_ids(5).tolist()}
    answers: list[Any] = [
        client.post(f"/l2cache/api/v1/table/{name}/attributes", json=body).json
        for name in (DATASET, "public")
    ]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 5
    mapping: Any = client.get("/l2cache/api/v1/table_mapping").json
    assert mapping[DATASET] == mapping["public"]
    first = node_ids(1)[0]
    rows = [run("get", name, first, "--config", config, "--json").stdout for name in (DATASET, "public")]
    assert rows[0] == rows[1]


def test_a_message_is_computed_once_for_both(tmp_path: Path) -> None:
    path = tmp_path / "datasets.yml"
    entry = {"cv_path": "graphene://https://host/segmentation/table/minnie", "l2cache_id": "l2"}
    other = {**entry, "l2cache_id": "l2_other"}
    path.write_text(json.dumps({"minnie_v1": entry, "public": entry, "other": other}))
    datasets = load_datasets(path).values()
    assert [d.name for d in datasets_of_table(datasets, "minnie")] == ["minnie_v1", "other"]
    assert [d.name for d in datasets_of_table(datasets, "minnie", "l2")] == ["minnie_v1"]
    assert [d.name for d in datasets_of_table(datasets, "public")] == ["public"]
