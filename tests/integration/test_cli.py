"""Tests of the command line: what each command prints, and its error messages."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from l2features.cli.commands import MODULES
from l2features.cli.report import served_rows
from l2features.config.datasets import load_dataset
from l2features.core.geometry import Chunk
from l2features.ingest.rates import RATE_WINDOW
from l2features.store.base import DONE, ChunkRecord, open_store
from tests.support.command import run
from tests.support.jobs import dataset_file
from tests.support.one_chunk import NOW, config, stored

COMMANDS = [
    "sample",
    "sample-edit",
    "up",
    "status",
    "get",
    "chunk",
    "serve",
    "index",
    "neuron",
    "neurons",
    "export",
    "deadletters",
    "versions",
    "query",
    "view",
    "ingest",
    "audit",
    "materialize",
    "datasets",
    "doctor",
    "register",
    "completion",
]
__all__ = ["config"]


# ------------------------------------------------------------------ help
@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_with_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"\n    l2features {command} " in result.output.split("Example:")[1]
    assert result.output == run(command, "-h").output


def test_help_names_every_command() -> None:
    result = run("--help")
    assert all(f"\n  {command} " in result.output for command in COMMANDS)
    assert set(COMMANDS) == set(MODULES)
    assert "l2features ingest sample --config sample/datasets.yml --create" in result.output
    assert run("--version").output.startswith("l2features, version ")


# ------------------------------------------------------------------ status
def test_status(config: Path) -> None:
    n = len(stored(config)[0])
    result = run("status", "sample", "--config", config)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"1/12 chunks done in table l2cache_sample: {n} nodes",
        "2 supervoxels had no parent",
        "newest chunk at 2026-11-21 12:00:00 UTC",
        "1 chunks failed:",
        "  chunk 2,1,1: cannot read it",
        "no updates are recorded",
        "no audit is recorded",
    ]


def test_status_in_json(config: Path) -> None:
    state = json.loads(run("status", "sample", "--config", config, "--json").output)
    assert (state["table"], state["done"], state["total"], state["orphans"]) == ("l2cache_sample", 1, 12, 2)
    assert state["failed"] == [{"chunk": "2,1,1", "reason": "cannot read it"}]
    assert state["newest"] == "2026-11-21T12:00:00+00:00"
    assert [state[name] for name in ("chunks_per_minute", "updates", "audit")] == [None] * 3


def test_status_counts_rates_over_the_last_minutes_of_work(config: Path) -> None:
    dataset = load_dataset("sample", config)
    store = open_store(dataset.store, dataset.l2cache_id)
    geometry = stored(config)[1]
    old = NOW - RATE_WINDOW - timedelta(seconds=1)
    for z, y, time, nodes in [(0, 0, old, 1000), (0, 1, NOW - timedelta(seconds=60), 50), (1, 0, NOW, 30)]:
        store.put_chunk(ChunkRecord(geometry.chunk_id(Chunk(0, y, z)), DONE, time, nodes))
    store.put_chunk(ChunkRecord(geometry.chunk_id(Chunk(1, 0, 0)), DONE, NOW, 90))
    store.close()
    state = json.loads(run("status", "sample", "--config", config, "--json").output)
    assert (state["done"], state["nodes"]) == (4, 1170)
    assert (state["chunks_per_minute"], state["nodes_per_second"]) == (2.0, 2.0)
    assert (
        "2.0 chunks/min and 2.0 nodes/s in its last 10 minutes"
        in run("status", "sample", "--config", config).output
    )


# ------------------------------------------------------------------ what is not there
@pytest.mark.parametrize(
    "command", [("status", "sample"), ("get", "sample", "5"), ("chunk", "sample", "0,0,0")]
)
def test_config_that_is_missing_or_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Path, command: tuple[str, ...]
) -> None:
    monkeypatch.delenv("GRAPH_L2CACHE_CONFIG_PATH", raising=False)
    unset = run(*command)
    assert (unset.exit_code, "pass --config FILE or set GRAPH_L2CACHE_CONFIG_PATH" in unset.output) == (
        2,
        True,
    )
    missing = run(*command, "--config", tmp_path / "none.yml")
    assert (missing.exit_code, "none.yml: No such file or directory" in missing.output) == (2, True)
    other = run(command[0], "other", *command[2:], "--config", config)
    assert other.exit_code == 2
    assert "error: data set 'other' is not in the data sets file: expected one of sample" in other.output
    monkeypatch.setenv("GRAPH_L2CACHE_CONFIG_PATH", str(config))
    assert run(*command).exit_code == 0


@pytest.mark.parametrize("command", [("status", "sample"), ("get", "sample", "5")])
def test_before_the_ingest(tmp_path: Path, sample: Path, command: tuple[str, ...]) -> None:
    result = run(*command, "--config", dataset_file(tmp_path, sample))
    assert result.exit_code == 1
    assert result.output.startswith("error: table l2cache_sample not found: there is no file ")


def test_as_a_process(config: Path) -> None:
    rows, geometry = stored(config)
    node = str(rows.ids[0])
    command = [
        sys.executable,
        "-m",
        "l2features.cli",
        "get",
        "sample",
        node,
        "--json",
        "--config",
        str(config),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == {node: served_rows(rows, geometry)[node]}
    assert done.stderr == ""
    wrong = subprocess.run([*command[:5], "x", *command[6:]], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout, wrong.stderr[:6]) == (2, "", "error:")
