"""Tests of ``l2features sample``: which folders it writes and which it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from l2features.config.datasets import load_dataset
from l2features.ingest.compute import read_geometry
from tests.support.command import run


def test_sample_makes_a_data_set_that_works(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "sample"
    result = run("sample", folder, "--grid", "2,1,1", "--chunk-size", "16,16,8")
    assert result.exit_code == 0
    config = folder / "datasets.yml"
    assert f"wrote {config}\nnext: l2features ingest sample --config {config} --create" in result.output
    dataset = load_dataset("sample", config)
    geometry = read_geometry(dataset)
    assert (geometry.grid, geometry.chunk_size, geometry.voxel_size) == ((2, 1, 1), (16, 16, 8), (28, 12, 6))
    assert (dataset.graph, dataset.store) == ("flat", f"sqlite://{folder}/l2cache.db")
    assert any(geometry.voxel_offset)
    again = run("sample", folder)
    assert (again.exit_code, f"error: {config} exists" in again.output) == (2, True)


@pytest.mark.parametrize("value", ["1,2", "a,b,c", "0,1,1", "-1,1,1", "1.5,1,1", ""])
def test_sample_with_an_invalid_grid(tmp_path: Path, value: str) -> None:
    result = run("sample", tmp_path / "x", "--grid", value)
    assert result.exit_code == 2
    assert "Invalid value for '--grid'" in result.output
    assert "expected" in result.output


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


SMALL = ("--grid", "2,1,1", "--chunk-size", "16,16,8")


@pytest.mark.parametrize("name", ["data.csv", "segmentation/info", "segmentation/notes", ".hidden", "a/b/c"])
def test_a_folder_with_other_files_is_refused_unchanged(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).write_text('{"type": "segmentation"}')
    refused = run("sample", tmp_path, *SMALL)
    assert refused.exit_code == 2
    expected = f"error: {tmp_path} has other files ({Path(name).parts[0]}): expected a new or empty"
    assert refused.stderr.splitlines()[-1].startswith(expected)
    assert list(files_of(tmp_path)) == [name]


def test_a_sample_that_was_written_in_part_is_completed(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    assert run("sample", folder, *SMALL).exit_code == 0
    whole = files_of(folder)
    (folder / "datasets.yml").unlink()
    next(folder.glob("segmentation/16_16_40/*")).unlink()
    (folder / "l2cache.db").write_bytes(b"")
    assert run("sample", folder, *SMALL).exit_code == 0
    assert files_of(folder) == whole | {"l2cache.db": b""}
    again = run("sample", folder, *SMALL)
    assert (again.exit_code, again.output) == (0, f"{folder}: this sample exists already\n")


@pytest.mark.parametrize("where", ["file/sample", "taken"])
def test_a_folder_that_cannot_be_written(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "datasets.yml").mkdir(parents=True)
    refused = run("sample", tmp_path / where, *SMALL)
    assert refused.exit_code == 2
    assert "Traceback" not in refused.output
    assert refused.output.splitlines()[-1].endswith(("directory", "directory."))
