"""Tests of ``l2features neuron``, ``neurons`` and ``export``: values and error messages."""

from __future__ import annotations

import csv
import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from l2features.cli.commands import main
from l2features.config.datasets import load_dataset
from l2features.core.geometry import Chunk
from l2features.core.ids import as_ids
from l2features.ingest.compute import read_geometry
from l2features.store.base import FAILED, ChunkRecord
from l2features.testing.layers import open_volume, read_whole
from l2features.testing.server import nodes_of
from l2features.testing.stores import open_table
from tests.support.command import run
from tests.support.jobs import own_copy
from tests.support.one_chunk import NOW

EXPORT = ("export", "sample", "--to", "out.parquet")


@pytest.fixture(scope="module")
def ingested(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_copy(undisturbed, tmp_path_factory.mktemp("neurons"))


@pytest.fixture(scope="module")
def voxels(ingested: Path) -> dict[int, int]:
    """Return the number of voxels of each segment, summed over all chunks."""
    dataset = load_dataset("sample", ingested)
    geometry, volume = read_geometry(dataset), open_volume(dataset)
    counts: dict[int, int] = {}
    for xyz in np.ndindex(*geometry.grid):
        labels = read_whole(volume, Chunk(*xyz), geometry).labels
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            counts[int(label)] = counts.get(int(label), 0) + int(count)
    counts.pop(0)
    return counts


def voxel_nm3(config: Path) -> int:
    return int(np.prod(read_geometry(load_dataset("sample", config)).resolution))


# ------------------------------------------------------------------ one root
def test_the_volume_of_one_segment(ingested: Path, voxels: dict[int, int]) -> None:
    segment = max(voxels, key=lambda one: voxels[one])
    printed = run("neuron", "sample", segment, "--config", ingested, "--json")
    assert printed.exit_code == 0, printed.output
    summary = json.loads(printed.stdout)[str(segment)]
    assert (summary["status"], summary["n_components"]) == ("ready", 1)
    assert summary["size_nm3"] == voxels[segment] * voxel_nm3(ingested)
    card = run("neuron", "sample", segment, "--config", ingested)
    assert f"root {segment} of sample: {summary['n_nodes']} L2 nodes" in card.stdout
    assert f"{summary['size_nm3'] / 1e9:.4g} um^3" in card.stdout
    assert max(map(len, card.stdout.splitlines())) <= 100
    fewer = run("neuron", "sample", segment, "--config", ingested, "--no-graph")
    assert ("cable length" in card.stdout, "cable length" in fewer.stdout) == (True, False)


@pytest.mark.parametrize("suffix", [".swc", ".json", ".arrow"])
def test_a_skeleton(ingested: Path, voxels: dict[int, int], tmp_path: Path, suffix: str) -> None:
    segment, file = max(voxels, key=lambda one: voxels[one]), tmp_path / f"out{suffix}"
    done = run("neuron", "sample", segment, "--config", ingested, "--skeleton", file)
    assert done.exit_code == 0, done.output
    if suffix == ".swc":
        import navis  # takes eight seconds, which each worker of the tests would need

        neuron = navis.read_swc(str(file))
        cable = run("neuron", "sample", segment, "--config", ingested, "--json").stdout
        assert neuron.cable_length == pytest.approx(json.loads(cable)[str(segment)]["cable_length_nm"])
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("neuron", "sample", "999999"), 1, "error: root 999999: unknown to the graph\n"),
        (("neuron", "sample", "0"), 1, "error: root 0: not a root of this data set"),
        (("neuron", "sample", "5", "--max-nodes", "1"), 1, "expected 1 at most\n"),
        (("neuron", "sample", "x"), 2, "error: 'x' is not a root id: expected an integer"),
        (("neuron", "sample", "5", "--skeleton", "out.obj"), 2, "ends with .swc or .json or .arrow\n"),
        (("neuron", "sample", "999999", "--skeleton", "no/folder.swc"), 2, "folder does not exist\n"),
        (("export", "sample", "--to", "no/out.parquet"), 2, "folder does not exist\n"),
        (("neurons", "sample", "-", "--to", "out.txt"), 2, "ends with .parquet or .csv\n"),
        (("neurons", "sample", "-", "--to", "out.csv", "--json"), 2, "expected only one of them\n"),
        (
            ("neurons", "sample", "-"),
            2,
            "error: <stdin>: no root id: expected one id per line, or a CSV file with a header\n",
        ),
        (("export", "sample", "--to", "out.csv"), 2, "ends with .parquet\n"),
        (
            ("export", "sample", "--to", "out.parquet", "--chunks", "0:9,0:1,0:1"),
            2,
            "expected a part of the grid",
        ),
        (
            ("export", "sample", "--to", "out.parquet", "--timestamp", "2026-01-01 00:00:00"),
            2,
            "with a graph",
        ),
    ],
)
def test_errors_are_one_line(
    ingested: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments, "--config", ingested)
    assert (done.exit_code, said in done.stderr) == (code, True), done.output
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_id_of_a_node_names_its_root(ingested: Path, voxels: dict[int, int]) -> None:
    segment = max(voxels, key=lambda one: voxels[one])
    with closing(open_table(ingested)) as store:
        node = int(store.segment_nodes(as_ids([segment]), 100)[segment][0])
    done = run("neuron", "sample", node, "--config", ingested)
    said = f"error: root {node}: unknown to the graph; it is the id of an L2 node, of root {segment}\n"
    assert (done.exit_code, done.stderr) == (1, said)


