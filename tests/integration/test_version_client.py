"""Tests of the client's versions, read directly, over HTTP, and from files at URLs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from l2features import Client
from l2features.client.service_errors import ServiceError
from l2features.core.errors import ConfigError, VersionError, VersionNotFound
from l2features.testing.server import Server
from l2features.testing.small_table import DATASET
from l2features.testing.version_files import visible_rows
from tests.support.range_server import Served, range_server
from tests.support.version_chains import Chain, write_chain
from tests.support.versioned_tables import versioned_table

LIMITS = {"L2CACHE_MAX_IDS": "90", "L2CACHE_MAX_ROOTS": "25", "L2CACHE_MAX_ROW_GROUPS": "9"}


class Site(NamedTuple):
    """A chain of versions, its data sets file, an API server, and a server of the files."""

    chain: Chain
    config: Path
    server: Server
    files: Served


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    chain = write_chain(folder / "versions", renewals=2)
    config = versioned_table(folder, chain.folder.url)
    with range_server(folder) as files:
        public = {"L2CACHE_PUBLIC_URL": f"{files.url}/versions"}
        with Server(config, LIMITS | public) as server:
            yield Site(chain, config, server, files)


@pytest.fixture(params=["direct", "http"])
def client(request: pytest.FixtureRequest, site: Site) -> Iterator[Client]:
    with Client(site.config if request.param == "direct" else site.server.url, DATASET) as client:
        yield client


def rows(site: Site, number: int, layout: Any) -> list[dict[str, Any]]:
    return visible_rows(site.chain.folder, site.chain.manifests[number - 1], layout)


def test_the_list(site: Site, client: Client) -> None:
    table = client.versions()
    assert table["number"].to_pylist() == [1, 2, 3]
    assert table["nodes"].to_pylist() == [m.totals.nodes for m in site.chain.manifests]
    assert table["timestamp"].to_pylist()[0] == site.chain.manifests[0].timestamp
    newest = client.version()
    assert (newest.number, newest.timestamp) == (3, site.chain.manifests[2].timestamp)
    assert newest.manifest.totals == site.chain.manifests[2].totals
    assert repr(client.version(2)) == "Version(2, '2026-11-21T00:27:44.368+00:00')"


@pytest.mark.parametrize("number", [1, 3])
def test_all_rows_by_ids(site: Site, client: Client, number: int) -> None:
    version = client.version(number)
    nodes, roots = rows(site, number, "by_root"), rows(site, number, "roots")
    some = [row["root_id"] for row in roots if row["n_nodes"] < 20]
    found = version.nodes(root_ids=[*some, 7])
    assert found.to_pylist() == [row for row in nodes if row["root_id"] in some]
    assert found.schema.field("root_id").type == pa.uint64()
    assert json.loads(found.schema.metadata[b"version"]) == str(number)
    by_node = sorted(nodes, key=lambda row: row["l2_id"])
    ids = [row["l2_id"] for row in by_node]
    assert version.nodes(node_ids=ids[::-1]).to_pylist() == by_node
    few = version.nodes(node_ids=ids[:2], columns=["size_nm3", "pca_val"])
    assert few.column_names == ["root_id", "l2_id", "size_nm3", "pca_val_1", "pca_val_2", "pca_val_3"]
    assert version.roots([row["root_id"] for row in roots]).to_pylist() == roots
    assert version.roots(some[:1], ["n_nodes"]).column_names == ["root_id", "n_nodes"]
    assert len(version.roots([])) == 0


def test_sql_and_all_roots(site: Site, client: Client) -> None:
    version = client.version()
    assert version.roots().to_pylist() == rows(site, 3, "roots")
    (total,) = version.sql("SELECT sum(size_nm3)::BIGINT AS nm3 FROM nodes").to_pylist()
    assert total["nm3"] == sum(row["size_nm3"] or 0 for row in rows(site, 3, "by_root"))
    frame = version.roots(columns=["size_nm3"]).to_pandas()
    assert frame["size_nm3"].sum() == total["nm3"]
    with pytest.raises(ConfigError, match="sise"):
        version.sql("SELECT sise FROM nodes")


def test_files_are_asked_for_in_parts_and_without_a_token(site: Site) -> None:
    site.files.asked.clear()
    with Client(site.server.url, DATASET, token="secret") as client:
        client.version(1).sql("SELECT size_nm3 FROM roots WHERE root_id = 7")
    assert site.files.asked
    assert not [headers for headers in site.files.asked if "Authorization" in headers]
    for status in (200, 404):
        site.files.answers[:] = [status] * 100  # a query reads ahead, and so asks more than once
        with Client(site.server.url, DATASET) as client, pytest.raises(VersionError) as raised:
            client.version(1).sql("SELECT * FROM roots")
        site.files.answers.clear()
        assert f"HTTP {status}" in str(raised.value)
        assert "\n" not in str(raised.value)


END_EARLY = """
import sys
from l2features.client.http_files import VersionUrls
from l2features.versions.manifest import Manifest
from l2features.versions.sql import VersionSql
manifest, url = Manifest.model_validate_json(open(sys.argv[1]).read()), sys.argv[2]
urls = {file.path: f"{url}/{file.path}" for layer in manifest.layers for file in layer.files}
print(len(VersionSql(manifest, VersionUrls(url, manifest, urls)).table("SELECT * FROM nodes LIMIT 1")))
"""
"""A program that ends while Arrow still reads ahead."""


def test_a_program_may_end_while_files_are_read_ahead(tmp_path: Path) -> None:
    chain = write_chain(tmp_path, renewals=0, parts=30, nodes=900)
    with range_server(tmp_path) as files:
        for _ in range(3):
            command = [sys.executable, "-c", END_EARLY, str(tmp_path / "000001" / "manifest.json"), files.url]
            ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
            assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1\n", ""), chain.folder.url


def test_a_server_that_publishes_no_files(site: Site, tmp_path: Path) -> None:
    with (
        Server(site.config, log_file=tmp_path / "log") as server,
        Client(server.url, DATASET) as client,
    ):
        version = client.version()
        assert len(version.roots([rows(site, 3, "roots")[0]["root_id"]])) == 1
        with pytest.raises(ConfigError, match="publishes no file URLs for version 3"):
            version.sql("SELECT 1")


@contextmanager
def refusal(client: Client, code: str) -> Iterator[None]:
    """Check that the block raises an error; a server's error must have this code."""
    with pytest.raises((ServiceError, VersionNotFound, ConfigError)) as raised:
        yield
    if isinstance(raised.value, ServiceError):
        assert raised.value.code == code


def test_errors(site: Site, client: Client) -> None:
    with refusal(client, "unknown_version"):
        client.version(9)
    with refusal(client, "unknown_column"):
        client.version().roots([5], ["sise"])
    for wrong in (0, "7", 1.0):
        with pytest.raises(ConfigError, match="expected a number from 1 on"):
            client.version(wrong)  # type: ignore[arg-type]
    for ids in ({}, {"root_ids": [1], "node_ids": [1]}):
        with pytest.raises(ConfigError, match="expected either root_ids or node_ids"):
            client.version().nodes(**ids)
    with pytest.raises(ConfigError, match="expected a list of names"):
        client.version().roots([5], "size_nm3")
