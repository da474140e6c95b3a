"""Tests of versions that the materialize job made: verify, diff, SQL, summaries and the client."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask.testing import FlaskClient

from l2features import Client
from l2features.testing.stores import open_table
from tests.support.api_app import TABLE, client_of, need_no_token
from tests.support.command import run
from tests.support.graph_roots import roots_of_recording
from tests.support.jobs import Recordings
from tests.support.version_job import ingested, made


class Site(NamedTuple):
    """A data sets file with two versions, and each node's recorded root in both."""

    config: Path
    roots: list[dict[int, int]]


@pytest.fixture(scope="module")
def site(recordings: Recordings, tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder, recorded = tmp_path_factory.mktemp("site"), recordings.json("roots.json")
    config = ingested(folder, recordings, "fixture_v2")
    made(config, folder / "versions", recorded["t0_ms"])
    made(config, folder / "versions", recorded["t1_ms"], "--base", 1)
    times = [recorded["l2_to_root"][when] for when in ("t0", "t1")]
    return Site(config, [{int(node): root for node, root in roots.items()} for roots in times])


@pytest.fixture
def api(site: Site, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    need_no_token(monkeypatch)
    return client_of(site.config, graph_timeout_s=60)


def done(*arguments: Any) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("number", [1, 2])
def test_they_verify(site: Site, number: int) -> None:
    found = json.loads(done("versions", "verify", "sample", number, "--json", "--config", site.config))
    assert (found["findings"], found["sampled"]) == ([], len(site.roots[number - 1]))


def test_a_row_that_was_changed_does_not(site: Site, tmp_path: Path) -> None:
    node = min(site.roots[0])
    with closing(open_table(site.config)) as store:
        row = store.read([node]).features
        store.delete(node, node)
        try:
            result = run("versions", "verify", "sample", 1, "--config", site.config)
        finally:
            store.write(row)
    assert (result.exit_code, f"node {node}: has a row in the version" in result.stdout) == (1, True)


def test_their_difference_is_that_of_the_recordings(site: Site) -> None:
    old, new = site.roots
    found = json.loads(done("versions", "diff", "sample", 1, 2, "--json", "--config", site.config))
    assert found["roots_only_a"] == len({*old.values()} - {*new.values()})
    assert found["roots_only_b"] == len({*new.values()} - {*old.values()})
    assert found["nodes_only_a"] == len({*old} - {*new})
    assert found["nodes_only_b"] == len({*new} - {*old})
    assert found["nodes_moved"] == sum(old[node] != new[node] for node in {*old} & {*new}) > 0


def test_sql_of_the_newest(site: Site) -> None:
    sql = "SELECT l2_id, root_id FROM nodes"
    rows = json.loads(done("query", "sample", sql, "--json", "--config", site.config))
    assert {row["l2_id"]: row["root_id"] for row in rows} == site.roots[1]


def test_summaries_are_those_of_today(site: Site, api: FlaskClient, recordings: Recordings) -> None:
    """Check that a version's root summaries equal the live ones without `retired_at` and `successors`."""
    for number, roots in enumerate(site.roots, 1):
        asked = {"root_ids": sorted({*roots.values()})}
        today: Any = api.post(f"{TABLE}/roots/summary", json=asked).json
        found: Any = api.post(f"{TABLE}/roots/summary?version={number}", json=asked).json
        for one in today.values():
            del one["retired_at"], one["successors"]
        assert found == today
    retired = {*roots_of_recording(recordings)} - {*site.roots[1].values()}
    answer: Any = api.post(f"{TABLE}/roots/summary?version=latest", json={"root_ids": sorted(retired)}).json
    assert {one["status"] for one in answer.values()} == {"unknown"}


def test_the_client_reads_them(site: Site) -> None:
    with Client(site.config, "sample") as client:
        assert client.versions()["number"].to_pylist() == [1, 2]
        for number, roots in enumerate(site.roots, 1):
            table = client.version(number).nodes(root_ids=[*{*roots.values()}], columns=["size_nm3"])
            pairs = zip(table["l2_id"].to_pylist(), table["root_id"].to_pylist(), strict=True)
            assert dict(pairs) == roots