# ------------------------------------------------------------------ many roots
def test_a_table_of_many_roots(ingested: Path, voxels: dict[int, int], tmp_path: Path) -> None:
    segments = sorted(voxels)
    text = "\n".join(map(str, [*segments, 999999]))
    shown = CliRunner().invoke(
        main, ["neurons", "sample", "-", "--config", str(ingested), "--graph"], input=text
    )
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == text.splitlines()
    assert max(map(len, lines)) <= 100
    assert "root 999999: unknown to the graph\n" in shown.stderr
    cells = tmp_path / "cells.csv"
    cells.write_text("name,root\n" + "".join(f"n{one},{one}\n" for one in segments))
    for suffix in (".csv", ".parquet"):
        file = tmp_path / f"out{suffix}"
        flags = ("--column", "root", "--graph", "--config", ingested, "--to", file)
        done = run("neurons", "sample", cells, *flags)
        assert done.exit_code == 0, done.output
        assert f"wrote {len(segments)} roots to {file}: {len(segments)} ready\n" == done.stdout
        if suffix == ".csv":
            rows = list(csv.DictReader(file.open()))
        else:
            table = pq.read_table(file)
            rows = table.to_pylist()
            assert json.loads(table.schema.metadata[b"dataset"]) == "sample"
        found = {int(row["root_id"]): int(row["size_nm3"]) for row in rows}
        assert found == {one: count * voxel_nm3(ingested) for one, count in voxels.items()}


# ------------------------------------------------------------------ export
def test_an_export_has_every_node_and_its_segment(
    ingested: Path, voxels: dict[int, int], tmp_path: Path
) -> None:
    file = tmp_path / "nodes.parquet"
    done = run("export", "sample", "--config", ingested, "--to", file)
    assert done.exit_code == 0, done.output
    table = pq.read_table(file)
    ids = as_ids(table.column("id").to_pylist())
    assert (ids == np.sort(nodes_of(ingested))).all()
    sizes: dict[int, int] = {}
    for segment, size in zip(*(table.column(n).to_pylist() for n in ("segment_id", "size_nm3")), strict=True):
        sizes[segment] = sizes.get(segment, 0) + size
    assert sizes == {one: count * voxel_nm3(ingested) for one, count in voxels.items()}
    answer = json.loads(run("get", "sample", ids[0], "--config", ingested, "--json").stdout)
    row = {name: value for name, value in table.slice(0, 1).to_pylist()[0].items() if value is not None}
    assert {name: row[name] for name in answer[str(ids[0])]} == answer[str(ids[0])]
    about = {
        key.decode(): json.loads(value)
        for key, value in table.schema.metadata.items()
        if key != b"ARROW:schema"
    }
    assert (about["dataset"], about["graph_id"]) == ("sample", "flat")
    assert about["software"].startswith("l2features ")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_an_export_of_some_chunks(ingested: Path, tmp_path: Path) -> None:
    file, geometry = tmp_path / "part.parquet", read_geometry(load_dataset("sample", ingested))
    done = run("export", "sample", "--config", ingested, "--to", file, "--chunks", "1:3,0:1,0:2")
    assert done.exit_code == 0, done.output
    ids = as_ids(pq.read_table(file).column("id").to_pylist())
    xyz = geometry.layout.chunk_coordinates(nodes_of(ingested))
    inside = ((xyz >= [1, 0, 0]) & (xyz < [3, 1, 2])).all(axis=1)
    assert (ids == np.sort(nodes_of(ingested)[inside])).all()


def test_an_export_says_which_chunks_lack_nodes(config: Path, tmp_path: Path) -> None:
    geometry = read_geometry(load_dataset("sample", config))
    with closing(open_table(config)) as store:
        record = ChunkRecord(geometry.chunk_id(Chunk(2, 1, 1)), FAILED, NOW, reason="cannot read it")
        store.put_chunk(record)
    file = tmp_path / "out" / "nodes.parquet"
    file.parent.mkdir()
    done = run("export", "sample", "--config", config, "--to", file)
    assert done.exit_code == 1
    assert "chunk 2,1,1 of data set 'sample' failed: cannot read it\n" in done.stderr
    assert (
        "error: the file may lack nodes of 1 of 12 chunks: run `l2features ingest`, then export again\n"
        in done.stderr
    )
    assert len(pq.read_table(file)) == len(nodes_of(config))


def test_a_file_is_replaced_only_at_the_end(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "out" / "nodes.parquet"
    file.parent.mkdir()
    file.write_text("kept")
    with closing(open_table(config)) as store:
        database = Path(store.url.removeprefix("sqlite://"))
    content = database.read_bytes()
    database.write_bytes(content[: len(content) // 2])
    done = run("export", "sample", "--config", config, "--to", file)
    assert done.exit_code == 1, done.output
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert file.read_text() == "kept"
    assert [path.name for path in file.parent.iterdir()] == [file.name]
