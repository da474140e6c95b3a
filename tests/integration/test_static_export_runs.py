"""Tests of static exports of a renewed version (one with a base): resumed, repeated and refused runs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from l2features.pictures import row_files, static_export
from l2features.pictures.node_layers import NODE_LAYERS
from l2features.store.base import Meta
from l2features.testing.stores import open_table
from l2features.testing.version_files import visible_rows
from l2features.versions.folders import Folder
from l2features.versions.manifest import read_manifest
from tests.support.jobs import dataset_file
from tests.support.known_roots import GEOMETRY
from tests.support.static_export import SMALL, StaticLayer, run_export, uneven_indexes
from tests.support.version_chains import write_chain
from tests.support.version_job import files_of


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three random versions, the later ones with retired roots, and return their data sets file."""
    folder = tmp_path_factory.mktemp("chain")
    write_chain(folder / "versions", renewals=2, nodes=2_000)
    config = dataset_file(folder, "precomputed://file:///nowhere", versions=str(folder / "versions"))
    with closing(open_table(config)) as store:
        store.create(Meta("known", "", "2026-11-21 00:27:44", GEOMETRY))
    return config


@pytest.fixture(scope="module")
def whole(chain: Path) -> Path:
    """Export the newest version."""
    output = chain.parent / "whole"
    done = run_export(chain, output, 3, *SMALL)
    assert (done.returncode, done.stdout.splitlines()[-1].split(" of ")[1]) == (
        0,
        done.stdout.split(" of ")[1][:-1],
    )
    return output


def test_only_visible_rows_are_exported(chain: Path, whole: Path) -> None:
    folder = Folder(str(chain.parent / "versions"))
    manifest = read_manifest(folder, 3)
    rows = [row for row in visible_rows(folder, manifest, "by_node") if row["size_nm3"] is not None]
    assert len(manifest.layers) == 3
    assert len(rows) < manifest.totals.nodes
    layer = StaticLayer(whole / "nodes")
    assert {node: one.related["root"] for node, one in layer.by_id().items()} == {
        row["l2_id"]: [row["root_id"]] for row in rows
    }
    found = layer.spatial()
    assert len(layer.info["spatial"]) > 2
    for row in rows:
        one = found[row["l2_id"]]
        assert one.points == [tuple(float(np.float32(row[f"rep_coord_nm_{axis}"])) for axis in "xyz")]
        assert one.properties["size_um3"] == float(np.float32(row["size_nm3"] * 1e-9))
        assert one.properties["max_dt_nm"] == row["max_dt_nm"]


def test_files_of_ids_have_the_wanted_size(whole: Path) -> None:
    """Check only `by_id`: in other indexes, one root or cell may fill much of a 20,000-byte file."""
    uneven, several = uneven_indexes(whole, 20_000)
    assert {f"{layer}/by_id" for layer in NODE_LAYERS} <= several - set(uneven)


def test_a_beam_runner_writes_the_same_files(chain: Path, whole: Path, tmp_path: Path) -> None:
    done = run_export(chain, tmp_path, 3, *SMALL, "--runner=FnApiRunner")
    assert done.returncode == 0, done.stderr
    assert every_file(tmp_path) == every_file(whole)


