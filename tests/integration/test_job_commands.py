"""Tests of ``l2features ingest``, ``audit`` and ``materialize`` without Apache Beam."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from beam_jobs import audit as beam_audit
from l2features.cli.commands import main
from l2features.core.extras import EXTRAS
from l2features.local import pool
from l2features.testing.stores import INSTANCE, PROJECT, STORE_URL
from tests.support.command import run
from tests.support.ingest_jobs import run_ingest
from tests.support.jobs import ROOT, Recordings, WorkerHere, dataset_file, run_job

TIME = "2026-01-01T00:00:00Z"
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({absent}))
from l2features.cli import main
for line in sys.argv[1:]:
    try:
        main(line.split())
    except SystemExit as status:
        print("status", status.code, flush=True)
print(*(name for name in sys.modules if name.startswith(("apache_beam.", "beam_jobs"))))
"""
FIRST = re.compile(r"<!-- command: run -->\n```sh\n(.*?)```", re.DOTALL)
NOT_COMPUTE = [
    *("google.cloud.bigtable", "google.pubsub_v1", "grpc", "deltalake", "apache_beam", "flask", "gunicorn"),
    *EXTRAS["query"],
    *EXTRAS["viewer"],
]
"""Modules that the extra ``compute`` does not install."""


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run workers in this process."""
    monkeypatch.setattr(pool, "Worker", WorkerHere)


def test_they_run_without_beam(sample: Path, tmp_path: Path) -> None:
    """Check, with real worker processes, that ingest and audit print what the Beam jobs print."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for folder in (mine, theirs):
        folder.mkdir()
    config, other = dataset_file(mine, sample), dataset_file(theirs, sample)
    lines = (
        f"ingest sample --config {config} --create --workers 1",
        f"audit --dataset sample --config {config} --workers 1",
        f"materialize sample --config {config} --workers 1 --output {mine}/v --timestamp {TIME}",
    )
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(absent=["apache_beam"]), *lines],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    ingested = run_ingest(other, "--create")
    audited = run_job(beam_audit.main, "--config", other, "--dataset", "sample", "--workers", 1)
    printed = ran.stdout.split("status 0\n")
    assert printed[:2] == [ingested.stdout, audited.stdout]
    assert printed[2].startswith("version 1 at 2026-01-01T00:00:00.000Z: ")
    assert printed[3] == "\n"
    assert "Traceback" not in ran.stderr


def test_the_first_command_of_the_readme_installs_what_it_needs(tmp_path: Path) -> None:
    found = FIRST.search((ROOT / "README.md").read_text())
    assert found
    install, *commands = [line.removesuffix(" &&") for line in found[1].splitlines()]
    assert install.endswith(' -c requirements.txt -e ".[compute]"')
    lines = [command.removeprefix("l2features ") for command in commands]
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            WITHOUT.format(absent=NOT_COMPUTE),
            *lines,
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.count("status 0\n") == len(lines) == 4, ran.stderr
    assert "36/36 chunks done" in ran.stdout
    assert "printed 5 of 28 nodes: --limit leaves out the others\n" in ran.stderr


