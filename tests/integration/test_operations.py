"""Tests of docs/operations.md: its commands are accepted, and its metrics and options exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import click
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

import mkdocs_hooks
from api import metrics
from beam_jobs import audit, ingest, update
from beam_jobs.audit_pipeline import COUNTED
from beam_jobs.counters import COUNTERS
from benchmarks import cost
from benchmarks.cost_inputs import Inputs, inputs_text
from l2features.cli import commands as cli
from l2features.config.datasets import load_dataset
from l2features.core.chunks import FileCounts, whole_box
from l2features.core.ids import row_keys
from l2features.core.schema import SATURATING
from l2features.ingest.chunk_results import STEPS
from l2features.ingest.compute import read_geometry
from l2features.messages.outcomes import Fate, Verdict
from l2features.testing.emulators import Emulator
from l2features.testing.stores import INSTANCE, PROJECT, STORE_URL
from tests.support.ingest_jobs import run_ingest
from tests.support.jobs import ROOT, dataset_file
from tests.support.operations import (
    TIME,
    WRITTEN,
    calls,  # noqa: F401 (fixtures)
    check_gcloud,
    completions,
    of_program,
    values,
)

WHO = "user:somebody@example.org"
PARSE: dict[str, Callable[[Sequence[str]], Any]] = {
    "beam_jobs.ingest": ingest.parse,
    "beam_jobs.audit": audit.parse,
    "beam_jobs.update": update.parse,
}


def test_the_jobs_take_their_commands(calls: list[list[str]]) -> None:
    for module, parse in PARSE.items():
        found = of_program(calls, "python", "-m", module)
        assert found, module
        for arguments in found:
            parse(arguments)
    assert {call[1] for call in of_program(calls, "python") if call[0] == "-m"} == set(PARSE)
    with pytest.raises(SystemExit):
        ingest.parse(["--dataset", "minnie", "--no_such_option"])


def test_the_benchmark_takes_its_commands(calls: list[list[str]]) -> None:
    found = of_program(calls, "python", "benchmarks/cost.py")
    assert found
    for arguments in found:
        cost.parse(arguments)


def test_l2features_takes_its_commands(calls: list[list[str]]) -> None:
    found = of_program(calls, "l2features")
    assert len(found) > 3
    for arguments in found:
        context = click.Context(cli.main, info_name="l2features")
        command: click.Command = cli.main
        while isinstance(command, click.Group):
            _, inner, arguments = command.resolve_command(context, arguments)
            assert inner
            command = inner
        command.make_context(command.name, list(arguments), parent=context)


def test_gcloud_takes_its_commands(calls: list[list[str]]) -> None:
    found = of_program(calls, "gcloud")
    assert len(found) > 10
    check_gcloud(found)


def test_named_resources_were_created(calls: list[list[str]]) -> None:
    """Check that the page creates each resource before it uses it."""
    there = {
        ("projects", "my-project"),
        ("buckets", "gs://segmentation-bucket"),
        ("tables", "minnie"),
        ("topics", "pychunkedgraph"),
    }
    granted, pushed = 0, set()
    for call in calls:
        if call[0] == "gcloud" and "create" in call:
            kind, *names = call[call.index("create") - 1 :]
            there |= {(kind, n) for n in takewhile(lambda word: not word.startswith("-"), names[1:])}
            assert {("topics", topic) for topic in values(call, "--topic")} <= there, call
        elif call[:3] == ["python", "-m", "beam_jobs.ingest"] and "--create" in call:
            there.add(("tables", "l2cache_minnie"))
        elif "add-iam-policy-binding" in call:
            verb, granted = call.index("add-iam-policy-binding"), granted + 1
            accounts = [m for m in values(call, "--member") if m.startswith("serviceAccount:")]
            used = {("service-accounts", account.partition(":")[2]) for account in accounts}
            used.add((call[verb - 1], call[verb + 1]))
            assert {(kind, name.partition("@")[0]) for kind, name in used} <= there, call
        elif call[:2] == ["docker", "push"]:
            [image] = call[2:]
            assert any(values(built, "-t") == [image] for built in of_program(calls, "docker", "build"))
            pushed.add(image)
        elif call[:2] != ["docker", "build"]:
            assert {word for word in call if "-docker.pkg.dev/" in word} <= pushed, call
    assert granted > 20
    assert {image.rpartition("/")[2] for image in pushed} == {"ingest:0af1b2c", "jobs:0af1b2c", "api:0af1b2c"}


def test_each_account_is_granted_only_what_it_needs(calls: list[list[str]]) -> None:
    """Check the roles of each account, and the Bigtable roles that the page only describes."""
    granted: dict[str, set[tuple[str, str]]] = {}
    for call in calls:
        if "add-iam-policy-binding" in call:
            [member], [role] = values(call, "--member"), values(call, "--role")
            kind = call[call.index("add-iam-policy-binding") - 1]
            granted.setdefault(member.partition("@")[0], set()).add((kind, role.removeprefix("roles/")))
    both = {("projects", "monitoring.metricWriter"), ("repositories", "artifactregistry.reader")}
    assert granted == {
        "serviceAccount:l2features-jobs": both
        | {
            ("projects", "dataflow.worker"),
            ("buckets", "storage.objectAdmin"),
            ("buckets", "storage.objectViewer"),
            ("tables", "bigtable.reader"),
            ("tables", "bigtable.user"),
            ("subscriptions", "pubsub.subscriber"),
            ("subscriptions", "pubsub.viewer"),
            ("topics", "pubsub.publisher"),
        },
        "serviceAccount:l2features-api": both
        | {
            ("buckets", "storage.objectViewer"),
            ("tables", "bigtable.reader"),
            ("topics", "pubsub.publisher"),
        },
        WHO.partition("@")[0]: {
            ("projects", "dataflow.developer"),
            ("projects", "compute.viewer"),
            ("service-accounts", "iam.serviceAccountUser"),
            ("buckets", "storage.objectAdmin"),
            ("subscriptions", "pubsub.subscriber"),
            ("topics", "pubsub.publisher"),
        },
    }
    part = WRITTEN.partition("## Roles")[2].partition("\n## ")[0]
    assert set(re.findall(r"`roles/([\w.]+)`", part)) == {"bigtable.admin", "bigtable.user"}


def test_launchers_need_no_basic_role(calls: list[list[str]]) -> None:
    """Launchers read machine types with `roles/compute.viewer` instead of `roles/viewer`."""
    bindings = [call for call in calls if "add-iam-policy-binding" in call]
    launcher = {
        role for call in bindings for role in values(call, "--role") if values(call, "--member") == [WHO]
    }
    assert {"roles/dataflow.developer", "roles/compute.viewer"} <= launcher
    assert not {"roles/viewer", "roles/editor"} & set(re.findall(r"roles/[\w.]+", WRITTEN))


def test_a_cancelled_job_is_sought_back_and_repaired(calls: list[list[str]]) -> None:
    """A cancelled job loses its messages in flight, because Dataflow has already acknowledged them."""
    sought = [place for place, call in enumerate(calls) if call[1:4] == ["pubsub", "subscriptions", "seek"]]
    repaired = [p for p, call in enumerate(calls) if "beam_jobs.audit" in call and "--repair" in call]
    assert sought
    assert sought[-1] + 1 in repaired
    part = WRITTEN.partition("### Draining and cancelling")[2].partition("\n## ")[0]
    assert re.search(r"\*\*cancelled\*\* or failed job\s+loses\s+them", part)


def test_alerts_on_dataflow_see_messages_in_flight() -> None:
    """Dataflow acknowledges messages when it reads them, so Pub/Sub's metrics miss them."""
    part = WRITTEN.partition("## What to watch")[2].partition("\n## ")[0]
    alerts = {name.strip(): threshold for name, threshold in re.findall(r"^\|([^|]+)\|([^|]+)\|", part, re.M)}
    both = "edits about to become dead letters"
    late = "updates late, without Dataflow"
    assert [name for name, text in alerts.items() if "unacked" in text] == [late, both]
    assert "job/system_lag" in alerts["updates late, Dataflow"]
    assert "system_lag" in alerts[both]


