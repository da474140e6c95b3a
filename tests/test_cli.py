"""The command line: what each command prints, and how it says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from l2features.cli import main
from l2features.compute import ChunkSource, read_geometry
from l2features.config import load_dataset
from l2features.geometry import Chunk, Geometry
from l2features.rates import RATE_WINDOW
from l2features.report import served_rows
from l2features.rows import Rows
from l2features.store import DONE, FAILED, ChunkRecord, Meta, open_store
from l2features.volume import Volume

from .command import run
from .conftest import STORE_URL, Recordings, dataset_file

COMMANDS = ["sample", "sample-edit", "up", "status", "get", "chunk", "serve", "deadletters"]
NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path, sample: Path) -> Path:
    """A data sets file whose table holds one chunk of the sample, and a failed one."""
    path = dataset_file(tmp_path, sample)
    dataset = load_dataset("sample", path)
    geometry = read_geometry(dataset, Volume(dataset.cv_path))
    store = open_store(dataset.store, dataset.l2cache_id)
    store.create(Meta(dataset.graph_id, dataset.cv_path, "2026-11-21 00:27:44", geometry))
    result = ChunkSource(dataset, geometry, NOW).compute(Chunk(1, 0, 0))
    store.write(result.features)
    nodes = len(result.features)
    done = ChunkRecord(geometry.chunk_id(Chunk(1, 0, 0)), DONE, NOW, nodes, orphans=2)
    store.put_chunk(done, result.segments)
    store.put_chunk(ChunkRecord(geometry.chunk_id(Chunk(2, 1, 1)), FAILED, NOW, reason="cannot read it"))
    store.close()
    return path


def stored(config: Path) -> tuple[Rows, Geometry]:
    """The rows of the chunk in the table, and the geometry."""
    dataset = load_dataset("sample", config)
    store = open_store(dataset.store, dataset.l2cache_id)
    meta = store.meta()
    assert meta
    assert meta.geometry
    chunk_id = meta.geometry.chunk_id(Chunk(1, 0, 0))
    rows = store.scan_chunk(chunk_id, meta.geometry.layout.last_id(chunk_id))
    store.close()
    assert len(rows) >= 3
    return rows, meta.geometry


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
    assert set(COMMANDS) == set(main.commands)
    assert "beam_jobs.ingest --config sample/datasets.yml --dataset sample --create" in result.output
    assert run("--version").output.startswith("l2features, version ")


# ------------------------------------------------------------------ sample
def test_sample_makes_a_data_set_that_works(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "sample"
    result = run("sample", folder, "--grid", "2,1,1", "--chunk-size", "16,16,8")
    assert result.exit_code == 0
    config = folder / "datasets.yml"
    assert (
        f"wrote {config}\nnext: python -m beam_jobs.ingest --config {config} --dataset sample --create"
        in result.output
    )
    dataset = load_dataset("sample", config)
    geometry = read_geometry(dataset, Volume(dataset.cv_path))
    assert (geometry.grid, geometry.chunk_size, geometry.voxel_size) == ((2, 1, 1), (16, 16, 8), (28, 12, 6))
    assert (dataset.graph, dataset.store) == ("flat", f"sqlite://{folder}/l2cache.db")
    assert any(geometry.voxel_offset)
    again = run("sample", folder)
    assert (again.exit_code, f"error: {config} is there already" in again.output) == (2, True)


@pytest.mark.parametrize("value", ["1,2", "a,b,c", "0,1,1", "-1,1,1", "1.5,1,1", ""])
def test_sample_with_a_grid_that_cannot_be(tmp_path: Path, value: str) -> None:
    result = run("sample", tmp_path / "x", "--grid", value)
    assert result.exit_code == 2
    assert "Invalid value for '--grid'" in result.output
    assert "expected" in result.output


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


# ------------------------------------------------------------------ get
def test_get_in_json_is_the_served_form(config: Path) -> None:
    rows, geometry = stored(config)
    asked = [*rows.ids[::-1].tolist(), 2**64 - 1, int(rows.ids[0])]
    result = run("get", "sample", *asked, "--config", config, "--json")
    assert result.exit_code == 0
    expected = {**served_rows(rows, geometry), str(2**64 - 1): {}}
    assert result.output == json.dumps(expected, separators=(",", ":")) + "\n"
    first = next(iter(expected.values()))
    assert list(first) == sorted(first)
    assert all(
        1024 * 16 + 32 * 16 <= v["rep_coord_nm"][0] < 1024 * 16 + 64 * 16 for v in expected.values() if v
    )


def test_get_as_a_table(config: Path) -> None:
    rows, geometry = stored(config)
    ids = rows.ids[:2].tolist()
    lines = run("get", "sample", ids[1], 77, ids[0], "--config", config).output.splitlines()
    assert lines[0].split()[:4] == ["L2", "id", "size_nm3", "area_nm2"]
    assert [line.split()[0] for line in lines[1:]] == [str(ids[1]), "77", str(ids[0])]
    assert "not in the table" in lines[2]
    size = served_rows(rows, geometry)[str(ids[0])]["size_nm3"]
    assert lines[3].split()[1] == str(size)


def test_get_from_the_recorded_table_is_what_the_genuine_server_answers(
    recordings: Recordings, tmp_path: Path
) -> None:
    path = dataset_file(
        tmp_path,
        recordings.cv_path("fixture_v2"),
        graph="graphene",
        store=STORE_URL,
        l2cache_id="l2cache_fixture",
        chunk_size=None,
    )
    exchanges = {e["name"]: e for e in recordings.json("http/index.json")["exchanges"]}
    for name in ("attributes_all", "attributes_some_missing", "attributes_root_id"):
        answer = exchanges[name]["response"]["body"]
        result = run("get", "sample", *json.loads(answer), "--config", path, "--json")
        assert json.loads(result.stdout) == json.loads(answer)


@pytest.mark.parametrize("wrong", ["abc", "1.5", str(2**64), "0x10", "1e5", "²"])
def test_get_with_a_wrong_id(config: Path, wrong: str) -> None:
    result = run("get", "sample", "5", wrong, "--config", config)
    assert result.exit_code == 2
    assert result.output == f"error: {wrong!r} is not a node id: expected an integer from 0 to {2**64 - 1}\n"


@pytest.mark.parametrize("arguments", [(), ("5", "--chunk", "1,0,0")])
def test_get_needs_ids_or_a_chunk(config: Path, arguments: tuple[str, ...]) -> None:
    result = run("get", "sample", *arguments, "--config", config)
    assert (result.exit_code, "expected either node ids or --chunk X,Y,Z" in result.output) == (2, True)


def test_get_of_a_chunk(config: Path) -> None:
    rows, geometry = stored(config)
    expected = served_rows(rows, geometry)
    whole = run("get", "sample", "--chunk", "1,0,0", "--config", config, "--json")
    assert json.loads(whole.output) == expected
    two = run("get", "sample", "--chunk", "1,0,0", "--limit", 2, "--config", config, "--json")
    assert json.loads(two.output) == {k: expected[k] for k in list(expected)[:2]}
    assert run("get", "sample", "--chunk", "0,0,0", "--config", config, "--json").output == "{}\n"
    outside = run("get", "sample", "--chunk", "3,0,0", "--config", config)
    assert (outside.exit_code, "chunk 3,0,0" in outside.output) == (2, True)


def test_get_segments(config: Path) -> None:
    dataset = load_dataset("sample", config)
    geometry = stored(config)[1]
    labels = Volume(dataset.cv_path).read(Chunk(1, 0, 0), geometry).labels
    segments = [int(label) for label in np.unique(labels) if label]
    first = geometry.chunk_id(Chunk(1, 0, 0)) + 1
    asked = [first + 1, first, first + 10_000]
    result = run("get", "sample", *asked, "--segments", "--config", config, "--json")
    assert result.exit_code == 0
    found = json.loads(result.output)
    assert {int(node): int(segment) for node, segment in found.items() if segment} == {
        first: segments[0],
        first + 1: segments[1],
    }


# ------------------------------------------------------------------ chunk
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


@pytest.mark.parametrize(("time", "orphans"), [("2026-11-21 00:27:44", 0), ("2026-11-20 00:00:00", None)])
def test_chunk_of_a_graph_at_a_time(
    recordings: Recordings, tmp_path: Path, time: str, orphans: int | None
) -> None:
    path = dataset_file(tmp_path, recordings.cv_path("fixture_v2"), graph="graphene", chunk_size=None)
    result = run("chunk", "sample", "0,0,0", "--config", path, "--timestamp", time, "--json")
    nodes = json.loads(result.stdout)
    assert (result.exit_code, bool(nodes)) == (0, orphans == 0)
    assert ("supervoxels without a parent at " + time in result.stderr) == (orphans is None)
    assert set(nodes) <= set(recordings.json("l2_children.json")["l2"])


def test_a_chunk_that_cannot_be_read(tmp_path: Path, sample: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(sample, tmp_path / "copy"))
    next(copy.glob("16_16_40/1024-*_512-*_20-*")).write_bytes(b"not a chunk")
    result = run("chunk", "sample", "0,0,0", "--config", dataset_file(tmp_path, copy))
    assert (result.exit_code, "L2 id" in result.stdout) == (1, False)
    assert result.stderr.startswith("error: chunk 0,0,0: cannot read precomputed://")


# ------------------------------------------------------------------ what is not there
@pytest.mark.parametrize(
    "command", [("status", "sample"), ("get", "sample", "5"), ("chunk", "sample", "0,0,0")]
)
def test_config_that_is_missing_or_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Path, command: tuple[str, ...]
) -> None:
    monkeypatch.delenv("GRAPH_L2CACHE_CONFIG_PATH", raising=False)
    unset = run(*command)
    assert (unset.exit_code, "give --config FILE or set GRAPH_L2CACHE_CONFIG_PATH" in unset.output) == (
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
