"""Tests of the server's log and metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from api.logs import scrubbed
from api.observe import request_id
from l2features.core.ids import Ids
from l2features.testing.server import ROUTE, TOKEN, Server, nodes_of
from tests.support.api_app import client_of, need_no_token
from tests.support.intake import wait_for


@pytest.fixture(scope="module")
def node_ids(undisturbed: Path) -> Ids:
    return nodes_of(undisturbed)


@pytest.fixture(scope="module")
def server(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(undisturbed, log_file=tmp_path_factory.mktemp("log") / "server.log") as server:
        yield server


# ------------------------------------------------------------------ logs
def requests_of(server: Server, request_id: str) -> list[dict[str, Any]]:
    """Wait for a request's log records, which follow its response, and return them."""

    def found() -> list[dict[str, Any]]:
        return [record for record in server.records if record.get("request_id") == request_id]

    wait_for(lambda: bool(found()))
    return found()


def test_every_line_is_json_and_says_when_what_and_where(server: Server, node_ids: Ids) -> None:
    url = f"{server.api}/table/sample/attributes?attribute_names=size_nm3&middle_auth_token={TOKEN}"
    headers = {"X-Request-Id": "my-request.1", "Authorization": f"Bearer {TOKEN}", "Accept-Encoding": "none"}
    answer = requests.post(url, json={"l2_ids": node_ids.tolist()}, headers=headers, timeout=20)
    assert answer.headers["X-Request-Id"] == "my-request.1"
    [line] = requests_of(server, "my-request.1")
    for record in server.records:
        assert datetime.fromisoformat(record["time"]).utcoffset() is not None
        assert record["time"].endswith("Z")
        assert {"level", "message", "pid"} <= record.keys()
    assert line["ms"] > 0
    assert line["pid"] == server.workers[0].pid
    expected = {
        "level": "info",
        "severity": "INFO",
        "message": "request",
        "method": "POST",
        "route": ROUTE,
        "dataset": "sample",
        "query": "attribute_names=size_nm3&middle_auth_token=…",
        "status": 200,
        "bytes": len(answer.content),
        "ids": len(node_ids),
        "client": "127.0.0.1",
    }
    assert {name: line.get(name) for name in expected} == expected
    assert TOKEN not in server.log
    assert not any(record.get("route") in ("/live", "/metrics") for record in server.records)


def test_request_ids(server: Server) -> None:
    for given in ("a" * 64, "0-1_2.b"):
        assert request_id(given) == given
    for refused in (None, "", "a" * 65, "a b", "a\nb", 'a"', "é"):
        assert re.fullmatch("[0-9a-f]{32}", request_id(refused))
    answer = requests.get(f"{server.api}/table/nothing", headers={"X-Request-Id": "no spaces"}, timeout=20)
    assert answer.status_code == 404
    made = answer.headers["X-Request-Id"]
    assert made != "no spaces"
    assert answer.json()["request_id"] == made
    assert [record["status"] for record in requests_of(server, made)] == [404]


def test_a_head_request_is_logged(server: Server) -> None:
    """Other requests are logged after their response body, but HEAD has none."""
    answer = requests.head(f"{server.api}/table_mapping", headers={"X-Request-Id": "a-head"}, timeout=20)
    assert [record["status"] for record in requests_of(server, "a-head")] == [answer.status_code]


def test_secrets_are_not_logged_wherever_they_stand() -> None:
    for text in (
        f"GET /x?middle_auth_token={TOKEN}&y=1 HTTP/1.1",
        f"'/x?y=1&token={TOKEN}'",
        f"Invalid HTTP Header: 'AUTHORIZATION: Bearer {TOKEN}'",
        f"/x?middle%5Fauth%5Ftoken={TOKEN}",
    ):
        assert TOKEN not in scrubbed(text)
    assert scrubbed("/x?y=1 a=b") == "/x?y=1 a=b"


# ------------------------------------------------------------------ metrics
def test_metrics_have_a_bounded_number_of_labels(server: Server) -> None:
    for name in ("one", "two", "three"):
        assert requests.get(f"{server.api}/table/{name}", timeout=20).status_code == 404
        assert requests.get(f"{server.url}/nowhere/{name}", timeout=20).status_code == 404
    text = requests.get(f"{server.url}/metrics", timeout=20).text
    labels = {
        (sample.labels["route"], sample.labels["dataset"])
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "l2cache_request_seconds_count"
    }
    assert ("unmatched", "") in labels
    assert ("/l2cache/api/v1/table/<dataset>", "unknown") in labels
    assert {dataset for _, dataset in labels} <= {"", "sample", "unknown"}
    assert server.metric("l2cache_refused_total", code="unknown_dataset") >= 3


def test_metrics_of_an_app_in_this_process(undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_no_token(monkeypatch)
    client = client_of(undisturbed)
    assert client.get("/live").status_code == 200
    answer = client.get("/metrics")
    assert answer.content_type.startswith("text/plain")
    assert 'l2cache_request_seconds_count{dataset="",route="/live",status="200"}' in answer.text