def test_the_time_is_taken_after_subscribing(calls: list[list[str]]) -> None:
    [taken] = [place for place, call in enumerate(calls) if call == ["date", "-u", "+%F %T"]]
    subscribed = [p for p, call in enumerate(calls) if call[1:4] == ["pubsub", "subscriptions", "create"]]
    used = [p for p, call in enumerate(calls) if values(call, "--timestamp") == [TIME]]
    assert len(subscribed) == 4
    assert len(used) == 2
    assert max(subscribed) < taken < min(used)


def test_every_named_option_exists() -> None:
    sources = [*(ROOT / "beam_jobs").glob("*.py"), *(ROOT / "l2features").rglob("*.py"), Path(cost.__file__)]
    known = set(re.findall(r'"(--[a-z_-]+)"', "\n".join(path.read_text() for path in sources)))
    known |= {f"--{name}" for name in (*cost.PRICES, *PipelineOptions([]).get_all_options())}
    prose = re.sub(r"^```.*?^```", "", WRITTEN, flags=re.MULTILINE | re.DOTALL)
    generated = mkdocs_hooks.alerts() + mkdocs_hooks.reasons() + mkdocs_hooks.counters()
    named = set(re.findall(r"(?<![-\w])--[a-z][a-z_-]+", prose + generated))
    assert len(named) > 10
    assert not named - known - set(flags_below(completions()))