def every_file(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("moment", ["scan", "shard", "damaged"])
def test_a_stopped_export_continues(
    chain: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    kind, name = (row_files.RowFiles, "put") if moment == "scan" else (static_export.PartWriter, "write")
    step = getattr(kind, name)

    def stop(self: Any, *arguments: Any) -> Any:
        result = step(self, *arguments)
        os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(kind, name, stop)
    stopped = run_export(chain, tmp_path, 3, *SMALL)
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert stopped.stderr.endswith("stopped: run the command again to continue\n")
    assert not list(tmp_path.rglob("info"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.shard")}
    assert len(before) == (moment != "scan")
    monkeypatch.undo()
    if moment == "damaged":
        (shard,) = before
        shard.write_bytes(shard.read_bytes()[:-1])
        shard.with_name(f".0.shard.{uuid4().hex}").write_bytes(b"killed while it was written")
        before = {}
    done = run_export(chain, tmp_path, 3, *SMALL)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert every_file(tmp_path) == every_file(whole)


def test_a_finished_export_is_reported_again(chain: Path, whole: Path) -> None:
    """Check that the temporary files of a job killed after it wrote the manifest are removed."""
    before = every_file(whole)
    (whole / "work").mkdir()
    (whole / f".manifest.json.{uuid4().hex}").touch()
    again = run_export(chain, whole, 3, *SMALL)
    assert again.returncode == 0
    assert again.stdout.startswith("version 3: ")
    assert every_file(whole) == before
    assert not (whole / "work").exists()


def test_processes_write_the_same_files(chain: Path, whole: Path, tmp_path: Path) -> None:
    assert run_export(chain, tmp_path, 3, *SMALL, processes=True).returncode == 0
    assert every_file(tmp_path) == every_file(whole)


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "notes.txt").write_text("mine")
    yield tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_of_others_is_refused(chain: Path, foreign: Path) -> None:
    done = run_export(chain, foreign, 3)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (f"error: {foreign} has 'notes.txt' but no plan.json: expected an empty folder\n")


@pytest.mark.parametrize(
    ("version", "flags", "code", "message"),
    [
        (7, (), 1, "version 7 is not in "),
        (2, (), 1, " has another export: version 3 of 'sample', layers nodes,axes,segment_properties, "),
        (3, ("--layers", "nodes"), 1, ": expected version 3 of 'sample', layers nodes, 10000 segments, "),
        (3, ("--layers", "nodes,meshes"), 2, "layer 'meshes': expected one or more of nodes, axes, "),
        (3, ("--dataset", "unknown"), 2, "unknown"),
        (3, ("--output", "s3://bucket"), 2, "folder 's3://bucket': expected an "),
        (0, (), 2, "--version 0: expected 1 or more"),
        (3, ("--shard_size", 0), 2, "--shard_size 0: expected 1 or more"),
    ],
)
def test_a_users_mistake(
    chain: Path, whole: Path, version: int, flags: tuple[Any, ...], code: int, message: str
) -> None:
    before = every_file(whole)
    done = run_export(chain, whole, version, *flags)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr.splitlines()[-1]
    assert every_file(whole) == before


def test_of_two_jobs_at_once_one_wins(chain: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes((whole / "plan.json").read_bytes())
    with Folder(str(tmp_path)).locked("plan.json"):
        done = run_export(chain, tmp_path, 3, *SMALL)
    assert (done.returncode, done.stderr) == (
        1,
        f"error: the export in {tmp_path} is being made by another job: wait for it\n",
    )


def test_a_plan_of_a_newer_version_is_refused(chain: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"format": 2}')
    done = run_export(chain, tmp_path, 3)
    assert done.returncode == 1
    assert "plan.json" in done.stderr
    assert "format 2" in done.stderr
    (tmp_path / "plan.json").write_text("{}")
    assert "is not the plan of an export: choose an empty folder" in run_export(chain, tmp_path, 3).stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 2}', "manifest.json: format 2, expected 1"),
        ("{}", "is malformed: choose an empty folder"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_kept(
    chain: Path, whole: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "plan.json").write_bytes((whole / "plan.json").read_bytes())
    (tmp_path / "manifest.json").write_text(content)
    done = run_export(chain, tmp_path, 3, *SMALL)
    assert done.returncode == 1
    assert message in done.stderr
    assert (tmp_path / "manifest.json").read_text() == content


def test_only_the_largest_segments_are_listed(chain: Path, tmp_path: Path) -> None:
    done = run_export(chain, tmp_path, 3, "--layers", "segment_properties", "--segments", 3)
    assert done.returncode == 0, done.stderr
    folder = Folder(str(chain.parent / "versions"))
    rows = visible_rows(folder, read_manifest(folder, 3), "roots")
    largest = sorted(rows, key=lambda row: (-row["size_nm3"], row["root_id"]))[:3]
    info = json.loads((tmp_path / "segment_properties" / "info").read_text())
    assert info["inline"]["ids"] == [str(root) for root in sorted(row["root_id"] for row in largest)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("index.html", "manifest.json", "plan.json", "segment_properties")
    ]
    assert files_of(tmp_path)
