"""Tests of SQL over versions: results equal those of a full read, and errors have one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as pa_dataset
import pytest

from l2features.core.errors import ConfigError, DamagedVersion, VersionError
from l2features.testing.version_files import visible_rows
from l2features.versions.folders import Folder
from l2features.versions.manifest import Manifest
from l2features.versions.sql import VIEWS, VersionSql
from tests.support.version_chains import Chain, write_chain


class Elsewhere(Folder):
    """A local folder whose files are read like those of a bucket."""

    local = None  # type: ignore[assignment]


FOLDERS = (Folder, Elsewhere)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return write_chain(tmp_path_factory.mktemp("it's [a] *") / "n=1", renewals=2)


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest, chain: Chain) -> Folder:
    opened: Folder = request.param(chain.folder.url)
    return opened


@pytest.fixture(scope="module")
def first(chain: Chain) -> Iterator[VersionSql]:
    """Open the first version."""
    with VersionSql(chain.manifests[0], chain.folder) as sql:
        yield sql


def rows_of(manifest: Manifest, folder: Folder, query: str) -> list[dict[str, Any]]:
    with VersionSql(manifest, folder) as sql:
        rows: list[dict[str, Any]] = sql.table(query).to_pylist()
        return rows


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("view", VIEWS)
def test_views_have_all_rows(chain: Chain, number: int, view: str) -> None:
    manifest = chain.manifests[number]
    order = "root_id" if view == "roots" else "l2_id" if view == "nodes_by_id" else "root_id, l2_id"
    expected = visible_rows(chain.folder, manifest, VIEWS[view])
    for kind in FOLDERS:
        found = rows_of(manifest, kind(chain.folder.url), f"SELECT * FROM {view} ORDER BY {order}")
        assert found == expected, kind


def test_a_query_of_one_root(chain: Chain, folder: Folder) -> None:
    manifest = chain.manifests[-1]
    root = visible_rows(chain.folder, manifest, "roots")[0]
    (found,) = rows_of(
        manifest,
        folder,
        f"SELECT count(*) AS n, sum(size_nm3)::BIGINT AS volume FROM nodes WHERE root_id = {root['root_id']}",
    )
    assert (found["n"], found["volume"]) == (root["n_nodes"], root["size_nm3"])


def test_files_of_the_user_can_be_joined(chain: Chain, tmp_path: Path) -> None:
    root = visible_rows(chain.folder, chain.manifests[0], "roots")[0]["root_id"]
    (tmp_path / "cells.csv").write_text(f"root_id,name\n{root},a\n7,b\n")
    query = f"SELECT name FROM roots JOIN '{tmp_path}/cells.csv' USING (root_id)"
    assert rows_of(chain.manifests[0], chain.folder, query) == [{"name": "a"}]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("selec 1", "syntax error"),
        ("SELECT sise FROM nodes", "sise.*not found"),
        ("SELECT * FROM node", "node does not exist.*nodes"),
        ("SELECT CAST('x' AS INT)", "Could not convert"),
        ("", "expected one SELECT statement, got nothing"),
        ("SELECT 1; SELECT 2", "got SELECT, SELECT"),
        ("DROP VIEW nodes", "got DROP"),
        ("COPY roots TO '{folder}/x.csv'", "got COPY"),
        ("EXPLAIN ANALYZE COPY roots TO '{folder}/x.csv'", "got EXPLAIN"),
        ("SET lock_configuration = false", "got SET"),
        ("INSTALL httpfs", "got LOAD"),
        ("ATTACH '{folder}/x.db'", "got ATTACH"),
        ("SELECT * FROM 'https://nowhere/x.parquet'", "requires the extension httpfs"),
    ],
)
def test_wrong_queries(first: VersionSql, tmp_path: Path, query: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        first.table(query.format(folder=tmp_path))
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_version_without_rows(tmp_path: Path) -> None:
    chain = write_chain(tmp_path, renewals=0, nodes=1)
    layers = (chain.manifests[0].layers[0].model_copy(update={"files": ()}),)
    manifest = chain.manifests[0].model_copy(update={"layers": layers})
    assert rows_of(manifest, chain.folder, "SELECT count(*) AS n, sum(size_nm3) AS s FROM nodes") == [
        {"n": 0, "s": None}
    ]


def test_damaged_files(tmp_path: Path) -> None:
    chain = write_chain(tmp_path, renewals=0, parts=1)
    manifest, path = chain.manifests[0], "000001/by_root/part-00000.parquet"
    content = chain.folder.read(path)
    assert content
    for folder in (chain.folder, Elsewhere(chain.folder.url)):
        chain.folder.write(path, content[:-50])
        with pytest.raises(VersionError) as raised:
            rows_of(manifest, folder, "SELECT * FROM nodes")
        assert "\n" not in str(raised.value)
        chain.folder.delete(path)
        with pytest.raises(VersionError, match=r"part-00000\.parquet"):
            rows_of(manifest, folder, "SELECT * FROM nodes")
    with pytest.raises(DamagedVersion, match=f"{path} is missing"):
        VersionSql(manifest, chain.folder)


def test_files_in_buckets_are_arrow_data_sets(chain: Chain) -> None:
    paths = [file.path for _, file in chain.manifests[0].files("roots")]
    data = chain.folder.dataset(paths, None)
    assert isinstance(data, pa_dataset.Dataset)
    assert data.count_rows() == chain.manifests[0].totals.roots