def flags_below(node: dict[str, Any]) -> Iterator[str]:
    yield from node["flags"]
    for inner in node["commands"].values():
        yield from flags_below(inner)


def test_named_api_metrics_exist() -> None:
    named = set(re.findall(r"\bl2cache_[a-z_]+", WRITTEN + mkdocs_hooks.alerts())) - {
        "l2cache_id",
        "l2cache_minnie",
        "l2cache_minnie_",
    }
    exposed = set(exposed_names())
    assert len(named) > 8
    assert not named - exposed


def exposed_names() -> Iterator[str]:
    """Yield the sample names of the API's Prometheus metrics."""
    for metric in vars(metrics).values():
        if isinstance(metric, Histogram):
            yield from (f"{metric._name}_bucket", f"{metric._name}_count")
        elif isinstance(metric, MetricWrapperBase):
            yield f"{metric._name}_total" if isinstance(metric, Counter) else metric._name


def test_every_counter_has_a_meaning() -> None:
    made_calls = [
        node
        for path in (ROOT / "beam_jobs").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in {"count", "measure"}
    ]
    literal = {keyword.arg for call in made_calls for keyword in call.keywords if keyword.arg}
    assert len(literal) > 8
    made = {f"messages_{verdict}" for verdict in Verdict} | {f"ids_{fate}" for fate in Fate}
    made |= {f"audit_{name}" for name in COUNTED} | {f"{step}_ms" for step in (*STEPS, "graph")}
    made |= {f"files_{name}" for name in FileCounts._fields} | {f"saturated_{a.name}" for a in SATURATING}
    assert set(COUNTERS) == literal | made


def test_named_api_variables_exist() -> None:
    from api.config import Settings

    named = set(re.findall(r"\bL2CACHE_([A-Z_]+)\b", WRITTEN + mkdocs_hooks.alerts()))
    assert len(named) > 1
    assert not {name.lower() for name in named} - set(Settings.model_fields)


def test_the_cost_table_has_the_rows_that_the_benchmark_prints() -> None:
    written = (ROOT / "benchmarks" / "cost.md").read_text()
    [part] = re.findall(r"<!-- cost: begin -->(.*?)<!-- cost: end -->", written, re.DOTALL)
    options = cost.parse([])
    inputs = Inputs("", (256, 256, 512), 4, dict.fromkeys(STEPS, 1.0), dict.fromkeys(STEPS, 1.0), *[1.0] * 9)
    printed = [*inputs_text(inputs), *cost.table_text(inputs, options)]
    titles = [line.split("|")[1] for line in printed if line.startswith("|")]
    assert [line.split("|")[1] for line in part.splitlines() if line.startswith("|")] == titles
    assert [line for line in printed if line.startswith(("Prices", "A vCPU"))] == [
        line for line in part.splitlines() if line.startswith(("Prices", "A vCPU"))
    ]


def test_a_presplit_table_is_ingested_without_create(
    emulator: Emulator, sample: Path, tmp_path: Path, calls: list[list[str]]
) -> None:
    from google.cloud import bigtable

    name = f"split_{uuid.uuid4().hex[:8]}"
    config = dataset_file(tmp_path, sample, store=STORE_URL, l2cache_id=name)
    splits = printed_splits(calls, config, 4)
    dataset = load_dataset("sample", config)
    geometry = read_geometry(dataset)
    first = row_keys(geometry.layout.chunk_id_array(whole_box(geometry.grid).positions(0, 1)))
    assert len(splits) == 3
    assert [len(key) for key in splits] == [20] * 3
    assert [*first, *splits] == sorted({*first, *splits})
    table = bigtable.Client(project=PROJECT, admin=True).instance(INSTANCE).table(name)
    families = re.findall(r'--column-families "([^"]+)"', WRITTEN)[0].split(",")
    table.create(initial_split_keys=splits, column_families={f.partition(":")[0]: None for f in families})
    done = run_ingest(config, "--timestamp", "2026-01-01 00:00:00")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 of 12 chunks done")


def printed_splits(calls: list[list[str]], config: Path, tablets: int) -> list[bytes]:
    """Return the row keys that splits.py prints for the sample. Check how docs/operations.md calls it."""
    program = "deploy/bigtable/splits.py"
    assert of_program(calls, "python", program) == [["minnie", "datasets.yml", "200"]]
    ran = run_splits(config, tablets)
    assert ran.returncode == 0, ran.stderr
    return [key.encode() for key in ran.stdout.strip().split(",")]


def run_splits(config: Path, tablets: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "deploy/bigtable/splits.py"), "sample", str(config), str(tablets)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("tablets", [1, 13])
def test_splits_of_too_few_or_too_many_tablets(sample: Path, tmp_path: Path, tablets: int) -> None:
    ran = run_splits(dataset_file(tmp_path, sample), tablets)
    said = f"error: {tablets} tablets: expected 2 to 12, the number of chunks\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", said)
