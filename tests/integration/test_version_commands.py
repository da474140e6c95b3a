"""Tests of ``l2features versions`` and ``l2features query``."""

from __future__ import annotations

import csv
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.table import Table

from l2features.cli.report import rendered
from l2features.store.notes import put_note
from l2features.testing.small_table import DATASET, node_ids, small_table
from l2features.testing.stores import open_table
from l2features.testing.version_files import visible_rows
from l2features.versions.folders import Folder
from tests.support.command import run
from tests.support.version_chains import Chain, write_chain
from tests.support.versioned_tables import indexed_table, versioned_table, with_a_version


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return write_chain(tmp_path_factory.mktemp("chain") / "versions", renewals=2)


@pytest.fixture
def config(chain: Chain, tmp_path: Path) -> Path:
    return versioned_table(tmp_path, chain.folder.url)


def done(*arguments: Any) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


# ------------------------------------------------------------------ list and show
def test_list(chain: Chain, config: Path) -> None:
    lines = done("versions", "list", DATASET, "--config", config).splitlines()
    totals = [manifest.totals for manifest in chain.manifests]
    assert lines[0].split() == ["version", "timestamp", "base", "nodes", "roots", "missing", "size"]
    assert [line.split()[:6] for line in lines[1:]] == [
        [
            str(i + 1),
            "2026-11-21T00:27:44.368Z",
            "-" if i == 0 else str(i),
            str(t.nodes),
            str(t.roots),
            str(t.missing),
        ]
        for i, t in enumerate(totals)
    ]
    listed = json.loads(done("versions", "list", DATASET, "--config", config, "--json"))
    assert [(one["number"], one["nodes"]) for one in listed] == [
        (i + 1, t.nodes) for i, t in enumerate(totals)
    ]


def test_a_version_that_cannot_be_read_is_listed(tmp_path: Path) -> None:
    chain = write_chain(tmp_path / "versions", renewals=0)
    chain.folder.write("000002/manifest.json", b"{}")
    chain.folder.write("000003/manifest.json", b'{"format": 99}')
    chain.folder.write("7/manifest.json", b"foreign")
    result = run("versions", "list", DATASET, "--config", versioned_table(tmp_path, chain.folder.url))
    assert result.exit_code == 1
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["version", "1", "2", "3"]
    assert "error: version 2: " in result.stderr
    assert "is not a manifest: format: Field required" in result.stderr
    assert "format 99, expected 1 at most: a newer version of l2features wrote it" in result.stderr


def test_show(chain: Chain, config: Path) -> None:
    text = done("versions", "show", DATASET, 3, "--config", config)
    totals = chain.manifests[2].totals
    assert text.startswith("version 3 of sample, renews 2\nvalid at 2026-11-21T00:27:44.368Z, ")
    assert f"{totals.nodes} nodes of {totals.roots} roots" in text
    assert text.count("files of version ") == 3
    manifest = json.loads(done("versions", "show", DATASET, 3, "--config", config, "--json"))
    assert manifest["layers"][0]["files"][0]["path"] == "000001/by_root/part-00000.parquet"


def test_a_version_that_does_not_exist(config: Path) -> None:
    for command in (("versions", "show", DATASET, 9), ("query", DATASET, "SELECT 1", "--version", 9)):
        result = run(*command, "--config", config)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("error: version 9 is not in ")
        assert result.stderr.endswith("existing versions: 1, 2, 3\n")


def test_the_folder_is_a_note_of_the_table(chain: Chain, tmp_path: Path) -> None:
    config = small_table(tmp_path)
    result = run("versions", "list", DATASET, "--config", config)
    assert result.exit_code == 1
    assert "error: data set 'sample' has no versions: make one with `l2features materialize`" in result.stderr
    with closing(open_table(config)) as store:
        put_note(store, "versions", {"url": chain.folder.url})
    assert len(done("versions", "list", DATASET, "--config", config).splitlines()) == 4
    (tmp_path / "other").mkdir()
    other = versioned_table(tmp_path / "other", str(tmp_path / "none"))
    assert done("versions", "list", DATASET, "--config", other) == "no version yet\n"
    assert "has no version: make one" in run("query", DATASET, "SELECT 1", "--config", other).stderr


