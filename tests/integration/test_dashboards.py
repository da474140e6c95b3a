"""Tests of the landing page, the dashboard and the route that it polls."""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.routes import VERSION
from api.viewer_routes import is_built
from l2features.core.ids import Ids
from l2features.store.base import ChunkRecord
from l2features.store.notes import last_audit
from l2features.store.sqlite.sqlite_store import SqliteStore
from l2features.testing.small_table import DATASET, node_ids, small_table
from l2features.testing.stores import open_table
from l2features.updates.freshness import read_updates
from tests.support.api_app import TABLE, client_of
from tests.support.busy_table import FAILED_CHUNK, REASON, SCRIPT, busy_table, run_updater
from tests.support.command import run

pytestmark = pytest.mark.usefixtures("without_tokens")

API = "/l2cache/api/v1"
STATE, PAGE, ROOT = f"{TABLE}/dashboard", f"/l2cache/table/{DATASET}", "/l2cache/"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busy_table(tmp_path_factory.mktemp("busy"))


@pytest.fixture(scope="module")
def client(without_tokens: None, config: Path) -> FlaskClient:
    return client_of(config)


def state_of(client: FlaskClient, until: Callable[[Any], Any] = lambda state: state["sample"]) -> Any:
    """Poll the dashboard's state until ``until(state)`` is true, and return it."""
    end = time.monotonic() + 60
    while not until(state := client.get(STATE).json):
        assert time.monotonic() < end, state
        time.sleep(0.1)
    return state


def lines_of(state: Any, section: str) -> dict[str, str]:
    return {line["label"]: line["value"] for line in state["lines"][section]}


def landing_of(client: FlaskClient, **more: Any) -> str:
    """Poll the landing page until it shows commands."""
    end = time.monotonic() + 60
    while "l2_ids" not in (page := unescape(client.get(ROOT, headers={"Accept": BROWSER}, **more).text)):
        assert time.monotonic() < end, page
    return page


# ------------------------------------------------------------------ the figures
def test_the_figures_are_those_of_status(client: FlaskClient, config: Path) -> None:
    state = state_of(client)
    status = json.loads(run("status", DATASET, "--config", config, "--json").stdout)
    progress = state["progress"]
    same = ["total", "done", "nodes", "orphans", "chunks_missing_files"]
    same += ["chunks_per_minute", "nodes_per_second"]
    assert {name: progress[name] for name in same} == {name: status[name] for name in same}
    assert (progress["failed"], progress["done"]) == (status["n_failed"], 6)
    assert progress["seconds_left"] == pytest.approx(5 / progress["chunks_per_minute"] * 60, abs=0.1)
    assert {**state["updates"], "as_of": 0} == {**status["updates"], "as_of": 0}
    assert {**state["audit"], "as_of": 0} == {**status["audit"], "as_of": 0}
    with closing(open_table(config)) as store:
        updates, audit = read_updates(store), last_audit(store)
    assert updates
    assert audit
    assert updates.updaters[0].lag
    figures = lines_of(state, "updates")
    assert figures[f"Updater host-1-{SCRIPT}"] == "alive"
    assert f"p99 {updates.updaters[0].lag.p99_s:g} s" in figures["Lag in the updater's last hour"]
    assert lines_of(state, "audit")["Nodes missing"] == str(audit.missing) == "2"
    assert lines_of(state, "dead")["unknown_node"] == "1"
    assert len(state["history"]["minutes"]) >= 6


