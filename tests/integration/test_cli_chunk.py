"""Tests of ``l2features chunk``, which computes and prints one chunk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from l2features.cli.report import served_rows
from tests.support.command import run
from tests.support.jobs import Recordings, dataset_file
from tests.support.one_chunk import config, stored

__all__ = ["config"]


def test_chunk_computes_and_writes_nothing(config: Path) -> None:
    rows, geometry = stored(config)
    before = sorted((p.name, p.stat().st_mtime_ns) for p in config.parent.iterdir())
    result = run("chunk", "sample", "1,0,0", "--config", config, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == served_rows(rows, geometry)
    table = run("chunk", "sample", "1,0,0", "--config", config).stdout
    assert (
        table.splitlines()[1:] == run("get", "sample", *rows.ids, "--config", config).stdout.splitlines()[1:]
    )
    assert sorted((p.name, p.stat().st_mtime_ns) for p in config.parent.iterdir()) == before


def test_chunk_needs_no_table(tmp_path: Path, sample: Path) -> None:
    path = dataset_file(tmp_path, sample)
    result = run("chunk", "sample", "1,0,0", "--config", path, "--json")
    assert (result.exit_code, len(json.loads(result.stdout)) >= 3) == (0, True)
    assert [p.name for p in tmp_path.iterdir()] == ["datasets.yml"]


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        ("3,0,0", "error: chunk 3,0,0: expected coordinates below 3,2,2"),
        ("0,0,99", "error: chunk 0,0,99: expected coordinates below 3,2,2"),
        ("1,2", "'1,2': expected three integers such as 1,2,0"),
        ("x,y,z", "'x,y,z': expected three integers such as 1,2,0"),
        ("1,0,0,0", "expected three integers such as 1,2,0"),
    ],
)
def test_chunk_with_wrong_coordinates(config: Path, chunk: str, message: str) -> None:
    result = run("chunk", "sample", chunk, "--config", config)
    assert result.exit_code == 2
    assert message in result.output


def test_chunk_at_a_wrong_time(config: Path) -> None:
    result = run("chunk", "sample", "0,0,0", "--config", config, "--timestamp", "yesterday")
    assert result.exit_code == 2
    assert "timestamp 'yesterday': expected \"YYYY-MM-DD HH:MM:SS\" (UTC)" in result.output


@pytest.mark.parametrize(
    ("time", "orphans"),
    [("2026-11-21 00:27:44", 0), ("2026-11-21T01:27:43.5+01:00", 0), ("2026-11-20T00:00:00Z", None)],
)
def test_chunk_of_a_graph_at_a_time(
    recordings: Recordings, tmp_path: Path, time: str, orphans: int | None
) -> None:
    path = dataset_file(tmp_path, recordings.cv_path("fixture_v2"), graph="graphene", chunk_size=None)
    result = run("chunk", "sample", "0,0,0", "--config", path, "--timestamp", time, "--json")
    nodes = json.loads(result.stdout)
    assert (result.exit_code, bool(nodes)) == (0, orphans == 0)
    assert ("supervoxels without a parent at 2026-11-20 00:00:00" in result.stderr) == (orphans is None)
    assert set(nodes) <= set(recordings.json("l2_children.json")["l2"])


def test_a_chunk_that_cannot_be_read(tmp_path: Path, sample: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(sample, tmp_path / "copy"))
    next(copy.glob("16_16_40/1024-*_512-*_20-*")).write_bytes(b"not a chunk")
    result = run("chunk", "sample", "0,0,0", "--config", dataset_file(tmp_path, copy))
    assert (result.exit_code, "L2 id" in result.stdout) == (1, False)
    assert result.stderr.startswith("error: chunk 0,0,0: cannot read precomputed://")