# ------------------------------------------------------------------ verify, diff, delete
@pytest.fixture
def sampled(tmp_path: Path) -> tuple[Path, Folder]:
    """Return the data sets file of a table without a graph, and the folder of its version."""
    config = with_a_version(indexed_table(tmp_path))
    folder = Folder(str(tmp_path / "versions"))
    return config, folder


def test_verify(sampled: tuple[Path, Folder]) -> None:
    config, folder = sampled
    text = done("versions", "verify", DATASET, 1, "--files-only", "--config", config)
    assert text == "version 1: 3 files, 100 nodes: 0 findings\n"
    found = json.loads(done("versions", "verify", DATASET, 1, "--files-only", "--config", config, "--json"))
    assert (found["findings"], found["files"], found["sampled"]) == ([], 3, 0)
    folder.delete("000001/roots/part-00000.parquet")
    result = run("versions", "verify", DATASET, 1, "--config", config)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "000001/roots/part-00000.parquet is missing",
        "version 1: 3 files, 100 nodes: 1 findings",
    ]


def test_verify_compares_samples(sampled: tuple[Path, Folder]) -> None:
    config, _ = sampled
    text = done("versions", "verify", DATASET, 1, "--config", config)
    assert text == "version 1: 3 files, 100 nodes, 100 nodes compared with graph and table: 0 findings\n"
    node = int(node_ids()[3])
    with closing(open_table(config)) as store:
        store.delete(node, node)
    result = run("versions", "verify", DATASET, 1, "--config", config)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (
        1,
        f"node {node}: has a row in the version, but none in the table",
    )


def test_verify_of_another_table(chain: Chain, config: Path) -> None:
    result = run("versions", "verify", DATASET, 1, "--config", config)
    assert result.exit_code == 1
    assert "version 1 is of table l2cache_sample, not of l2cache_small: check only its files" in result.stderr


def test_diff(chain: Chain, config: Path, tmp_path: Path) -> None:
    owners = [
        {row["l2_id"]: row["root_id"] for row in visible_rows(chain.folder, m, "by_node")}
        for m in chain.manifests
    ]
    differing = [
        node for node in sorted({*owners[0], *owners[2]}) if owners[0].get(node) != owners[2].get(node)
    ]
    text = done("versions", "diff", DATASET, 1, 3, "--config", config)
    roots = {*owners[0].values()} - {*owners[2].values()}, {*owners[2].values()} - {*owners[0].values()}
    assert text.startswith(f"roots: {len(roots[0])} only in 1, {len(roots[1])} only in 3\n")
    assert f"and {len(differing) - 20} more" in text
    counts = json.loads(done("versions", "diff", DATASET, 1, 3, "--config", config, "--json"))
    assert counts["nodes_only_a"] + counts["nodes_only_b"] + counts["nodes_moved"] == len(differing)
    done("versions", "diff", DATASET, 1, 3, "--config", config, "--to", tmp_path / "moved.parquet")
    table = pq.read_table(tmp_path / "moved.parquet")
    assert table["l2_id"].to_pylist() == differing
    assert table["root_id_b"].to_pylist() == [owners[2].get(node) for node in differing]
    same = done("versions", "diff", DATASET, 1, 1, "--config", config, "--to", tmp_path / "same.csv")
    assert same == "roots: 0 only in 1, 0 only in 1\nnodes: 0 only in 1, 0 only in 1, 0 with another root\n"
    assert (tmp_path / "same.csv").read_text().strip() == '"l2_id","root_id_a","root_id_b"'


def test_delete(tmp_path: Path) -> None:
    chain = write_chain(tmp_path / "versions", renewals=1)
    config = versioned_table(tmp_path, chain.folder.url)
    refused = run("versions", "delete", DATASET, 1, "--yes", "--config", config)
    assert (refused.exit_code, "error: version 1 is needed by version 2" in refused.stderr) == (1, True)
    asked = run("versions", "delete", DATASET, 2, "--config", config)
    assert (asked.exit_code, "is finished: delete it? [y/N]" in asked.output) == (1, True)
    assert chain.folder.exists("000002/manifest.json")
    assert done("versions", "delete", DATASET, 2, "--yes", "--config", config) == "deleted version 2\n"
    chain.folder.write("000002/plan.json", b"{}")
    assert "is unfinished, and a job" in run("versions", "delete", DATASET, 2, "--config", config).output
    done("versions", "delete", DATASET, 2, "--yes", "--config", config)
    assert chain.folder.names() == ["000001"]


