"""Tests of deploy/prometheus and deploy/grafana against the metrics of a running server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from l2features.query.reader import Status
from l2features.testing.emulators import PubSubEmulator
from l2features.testing.server import Server
from l2features.testing.small_table import DATASET, GEOMETRY, node_ids
from l2features.testing.stores import open_table
from tests.support.busy_table import run_updater
from tests.support.jobs import ROOT, need_program
from tests.support.missing import Topic
from tests.support.versioned_tables import indexed_table, with_a_version

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
NAME = re.compile(r"\bl2cache_[a-z_]+")
SELECTOR = re.compile(r"\b(l2cache_[a-z_]+)\{([^}]*)\}")


def promtool(*arguments: object) -> str:
    program = shutil.which("promtool")
    need_program(program, "promtool is not installed: apt-get install prometheus")
    command = [str(program), *map(str, arguments)]
    ran = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def dashboard_expressions() -> list[str]:
    queries = [v["query"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]
    targets = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return [query.partition("(")[2].partition(",")[0] for query in queries] + targets


EXPRESSIONS = [*dashboard_expressions(), *(rule["expr"] for rule in RULES)]


# ------------------------------------------------------------------ by promtool
def test_the_rules() -> None:
    """Check the rules with promtool, and that a test of each alert makes it fire."""
    promtool("check", "rules", "rules.yml")
    promtool("test", "rules", "rules_test.yml")
    tests = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]
    asked = [(case["alertname"], "exp_alerts" in case) for t in tests for case in t["alert_rule_test"]]
    assert {name for name, fires in asked if fires} == {rule["alert"] for rule in RULES}


def test_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel_{i}", "expr": text.replace("$__rate_interval", "5m").replace("$dataset", ".*")}
        for i, text in enumerate(dashboard_expressions())
    ]
    assert len(rules) > 15
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "panels.yml")


# ------------------------------------------------------------------ a running server
@pytest.fixture(scope="module")
def samples(
    pubsub: PubSubEmulator, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, set[str]]]:
    """Return each Prometheus sample's labels and values after many kinds of requests."""
    config = with_a_version(indexed_table(tmp_path_factory.mktemp("served")))
    with closing(open_table(config)) as store:
        run_updater(store, time.time())
    topic = Topic()
    with Server(config, {"L2CACHE_EXCHANGE": topic.path, **pubsub.environment()}) as server:
        table = f"{server.api}/table/{DATASET}"
        last = GEOMETRY.layout.last_id(GEOMETRY.layout.chunk_id(1, 0, 0))
        for path, body in (
            ("attributes?attribute_names=size_nm3", {"l2_ids": [*node_ids()[:4].tolist(), last]}),
            ("attributes", {"l2_ids": node_ids()[:4].tolist()}),
            ("roots/summary?version=1", {"root_ids": [1, 2]}),
        ):
            answer = requests.post(f"{table}/{path}", json=body, timeout=60)
            assert answer.ok, answer.text
        assert requests.get(f"{server.api}/table/nothing", timeout=60).status_code == 404
        requests.get(table, timeout=60)
        until = time.monotonic() + 60
        while not server.metric("l2cache_published_ids_total"):
            assert time.monotonic() < until
            time.sleep(0.1)
        text = requests.get(f"{server.url}/metrics", timeout=20).text
    found: dict[str, dict[str, set[str]]] = {}
    for sample in (s for family in text_string_to_metric_families(text) for s in family.samples):
        labels = found.setdefault(sample.name, {})
        for label, value in sample.labels.items():
            labels.setdefault(label, set()).add(value)
    return found


def families(names: Iterator[str] | set[str]) -> set[str]:
    return {re.sub("_(bucket|count|sum)$", "", name) for name in names}


def test_every_metric_exists(samples: dict[str, dict[str, set[str]]]) -> None:
    """Check that rules and panels use exactly the server's metrics, with labels that exist."""
    used = {name for text in EXPRESSIONS for name in NAME.findall(text)}
    assert not used - samples.keys()
    assert families(set(samples)) == families(used)
    for name, matchers in (found for text in EXPRESSIONS for found in SELECTOR.findall(text)):
        labels = re.findall(r"(\w+)[=!]~?\"", matchers)
        assert labels
        assert set(labels) <= samples[name].keys(), matchers
    states = set(re.findall(r"l2cache_ids_total\{status=\"(\w+)\"", " ".join(EXPRESSIONS)))
    assert states == {status.name.lower() for status in (Status.MISSING, Status.FAILED)}
    assert {"ready", "missing"} <= samples["l2cache_ids_total"]["status"]
    assert samples["l2cache_cache_lookups_total"]["result"] == {"hit", "miss"}
    grouped = {
        label for text in EXPRESSIONS for by in re.findall(r"by \((.*?)\)", text) for label in by.split(", ")
    }
    assert grouped <= {label for labels in samples.values() for label in labels}


# ------------------------------------------------------------------ the dashboard
def test_every_panel_has_its_place() -> None:
    """Check positions, ids, legends and the data source of the dashboard's panels."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (place["x"] + x, place["y"] + y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["w"])
        for y in range(place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
    for panel in (panel for panel in panels if panel["type"] != "row"):
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