def test_the_map_is_that_of_the_records(client: FlaskClient) -> None:
    state = state_of(client)
    for cells in state["map"]["planes"].values():
        sums = {name: sum(cells[name]) for name in ("total", "done", "failed", "empty")}
        assert sums == {"total": 12, "done": 4, "failed": 1, "empty": 2}
        assert len(cells["total"]) == cells["columns"] * cells["rows"]
    xy = state["map"]["planes"]["xy"]
    assert xy["failed"].index(1) == FAILED_CHUNK.y * xy["columns"] + FAILED_CHUNK.x
    cell: Any = client.get(f"{STATE}/cell?plane=xy&column={FAILED_CHUNK.x}&row={FAILED_CHUNK.y}").json
    assert (cell["chunks"], cell["total"], cell["failed"]) == ("2:3,1:2,0:2", 2, 1)
    assert cell["failures"] == [{"chunk": str(FAILED_CHUNK), "reason": REASON}]
    for wrong, status, code in (
        ("plane=xy&column=3&row=0", 404, "unknown_cell"),
        ("plane=zz&column=0&row=0", 422, "invalid_parameter"),
        ("plane=xy&row=0", 422, "missing_parameter"),
    ):
        answer: Any = client.get(f"{STATE}/cell?{wrong}")
        assert (answer.status_code, answer.json["code"]) == (status, code)