# ------------------------------------------------------------------ query
def test_query_prints_a_table(chain: Chain, config: Path) -> None:
    rows = sorted(visible_rows(chain.folder, chain.manifests[-1], "roots"), key=lambda row: -row["size_nm3"])
    sql = "SELECT root_id, size_nm3 FROM roots ORDER BY size_nm3 DESC"
    result = run("query", DATASET, sql, "--limit", 3, "--config", config)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines == [["root_id", "size_nm3"], *([str(r["root_id"]), str(r["size_nm3"])] for r in rows[:3])]
    assert result.stderr == "the first 3 rows: --limit prints more, --to writes all\n"
    whole = run("query", DATASET, f"{sql} LIMIT 3", "--config", config)
    assert (whole.stdout, whole.stderr) == (result.stdout, "")
    assert "n_nodes" in done("query", DATASET, "DESCRIBE roots", "--config", config)


def test_query_prints_json(chain: Chain, config: Path) -> None:
    rows = visible_rows(chain.folder, chain.manifests[0], "by_root")
    sql = "SELECT root_id, count(*) AS n, sum(size_nm3) AS volume FROM nodes GROUP BY root_id ORDER BY 1"
    options = ("--version", 1, "--json", "--config", config)
    found = json.loads(done("query", DATASET, sql, *options))
    assert len(found) == chain.manifests[0].totals.roots
    assert sum(one["n"] for one in found) == len(rows)
    assert sum(one["volume"] or 0 for one in found) == sum(row["size_nm3"] or 0 for row in rows)
    assert json.loads(done("query", DATASET, sql, *options, "--limit", 2)) == found[:2]
    assert json.loads(done("query", DATASET, f"{sql} LIMIT 0", *options)) == []


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_query_writes_a_file(chain: Chain, config: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"out{suffix}"
    sql = "SELECT root_id, l2_id, sum(area_nm2) OVER () AS total FROM nodes ORDER BY l2_id"
    n = chain.manifests[-1].totals.nodes
    assert done("query", DATASET, sql, "--to", file, "--config", config) == f"wrote {n} rows to {file}\n"
    expected = [row["l2_id"] for row in visible_rows(chain.folder, chain.manifests[-1], "by_node")]
    if suffix == ".csv":
        with file.open() as text:
            assert [int(row["l2_id"]) for row in csv.DictReader(text)] == expected
    else:
        assert pq.read_table(file)["l2_id"].to_pylist() == expected
        assert json.loads(pq.read_schema(file).metadata[b"version"]) == "3"


def test_wrong_queries(config: Path, tmp_path: Path) -> None:
    for sql, status in (("SELECT sise FROM nodes", 2), ("DROP VIEW nodes", 2)):
        result = run("query", DATASET, sql, "--to", tmp_path / "out.csv", "--config", config)
        assert (result.exit_code, result.stdout) == (status, "")
        assert result.stderr.startswith("error: ")
        assert len(result.stderr.splitlines()) == 1
    assert run("query", DATASET, "SELECT 1", "--to", "x.txt", "--config", config).exit_code == 2
    both = run("query", DATASET, "SELECT 1", "--to", "x.csv", "--json", "--config", config)
    assert "--to writes all rows to a file" in both.stderr
    assert not list(tmp_path.glob("*out*"))


def test_brackets_in_a_table_are_text() -> None:
    table = Table("[id]", box=None)
    table.add_row("[/a] [red]x[/red] :star:")
    assert [line.strip() for line in rendered(table).splitlines()] == ["[id]", "[/a] [red]x[/red] :star:"]


def test_a_stopped_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("l2features.cli.shared_options.load_dataset", stop)
    stopped = run("status", "sample")
    assert (stopped.exit_code, stopped.stderr) == (130, "stopped\n")
