"""Tests of ``l2features get``: rows of nodes and chunks, and reasons for missing rows."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from l2features.cli.report import served_rows
from l2features.config.datasets import load_dataset
from l2features.core.geometry import Chunk
from l2features.store.base import DONE, FAILED, ChunkRecord
from l2features.testing.layers import open_volume, read_whole
from l2features.testing.stores import STORE_URL, open_table
from tests.support.command import run
from tests.support.jobs import Recordings, dataset_file
from tests.support.one_chunk import NOW, config, stored

__all__ = ["config"]


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
    ids, absent = rows.ids[:2].tolist(), int(rows.ids.max()) + 1
    lines = run("get", "sample", ids[1], 77, ids[0], absent, "--config", config).output.splitlines()
    shown = ["size_nm3", "area_nm2", "max_dt_nm", "mean_dt_nm", "rep_coord_nm"]
    assert lines[0].split() == ["L2", "id", *shown]
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[1:]] == [str(ids[1]), "77", str(ids[0]), str(absent)]
    assert "not an L2 id" in lines[2]
    assert "not in the table" in lines[4]
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
    assert json.loads(two.stdout) == {k: expected[k] for k in list(expected)[:2]}
    assert two.stderr == f"printed 2 of {len(expected)} nodes: --limit leaves out the others\n"
    assert run("get", "sample", 5, 6, "--limit", 1, "--config", config).stderr.startswith(
        "printed 1 of 2 nodes"
    )
    assert not run("get", "sample", "--chunk", "1,0,0", "--limit", len(expected), "--config", config).stderr
    outside = run("get", "sample", "--chunk", "3,0,0", "--config", config)
    assert (outside.exit_code, "chunk 3,0,0" in outside.output) == (2, True)


def test_get_some_attributes(config: Path) -> None:
    rows, geometry = stored(config)
    flags = ("--attributes", "pca_val, size_nm3", "--config", config)
    lines = run("get", "sample", *rows.ids[:2], *flags).output.splitlines()
    assert lines[0].split() == ["L2", "id", "pca_val", "size_nm3"]
    found = json.loads(run("get", "sample", *rows.ids, *flags, "--json").output)
    expected = served_rows(rows, geometry)
    assert found == {
        node: {name: values[name] for name in ("pca_val", "size_nm3") if name in values}
        for node, values in expected.items()
    }
    wrong = run("get", "sample", 5, "--attributes", "color", "--config", config)
    assert (wrong.exit_code, wrong.output.startswith("error: 'color' is not an attribute")) == (2, True)


def test_get_segments(config: Path) -> None:
    dataset = load_dataset("sample", config)
    geometry = stored(config)[1]
    labels = read_whole(open_volume(dataset), Chunk(1, 0, 0), geometry).labels
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


# ------------------------------------------------------------------ why there are no rows
FAILED_TEXT = "error: chunk 2,1,1 of data set 'sample' failed: cannot read it\n"
ABSENT_TEXT = (
    "error: chunk 0,0,0 of data set 'sample' is not ingested: l2features ingest sample computes it\n"
)


@pytest.mark.parametrize(("chunk", "said"), [("2,1,1", FAILED_TEXT), ("0,0,0", ABSENT_TEXT)])
@pytest.mark.parametrize("flags", [(), ("--json",), ("--segments",), ("--limit", "1")])
def test_a_chunk_without_rows_says_why(config: Path, chunk: str, said: str, flags: tuple[str, ...]) -> None:
    result = run("get", "sample", "--chunk", chunk, "--config", config, *flags)
    assert (result.exit_code, result.stderr) == (1, said)
    assert result.stdout == ("{}\n" if "--json" in flags else "")


def record(config: Path, chunk: Chunk, state: str, reason: str = "") -> None:
    geometry = stored(config)[1]
    with closing(open_table(config)) as store:
        store.put_chunk(ChunkRecord(geometry.chunk_id(chunk), state, NOW, reason=reason))


def test_a_done_chunk_without_nodes(config: Path) -> None:
    record(config, Chunk(0, 1, 0), DONE)
    said = "chunk 0,1,0 of data set 'sample' is done and has no nodes in the table\n"
    for flags, printed in (((), ""), (("--json",), "{}\n")):
        result = run("get", "sample", "--chunk", "0,1,0", "--config", config, *flags)
        assert (result.exit_code, result.stdout, result.stderr) == (0, printed, said)


def test_a_failed_chunk_with_rows_prints_them_and_why(config: Path) -> None:
    rows, geometry = stored(config)
    record(config, Chunk(1, 0, 0), FAILED, "a wrong parent")
    result = run("get", "sample", "--chunk", "1,0,0", "--config", config, "--json")
    assert json.loads(result.stdout) == served_rows(rows, geometry)
    assert result.exit_code == 1
    assert result.stderr == "error: chunk 1,0,0 of data set 'sample' failed: a wrong parent\n"


def test_rows_of_a_chunk_without_a_record(recordings: Recordings, tmp_path: Path) -> None:
    """Check a table of PCGL2Cache, which has no chunk records."""
    keys = {"graph": "graphene", "store": STORE_URL, "l2cache_id": "l2cache_fixture", "chunk_size": None}
    path = dataset_file(tmp_path, recordings.cv_path("fixture_v2"), **keys)
    result = run("get", "sample", "--chunk", "0,0,0", "--config", path, "--json")
    assert (result.exit_code, len(json.loads(result.stdout)) > 3) == (0, True)
    assert result.stderr == (
        "chunk 0,0,0 of data set 'sample' has no record of an ingest: these may not be all of its nodes\n"
    )


@pytest.mark.parametrize("graph", ["graphene", f"{STORE_URL}/fixture_v2"])
def test_segments_of_a_data_set_with_a_graph(tmp_path: Path, graph: str) -> None:
    path = dataset_file(tmp_path, "graphene://http://127.0.0.1:1/segmentation/table/t", graph=graph)
    result = run("get", "sample", "5", "--segments", "--config", path)
    assert (result.exit_code, result.output) == (
        2,
        f"error: data set 'sample' has a graph ({graph}): --segments is for data sets with graph: flat\n",
    )