def test_cells_are_looked_up_a_few_at_a_time(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.dashboards.CELL_READS", 1)
    client, path = client_of(config), f"{STATE}/cell?plane=xy&column=0&row=0"
    state_of(client)
    entered, release, failures = threading.Event(), threading.Event(), SqliteStore.failures

    def slow(self: SqliteStore, chunk_ids: Ids) -> dict[int, str]:
        entered.set()
        assert release.wait(30)
        return failures(self, chunk_ids)

    monkeypatch.setattr(SqliteStore, "failures", slow)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(lambda: client.application.test_client().get(path))
        assert entered.wait(30)
        answer: Any = client.get(path)
        assert (answer.status_code, answer.json["code"]) == (429, "too_many_requests")
        release.set()
        assert first.result().status_code == 200


def test_the_requests_are_those_of_the_metrics(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.request_rates.EVERY_S", 0.1)
    monkeypatch.setattr("api.board.STATE_EVERY_S", 0.1)
    client = client_of(config)
    before = state_of(client, lambda state: state["requests"])["requests"]["total"]
    for _ in range(7):
        client.post(f"{TABLE}/attributes", json={"l2_ids": [int(node_ids()[1])]})
    found = state_of(client, lambda state: state["requests"]["total"] >= before + 7)["requests"]
    text = client.get(f"{API}/metrics").text
    counts = re.findall(r'l2cache_request_seconds_count\{dataset="sample",route="([^"]+)",.*\} (\S+)', text)
    own = (f"{API}/table/<dataset>/dashboard", "/l2cache/table/<dataset>")
    assert found["total"] == sum(float(n) for route, n in counts if route not in own)
    assert found["per_second"] > 0
    assert found["failed_per_second"] == 0


def test_an_unchanged_state_is_not_sent_again(client: FlaskClient) -> None:
    state_of(client)
    first = client.get(STATE, headers={"Accept-Encoding": "gzip"})
    assert (first.status_code, first.headers["Cache-Control"]) == (200, "private, no-cache")
    assert json.loads(gzip.decompress(first.data))["dataset"] == DATASET
    for _ in range(20):  # it changes every few seconds
        answer = client.get(STATE, headers={"If-None-Match": first.headers["ETag"]})
        if answer.status_code == 304:
            assert answer.data == b""
            return
        first = answer
    pytest.fail("the state changes at every request")


# ------------------------------------------------------------------ what may go wrong
def test_no_data_is_not_zero(tmp_path: Path) -> None:
    state = state_of(client_of(small_table(tmp_path)), lambda state: state["progress"])
    assert (state["problem"], state["progress"]["done"], state["audit"], state["updates"]) == (
        None,
        0,
        None,
        None,
    )
    assert lines_of(state, "progress") == {
        "Chunks done": "no data: the table has no record of any of 12 chunks"
    }
    assert lines_of(state, "updates") == {"Updaters": "no data: none has reported"}
    assert lines_of(state, "dead") == {"Dead letters": "no data"}
    assert lines_of(state, "audit") == {"Last audit": "no data: none is recorded"}
    assert lines_of(state, "versions") == {"Versions": "no data: none is frozen"}
    tones = {line["tone"] for section in ("progress", "updates", "audit") for line in state["lines"][section]}
    assert tones == {"none"}


def test_notes_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    config = small_table(tmp_path)
    with closing(open_table(config)) as store:
        for name in ("updates", "update_history", "audit"):
            store.put_note(name, "no JSON")
    state = state_of(client_of(config), lambda state: state["progress"])
    for section, name in (("updates", "updates"), ("dead", "history"), ("audit", "audit")):
        (line,) = state["lines"][section]
        assert line["value"] == f"no data: {state['unreadable'][name]}"
        assert len(state["unreadable"][name]) > 10


def test_an_updater_that_died_is_silent(tmp_path: Path) -> None:
    config = small_table(tmp_path)
    with closing(open_table(config)) as store:
        run_updater(store, time.time() - 240, minutes=2)
    state = state_of(client_of(config), lambda state: state["updates"])
    line = state["lines"]["updates"][2]
    assert (line["value"].startswith("silent since 20"), line["tone"]) == (True, "bad")


def test_a_table_that_is_gone(tmp_path: Path) -> None:
    config = small_table(tmp_path)
    config.write_text(config.read_text().replace("l2cache_small", "l2cache_gone"))
    client = client_of(config)
    state = state_of(client, lambda state: state["problem"])
    assert state["problem"] == "its table is missing"
    assert {state[part] for part in ("progress", "map", "updates", "audit", "sample")} == {None}
    assert lines_of(state, "updates") == {"Updaters": "no data"}
    page = client.get(PAGE)
    assert page.status_code == 200
    assert "The data set cannot be read: its table is missing." in page.text
    answer: Any = client.get(f"{STATE}/cell?plane=xy&column=0&row=0")
    assert (answer.status_code, answer.json["code"]) == (503, "metadata_unavailable")
    assert "so there are no first commands" in client.get(ROOT, headers={"Accept": BROWSER}).text


def test_a_table_that_goes_while_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.board.NOTES_EVERY_S", 0.1)
    monkeypatch.setattr("api.board.STATE_EVERY_S", 0.1)
    config = busy_table(tmp_path)
    client = client_of(config)
    state_of(client)
    (tmp_path / "l2cache.db").unlink()
    state = state_of(client, lambda state: state["problem"])
    assert state["problem"] == "its table is missing"


def test_an_unknown_data_set(client: FlaskClient) -> None:
    for path in ("/l2cache/table/minie65", f"{API}/table/minie65/dashboard"):
        answer: Any = client.get(path)
        assert (answer.status_code, answer.json["code"]) == (404, "unknown_dataset")


# ------------------------------------------------------------------ the pages
def test_only_those_who_name_html_receive_the_page(client: FlaskClient) -> None:
    for accept in ("*/*", "", "application/json", "text/*", "application/json, text/plain, */*"):
        answer = client.get(ROOT, headers={"Accept": accept} if accept else {})
        assert (answer.text, answer.mimetype) == (VERSION, "text/html"), accept
    for accept in (BROWSER, "text/html"):
        page = client.get(ROOT, headers={"Accept": accept})
        assert "<h1>" in page.text
        assert page.headers["Vary"] == "Accept"
    for path in ("/l2cache/index", f"{API}/", f"{API}/index"):
        assert client.get(path, headers={"Accept": BROWSER}).text == VERSION


def test_texts_that_look_like_html_are_shown_as_text(client: FlaskClient) -> None:
    state_of(client)
    page = client.get(PAGE).text
    assert SCRIPT not in page
    assert f"Updater host-1-{SCRIPT}" in unescape(page)
    assert not re.findall(r"<script(?! src=)", page)


@pytest.mark.parametrize("path", [ROOT, PAGE, f"{API}/docs/"])
def test_pages_load_only_files_of_this_server(client: FlaskClient, path: str) -> None:
    answer = client.get(path, headers={"Accept": BROWSER})
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.findall(r"<style|\sstyle=|\son[a-z]+=", answer.text)
    files = re.findall(r"""<(?:script|link)[^>]* (?:src|href)="([^"]+)""", answer.text)
    assert len(files) >= 3
    for file in files:
        found = client.get(file if file.startswith("/") else f"{path}{file}")
        assert (found.status_code, len(found.data) > 100) == (200, True), file


def test_the_landing_page_has_commands_with_ids_that_exist(client: FlaskClient) -> None:
    page = landing_of(client, base_url="https://host")
    node = int(re.findall(r'"l2_ids": \[(\d+)\]', page)[0])
    assert node in node_ids()
    assert f"client = Client('https://host', '{DATASET}')" in page
    assert f"curl -s -H 'Content-Type: application/json' -d '{{\"l2_ids\": [{node}]}}'" in page
    answer: Any = client.post(f"{TABLE}/attributes", json={"l2_ids": [node]}).json
    assert answer[str(node)]["size_nm3"] > 0
    assert f'href="{PAGE}"' in page
    assert ('href="/viewer/"' in page) == is_built()  # no root to draw is known


def test_the_root_leads_browsers_to_the_landing_page(client: FlaskClient) -> None:
    answer = client.get("/", headers={"Accept": BROWSER})
    assert (answer.status_code, answer.location) == (302, "/l2cache/")
    assert client.get("/").status_code == 404


def test_wrong_paths_and_methods_lead_to_right_ones(client: FlaskClient) -> None:
    missing: Any = client.get("/nope?token=abc").json
    wrong: Any = client.get(f"{TABLE}/attributes").json
    assert missing["message"] == f"unknown path: see {API}/docs/ for the routes"
    assert wrong["message"] == "GET is not allowed here: expected OPTIONS, POST"


def test_only_a_few_visitors_wait_for_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.dashboards.WAITING", 1)
    client, entered, release = client_of(busy_table(tmp_path)), threading.Event(), threading.Event()

    def slow(_searches: Any, _timeout: float) -> None:
        assert not entered.is_set()
        entered.set()
        assert release.wait(60)

    monkeypatch.setattr("api.dashboards.wait", slow)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(lambda: client.application.test_client().get(ROOT, headers={"Accept": BROWSER}))
        assert entered.wait(60)
        assert client.get(ROOT, headers={"Accept": BROWSER}).status_code == 200
        release.set()
        assert first.result().status_code == 200


@pytest.mark.parametrize(
    "path", [TABLE, f"{API}/table_mapping", f"{TABLE}/precomputed/", f"{STATE}/x", "/nope", "/metrics"]
)
def test_types_are_not_guessed_and_shared_caches_keep_nothing(client: FlaskClient, path: str) -> None:
    headers = client.get(path).headers
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "private, no-cache")


def test_the_list_of_data_sets_starts_no_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans, records = list[str](), SqliteStore.chunk_records

    def chunk_records(store: SqliteStore) -> Iterator[ChunkRecord]:
        scans.append(store.name)
        return records(store)

    monkeypatch.setattr(SqliteStore, "chunk_records", chunk_records)
    client = client_of(busy_table(tmp_path))
    landing_of(client)
    for path in (f"{API}/openapi.json", f"{API}/docs/", "/metrics", "/ready"):
        assert client.get(path).status_code == 200
    assert scans == []
    state_of(client)
    assert set(scans) == {"l2cache_small"}


def test_the_document_starts_with_an_id_that_exists(client: FlaskClient) -> None:
    landing_of(client)  # so that an example is known
    document: Any = client.get(f"{API}/openapi.json").json
    read = document["paths"][f"{API}/table/{{dataset}}/attributes"]["post"]
    (node,) = read["requestBody"]["content"]["application/json"]["example"]["l2_ids"]
    assert int(node) in node_ids()
    parameters = {parameter["name"]: parameter for parameter in read["parameters"]}
    assert parameters["dataset"]["example"] == DATASET
    schemas = {name: parameter["schema"] for name, parameter in parameters.items()}
    booleans = {
        name: schema["default"] for name, schema in schemas.items() if schema.get("format") == "boolean"
    }
    assert booleans == {"update_cache": "true", "int64_as_str": "false", "with_status": "false"}
    assert document["info"]["description"]
