"""Tests of the routes of versions."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flask.testing import FlaskClient

from l2features.store.notes import put_note
from l2features.testing.small_table import DATASET, small_table
from l2features.testing.stores import open_table
from l2features.testing.version_files import visible_rows
from l2features.versions.columns import NODE_COLUMNS
from tests.support.api_app import TABLE, client_of
from tests.support.version_chains import Chain, write_chain
from tests.support.versioned_tables import versioned_table

pytestmark = pytest.mark.usefixtures("without_tokens")

ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return write_chain(tmp_path_factory.mktemp("chain") / "versions", renewals=2)


@pytest.fixture(scope="module")
def client(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    return client_of(versioned_table(tmp_path_factory.mktemp("api"), chain.folder.url))


@pytest.fixture(scope="module")
def limited(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    return client_of(versioned_table(tmp_path_factory.mktemp("limited"), chain.folder.url), max_roots=50)


def rows(chain: Chain, number: int, layout: Any) -> list[dict[str, Any]]:
    return visible_rows(chain.folder, chain.manifests[number - 1], layout)


def ask(client: FlaskClient, body: Any, version: Any = "latest", query: str = "", **headers: str) -> Any:
    return client.post(f"{TABLE}/versions/{version}/query{query}", json=body, headers=headers)


# ------------------------------------------------------------------ list and manifest
def test_the_list(chain: Chain, client: FlaskClient) -> None:
    found: Any = client.get(f"{TABLE}/versions").json
    assert found["dataset"] == DATASET
    listed = [(one["number"], one["base"], one["nodes"], one["problem"]) for one in found["versions"]]
    assert listed == [(m.number, m.base, m.totals.nodes, None) for m in chain.manifests]
    assert found["versions"][0]["timestamp"] == "2026-11-21T00:27:44.368000Z"


def test_a_data_set_without_versions(tmp_path: Path) -> None:
    client = client_of(small_table(tmp_path))
    assert client.get(f"{TABLE}/versions").json == {"dataset": DATASET, "versions": []}
    for answer in (client.get(f"{TABLE}/versions/latest"), ask(client, {"root_ids": [1]}, 3)):
        body: Any = answer.json
        assert (answer.status_code, body["code"]) == (404, "no_version")
        assert body["message"] == "data set 'sample' has no version"


def test_a_manifest(chain: Chain, tmp_path: Path) -> None:
    client = client_of(
        versioned_table(tmp_path, chain.folder.url), public_url="https://host/of-{dataset}/versions/"
    )
    found: Any = client.get(f"{TABLE}/versions/latest").json
    assert found["number"] == 3
    file = found["layers"][1]["files"][0]
    assert file["url"] == "https://host/of-sample/versions/000002/by_root/part-00000.parquet"
    del file["url"]
    assert file == chain.manifests[2].layers[1].files[0].model_dump()


def test_without_a_public_url_files_have_none(client: FlaskClient) -> None:
    found: Any = client.get(f"{TABLE}/versions/1").json
    assert {file["url"] for layer in found["layers"] for file in layer["files"]} == {None}


@pytest.mark.parametrize("version", ["9", "0", "000000"])
def test_unknown_versions(client: FlaskClient, chain: Chain, version: str) -> None:
    asked = f"{TABLE}/versions/{version}", f"{TABLE}/root/5?version={version}"
    for answer in (*map(client.get, asked), ask(client, {"root_ids": [1]}, version)):
        body: Any = answer.json
        assert (answer.status_code, body["code"], body["value"]) == (
            404,
            "unknown_version",
            str(int(version)),
        )
        assert body["message"].endswith("does not exist: expected one of 1, 2, 3")
        assert chain.folder.url not in body["message"]


@pytest.mark.parametrize("version", ["newest", "-1", "1.5", "1234567"])
def test_malformed_versions(client: FlaskClient, version: str) -> None:
    answer: Any = client.get(f"{TABLE}/versions/{version}")
    assert (answer.status_code, answer.json["code"], answer.json["field"]) == (
        422,
        "invalid_parameter",
        "version",
    )


def test_a_new_version_is_seen_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2features.versions.catalog.NUMBERS_S", 0.05)
    client = client_of(versioned_table(tmp_path, str(tmp_path / "versions")))
    assert client.get(f"{TABLE}/versions").json["versions"] == []  # type: ignore[index]
    chain = write_chain(tmp_path / "versions", renewals=0)
    time.sleep(0.1)
    assert client.get(f"{TABLE}/versions/latest").json["number"] == 1  # type: ignore[index]
    chain.folder.delete_folder("000001")
    write_chain(tmp_path / "versions", renewals=1, seed=7)
    time.sleep(0.1)
    assert client.get(f"{TABLE}/versions/latest").json["number"] == 2  # type: ignore[index]


def test_the_folder_in_a_note(chain: Chain, tmp_path: Path) -> None:
    client = client_of(small_table(tmp_path))
    store = open_table(tmp_path / "datasets.yml")
    put_note(store, "versions", {"url": chain.folder.url})
    store.close()
    assert client.get(f"{TABLE}/versions/2").status_code == 200


# ------------------------------------------------------------------ queries
def test_nodes_of_roots(chain: Chain, client: FlaskClient) -> None:
    for version in (1, 2, 3):
        every = rows(chain, version, "by_root")
        some = sorted({row["root_id"] for row in every})[::3]
        found = ask(client, {"root_ids": [*some, 7]}, version).json
        assert found == {"version": version, "rows": [row for row in every if row["root_id"] in some]}


def test_nodes_and_roots(chain: Chain, client: FlaskClient) -> None:
    nodes, roots = rows(chain, 3, "by_node"), rows(chain, 3, "roots")
    ids = [row["l2_id"] for row in nodes[::5]]
    found = ask(client, {"node_ids": ids, "columns": ["rep_coord_nm", "missing"]}).json
    names = ["root_id", "l2_id", "rep_coord_nm_x", "rep_coord_nm_y", "rep_coord_nm_z", "missing"]
    assert found["rows"] == [{name: row[name] for name in names} for row in nodes[::5]]
    asked = {"root_ids": [row["root_id"] for row in roots], "part": "roots", "limit": 2}
    assert ask(client, asked).json["rows"] == roots[:2]


def test_forms(chain: Chain, client: FlaskClient) -> None:
    nodes = rows(chain, 3, "by_node")
    body = {"node_ids": [str(row["l2_id"]) for row in nodes]}
    for form in (ARROW, PARQUET):
        data = ask(client, body, Accept=form).data
        table = pa.ipc.open_stream(data).read_all() if form == ARROW else pq.read_table(io.BytesIO(data))
        assert table.to_pylist() == nodes
        assert table.schema.field("l2_id").type == pa.uint64()
        assert table.schema.field("size_nm3").metadata[b"unit"] == b"nm^3"
        assert json.loads(table.schema.metadata[b"version"]) == "3"
    texts = ask(client, {**body, "columns": ["size_nm3"]}, query="?int64_as_str=true").json["rows"]
    size = nodes[0]["size_nm3"]
    assert texts[0] == {
        "root_id": str(nodes[0]["root_id"]),
        "l2_id": str(nodes[0]["l2_id"]),
        "size_nm3": None if size is None else str(size),
    }
    refused = ask(client, body, Accept="text/csv")
    assert (refused.status_code, refused.json["code"]) == (406, "not_acceptable")


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({}, 422, "missing_field", "root_ids"),
        ({"root_ids": [1], "node_ids": [1 << 57]}, 422, "invalid_body", "node_ids"),
        ({"root_ids": [1], "sql": "x"}, 422, "invalid_body", "sql"),
        ({"root_ids": [1.5]}, 422, "not_an_id", "root_ids"),
        ({"node_ids": [5]}, 422, "not_an_id", "node_ids"),
        ({"node_ids": [1 << 57], "part": "roots"}, 422, "invalid_body", "part"),
        ({"root_ids": [1], "part": "edges"}, 422, "invalid_body", "part"),
        ({"root_ids": [1], "columns": "size_nm3"}, 422, "invalid_body", "columns"),
        ({"root_ids": [1], "columns": [1]}, 422, "invalid_body", "columns"),
        ({"root_ids": [1], "columns": ["sise"]}, 422, "unknown_column", "columns"),
        ({"root_ids": [1], "columns": ["n_nodes"]}, 422, "unknown_column", "columns"),
        ({"root_ids": [1], "limit": 0}, 422, "invalid_body", "limit"),
        ({"root_ids": [1], "limit": True}, 422, "invalid_body", "limit"),
        ({"root_ids": [1], "limit": "5"}, 422, "invalid_body", "limit"),
        ({"root_ids": [1], "limit": 1e300}, 422, "invalid_body", "limit"),
        ({"root_ids": list(range(60))}, 413, "too_many_ids", "root_ids"),
    ],
)
def test_wrong_queries(limited: FlaskClient, body: Any, status: int, code: str, field: str) -> None:
    answer = ask(limited, body)
    assert (answer.status_code, answer.json["code"], answer.json.get("field")) == (status, code, field)


def test_bodies_that_are_no_json(client: FlaskClient) -> None:
    path = f"{TABLE}/versions/latest/query"
    buffer = client.post(path, data=b"12345678", content_type="application/octet-stream")
    assert (buffer.status_code, buffer.json["code"]) == (415, "unsupported_media_type")  # type: ignore[index]
    assert client.post(path, data=b"{").status_code == 400


def test_never_a_full_scan(chain: Chain, tmp_path: Path) -> None:
    every = [row["root_id"] for row in rows(chain, 1, "roots")]
    client = client_of(versioned_table(tmp_path, chain.folder.url), max_row_groups=4)
    answer = ask(client, {"root_ids": every}, 1)
    assert (answer.status_code, answer.json["code"], answer.json["limit"]) == (413, "too_many_row_groups", 4)
    (tmp_path / "few").mkdir()
    few = client_of(versioned_table(tmp_path / "few", chain.folder.url), max_ids=99)
    answer = ask(few, {"root_ids": every}, 1)
    assert (answer.status_code, answer.json["code"], answer.json["limit"]) == (413, "too_many_rows", 99)
    assert len(ask(few, {"root_ids": every, "limit": 99.0}, 1).json["rows"]) == 99


# ------------------------------------------------------------------ summaries
def test_summaries_of_a_version(chain: Chain, client: FlaskClient) -> None:
    roots = rows(chain, 2, "roots")
    asked = [row["root_id"] for row in roots] + [7]
    found: Any = client.post(f"{TABLE}/roots/summary?version=2", json={"root_ids": asked}).json
    assert found.pop("7") == {"status": "unknown", "reason": "not in version 2"}
    assert len(found) == len(roots)
    for row in roots:
        one = found[str(row["root_id"])]
        assert one["status"] == ("incomplete" if row["n_missing"] else "ready")
        assert (one["n_nodes"], one["size_nm3"]) == (row["n_nodes"], row["size_nm3"])
        centroid = [row[f"centroid_nm_{axis}"] for axis in "xyz"]
        assert one["centroid_nm"] == (None if None in centroid else centroid)
        assert "retired_at" not in one
    first = roots[0]["root_id"]
    assert client.get(f"{TABLE}/root/{first}?version=2").json == {str(first): found[str(first)]}
    data = client.get(f"{TABLE}/root/{first}?version=latest", headers={"Accept": ARROW}).data
    assert pa.ipc.open_stream(data).read_all()["root_id"].to_pylist() == [first]


def test_versions_have_no_measures_of_graphs(client: FlaskClient) -> None:
    answer: Any = client.get(f"{TABLE}/root/5?version=1&graph=true")
    assert (answer.status_code, answer.json["code"], answer.json["field"]) == (
        422,
        "invalid_parameter",
        "graph",
    )


# ------------------------------------------------------------------ damage
@pytest.mark.parametrize("content", [None, b"", b"text"])
def test_damaged_files(tmp_path: Path, content: bytes | None) -> None:
    chain = write_chain(tmp_path / "versions", renewals=0, parts=1)
    client = client_of(versioned_table(tmp_path, chain.folder.url))
    root = rows(chain, 1, "roots")[0]["root_id"]
    for layout in ("by_root", "roots"):
        path = f"000001/{layout}/part-00000.parquet"
        if content is None:
            chain.folder.delete(path)
        else:
            chain.folder.write(path, content)
    for answer in (ask(client, {"root_ids": [root]}), client.get(f"{TABLE}/root/{root}?version=1")):
        body: Any = answer.json
        assert (answer.status_code, body["code"]) == (503, "version_damaged")
        assert "part-00000.parquet" in body["message"]
        assert str(tmp_path) not in body["message"]
        assert answer.headers["Retry-After"]
    assert client.get(f"{TABLE}/versions").status_code == 200


@pytest.mark.parametrize(
    ("content", "code", "reason"),
    [
        (b"{", "version_damaged", "is not a manifest: Invalid JSON"),
        (b'{"format": 1}', "version_damaged", "is not a manifest: number: Field required"),
        (
            b'{"format": 99}',
            "unknown_format",
            "format 99, expected 1 at most: a newer version of l2features wrote it",
        ),
    ],
)
def test_damaged_manifests(tmp_path: Path, content: bytes, code: str, reason: str) -> None:
    chain = write_chain(tmp_path / "versions", renewals=0)
    chain.folder.write("000002/manifest.json", content)
    client = client_of(versioned_table(tmp_path, chain.folder.url))
    answer: Any = client.get(f"{TABLE}/versions/latest")
    assert (answer.status_code, answer.json["code"]) == (503, code)
    assert reason in answer.json["message"]
    assert str(tmp_path) not in answer.json["message"]
    assert client.get(f"{TABLE}/versions/1").status_code == 200
    listed: Any = client.get(f"{TABLE}/versions").json["versions"]  # type: ignore[index]
    assert (listed[0]["problem"], listed[1]["nodes"]) == (None, None)
    assert reason in listed[1]["problem"]


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    client = client_of(versioned_table(tmp_path, str(tmp_path / "file")))
    answer: Any = client.get(f"{TABLE}/versions")
    assert (answer.status_code, answer.json["code"]) == (503, "version_unavailable")
    assert str(tmp_path) not in answer.json["message"]


def test_a_version_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    old = write_chain(tmp_path / "versions", renewals=0, seed=1)
    client = client_of(versioned_table(tmp_path, old.folder.url))
    root = rows(old, 1, "roots")[0]["root_id"]
    assert ask(client, {"root_ids": [root]}).status_code == 200
    old.folder.delete_folder("000001")
    new = write_chain(tmp_path / "versions", renewals=0, seed=2, group_rows=11)
    expected = [row for row in rows(new, 1, "by_root") if row["root_id"] == root]
    assert ask(client, {"root_ids": [root]}).json["rows"] == expected


# ------------------------------------------------------------------ the document
def test_columns_of_the_document(client: FlaskClient) -> None:
    document: Any = client.get("/l2cache/api/v1/openapi.json").json
    query = document["paths"]["/l2cache/api/v1/table/{dataset}/versions/{version}/query"]["post"]
    of_nodes = query["requestBody"]["content"]["application/json"]["schema"]["oneOf"][1]
    assert set(NODE_COLUMNS) <= set(of_nodes["properties"]["columns"]["items"]["enum"])


def test_ids_are_exact(chain: Chain, client: FlaskClient) -> None:
    node = rows(chain, 3, "by_node")[0]["l2_id"]
    assert node > 2**53
    assert ask(client, {"node_ids": node}).json["rows"][0]["l2_id"] == node
