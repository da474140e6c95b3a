"""Tests of nodes marked "could not compute": no response has their attributes; their status is "empty"."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flask.testing import FlaskClient

from api.response_bodies import ARROW, PARQUET
from l2features.core.schema import NAMES
from l2features.testing.small_table import EMPTY, node_ids, small_table
from tests.support.api_app import TABLE, client_of

READ = f"{TABLE}/attributes"
MARKED, READY, MISSING = (int(node_ids()[i]) for i in (0, 1, -1))
MISSING += 1
ASKED = [READY, MARKED, MISSING, MARKED]


@pytest.fixture(scope="module", params=[0, 1000])
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, without_tokens: None
) -> FlaskClient:
    return client_of(small_table(tmp_path_factory.mktemp("marked")), cache_rows=request.param)


def ask(client: FlaskClient, query: str = "", accept: str = "*/*") -> Any:
    url, body = f"{READ}?{query}", {"l2_ids": ASKED}
    answer = client.post(url, json=body, headers={"Accept": accept}, buffered=True)
    assert answer.status_code == 200
    return answer.json if accept == "*/*" else io.BytesIO(answer.data)


@pytest.mark.parametrize("names", ["", "size_nm3", "size_nm3,area_nm2", "rep_coord_nm", "pca"])
@pytest.mark.parametrize("flags", ["", "int64_as_str=true", "wait=0.01"])
def test_a_marked_node_has_no_attributes(client: FlaskClient, names: str, flags: str) -> None:
    query = f"attribute_names={names}&{flags}" if names else flags
    for _ in range(2):
        answer = ask(client, query)
        assert [answer[str(MARKED)], answer[str(MISSING)]] == [{}, {}]
        assert set(answer[str(READY)]) == (set(names.split(",")) if names else set(NAMES))


@pytest.mark.parametrize("value", ["true", "True", "1", "yes", "YES", " yes "])
def test_with_status_tells_a_marked_node_from_a_missing_one(client: FlaskClient, value: str) -> None:
    answer = ask(client, f"with_status={value}")
    assert answer[str(MARKED)] == {"status": "empty"}
    assert answer[str(MISSING)] == {"status": "missing"}
    assert answer[str(READY)]["status"] == "ready"


@pytest.mark.parametrize("names", ["", "attribute_names=size_nm3"])
@pytest.mark.parametrize("form", [ARROW, PARQUET])
def test_a_marked_node_is_a_row_of_nulls(client: FlaskClient, names: str, form: str) -> None:
    body = ask(client, names, form)
    table = pa.ipc.open_stream(body).read_all() if form == ARROW else pq.read_table(body)
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == ASKED
    assert [row["status"] for row in rows] == ["ready", "empty", "missing", "empty"]
    for row in rows:
        values = [row[name] for name in NAMES if name in row]
        assert all(value is None for value in values) == (row["id"] != READY)


@pytest.mark.parametrize("value", ["false", "no", "No", "0", "maybe", "", "y", "on"])
def test_other_values_of_flags_stay_false(client: FlaskClient, value: str) -> None:
    answer = ask(client, f"with_status={value}&int64_as_str={value}")
    assert answer[str(MARKED)] == {}
    assert isinstance(answer[str(READY)]["size_nm3"], int)


def test_repeated_names_are_joined(client: FlaskClient) -> None:
    answer = ask(
        client, "attribute_names=area_nm2&attribute_names=max_dt_nm, size_nm3&attribute_names=area_nm2"
    )
    assert list(answer[str(READY)]) == ["area_nm2", "max_dt_nm", "size_nm3"]


def test_all_marked_nodes_of_a_table(client: FlaskClient) -> None:
    answer: Any = client.post(READ, json={"l2_ids": node_ids().tolist()}, buffered=True).json
    assert [not answer[str(node)] for node in node_ids()] == [i % EMPTY == 0 for i in range(len(node_ids()))]
