"""Helpers of the tests that replay edit messages."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from beam_jobs.update import main as update_main
from l2features.testing.stores import INSTANCE, PROJECT
from tests.support.ingest_jobs import run_ingest
from tests.support.jobs import Ran, Recordings, dataset_file, own_copy, run_job

T0 = "2026-11-21 00:27:44"
EDIT = {"table_id": "fixture_v2", "remesh_priority": "true"}
MISSING = {"table_id": "fixture_v2", "l2_cache_id": "l2cache_sample"}


def run_update(config: Path, messages: Path, *flags: str) -> Ran:
    return run_job(update_main, "--config", config, "--messages", messages, *flags)


@pytest.fixture(scope="module")
def at_t0(recordings: Recordings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ingest the nodes of fixture_v2 valid at `T0` into SQLite, and return the data sets file."""
    graph = f"bigtable://{PROJECT}/{INSTANCE}/fixture_v2"
    folder = tmp_path_factory.mktemp("t0")
    config = dataset_file(folder, recordings.cv_path("fixture_v2"), graph=graph, chunk_size=None)
    done = run_ingest(config, "--create", "--timestamp", T0)
    assert done.returncode == 0, done.stderr
    return config


@pytest.fixture
def config(at_t0: Path, tmp_path: Path) -> Path:
    return own_copy(at_t0, tmp_path)


def named(recordings: Recordings) -> list[int]:
    """Return all L2 ids in the recorded edits."""
    ids: set[int] = set()
    for file in sorted((recordings.folder / "pubsub").glob("[0-9]*.json")):
        ids.update(json.loads(file.read_text())["payload_unpickled"]["new_lvl2_ids"])
    return sorted(ids)


def record(folder: Path, name: str, data: bytes, attributes: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.bin").write_bytes(data)
    (folder / f"{name}.json").write_text(json.dumps({"attributes": attributes}))


def rep(features: dict[str, Any], row: Any) -> list[int]:
    return list(features[str(row["label"])]["rep_coord_nm"])


class Evil:
    """An object that runs a command when `pickle` loads it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def edit(*ids: Any) -> bytes:
    return pickle.dumps({"operation_id": 5, "new_lvl2_ids": list(ids), "new_root_ids": []})