def test_the_arguments_of_pcgl2cache(
    recordings: Recordings, here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that PCGL2Cache's arguments and environment variables work without a data sets file."""
    monkeypatch.delenv("GRAPH_L2CACHE_CONFIG_PATH", raising=False)
    monkeypatch.setenv("BIGTABLE_PROJECT", PROJECT)
    monkeypatch.setenv("BIGTABLE_INSTANCE", INSTANCE)
    path = recordings.cv_path("fixture_v2")
    form = ("ingest", "l2cache_by_hand", "fixture_v2", path, "2026-11-21 00:27:44", "--workers", 1)
    missing = run(*form)
    assert missing.exit_code == 1
    assert "error: data set 'l2cache_by_hand': table l2cache_by_hand is not in" in missing.stderr
    ran = run(*form, "--create", "--test")
    assert ran.exit_code == 0, ran.stderr
    assert ran.stdout.startswith("8 of 8 chunks done: ")
    values = f"cv_path: {path}, l2cache_id: l2cache_by_hand, graph: graphene, store: {STORE_URL}"
    entry = f"l2cache_by_hand: {{{values}}}"
    assert f"for other commands, put this entry in a data sets file: {entry}\n" in ran.stderr
    config = tmp_path / "datasets.yml"
    config.write_text(entry)
    assert "8/12 chunks done" in run("status", "l2cache_by_hand", "--config", config).stdout
    rest = run(*form[:2], "fixture_v2", path, "2026-11-21 00:27:44", "--workers", 1)
    assert rest.stdout.startswith("12 of 12 chunks done, 8 of them before; in this run: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "--runner", "DataflowRunner"), "for other runners, use python -m beam_jobs.ingest"),
        (("sample", "--sink", "other"), "'other' is not one of 'store', 'bigtableio'"),
        (("sample", "--workers", "0"), "--workers 0: expected 1 or more"),
        (("sample", "--test", "--chunks", "0:1,0:1,0:1"), "not allowed with argument --test"),
        (("a", "b"), "'a b': expected [DATASET | CACHE_ID GRAPH_ID CV_PATH TIMESTAMP]"),
        (
            ("c", "g", "graphene://https://h/segmentation/table/g", "now", "--timestamp", "x"),
            "--timestamp: cannot",
        ),
        (
            ("c", "g", "gs://bucket/ws", "2026-01-01 00:00:00"),
            "cv_path gs://bucket/ws is not the URL of graph 'g'",
        ),
        ((), "no data set is named: expected l2features ingest DATASET"),
        (("a", "--dataset", "b"), "two data sets: a and --dataset b: expected one"),
    ],
)
def test_mistakes(
    arguments: tuple[str, ...],
    message: str,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GRAPH_L2CACHE_CONFIG_PATH", str(undisturbed))
    ran = run("ingest", *arguments)
    assert ran.exit_code == 2
    assert message in ran.output
    form = "Usage: main ingest [OPTIONS] [DATASET | CACHE_ID GRAPH_ID CV_PATH TIMESTAMP]\nTry '"
    assert ran.output.startswith(form) != message.startswith("cv_path gs:")


def test_a_value_that_the_job_refuses_looks_like_one_that_the_command_refuses() -> None:
    outputs = [run("materialize", *rest).output for rest in (("--nope",), ("a", "--base", "x"))]
    heads = [output.partition("Error: ")[0] for output in outputs]
    assert heads[0] == heads[1] != ""
    assert outputs[1].count("\n") == heads[1].count("\n") + 1


@pytest.mark.parametrize("switch", ["--create", "--create=true", "--create true"])
def test_a_switch_before_the_data_set(switch: str, sample: Path, tmp_path: Path, here: None) -> None:
    config = dataset_file(tmp_path, sample)
    done = run("ingest", *switch.split(), "sample", "--config", config, "--test")
    assert (done.exit_code, done.stdout.split(":")[0]) == (0, "8 of 8 chunks done"), done.output


@pytest.mark.parametrize("command", ["ingest", "audit", "materialize"])
def test_options_are_those_of_the_job(command: str) -> None:
    job = import_module(f"beam_jobs.{command}")
    page = run(command, "--help").stdout
    parser = argparse.ArgumentParser(add_help=False)
    job.add_options(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert len(flags) > 5
    assert not [flag for flag in flags if flag not in page]


def test_completion() -> None:
    complete = ShellComplete(main, {}, "l2features", "_L2FEATURES_COMPLETE")
    assert "ingest" in [item.value for item in complete.get_completions([], "ing")]
    assert [item.value for item in complete.get_completions(["ingest"], "--retry-m")] == ["--retry-missing"]
    for shell in ("bash", "zsh", "fish"):
        assert "_L2FEATURES_COMPLETE" in run("completion", shell).stdout


def test_datasets_lists_tables_and_their_state(undisturbed: Path, tmp_path: Path) -> None:
    entry = json.loads(undisturbed.read_text())["sample"]
    path = tmp_path / "datasets.yml"
    entries = {
        "sample": entry,
        "alias": entry,
        "new": {**entry, "l2cache_id": "l2cache_new"},
        "bad": {"x": 1},
    }
    path.write_text(json.dumps(entries))
    ran = run("datasets", "--config", path)
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert lines[0] == ["name", "table", "store", "graph", "state"]
    store = entry["store"]
    assert lines[1][:5] == ["sample", "l2cache_sample", store, "flat", "valid"]
    assert lines[2][:5] == ["alias", "l2cache_sample", store, "flat", "valid"]
    assert lines[3] == ["new", "l2cache_new", store, "flat", "no", "table", "yet"]
    problem = f"error: data sets file {path}: data set 'bad': unknown key 'x': expected "
    assert ran.stderr.startswith(problem)
    assert ran.exit_code == 1
    assert [row["name"] for row in json.loads(run("datasets", "--config", path, "--json").stdout)] == [
        "sample",
        "alias",
        "new",
    ]
