"""Tests of the commands and the log line in docs/deploy.md."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from api.config import Settings
from beam_jobs import audit, ingest, update
from l2features.local.log_lines import JsonLines
from l2features.local.progress import ProgressLines
from tests.support.jobs import ROOT
from tests.support.manifests import EXAMPLE
from tests.support.operations import PROGRAMS, blocks, check_gcloud, of_program, record, values

PAGE = (ROOT / "docs" / "deploy.md").read_text()
JOBS = {module.__name__: module for module in (audit, ingest, update)}


def test_its_commands(tmp_path: Path) -> None:
    programs = (*PROGRAMS, "cp", "kubectl", "apptainer", "promtool")
    exports = blocks("sh")[0].partition("\ngcloud auth")[0]
    calls = record(tmp_path, "\n".join([exports, *blocks("sh", PAGE)]), programs)
    check_gcloud(of_program(calls, "gcloud"))
    for call in calls:
        for word in call:
            assert not word.startswith("deploy/") or "/mine" in word or (ROOT / word).exists(), word
    assert of_program(calls, "cp", "-r") == [
        [str(EXAMPLE.relative_to(ROOT)), "deploy/kubernetes/overlays/mine"]
    ]
    _, _, updater = (tmp_path / "updater.sh").read_text().strip().rpartition(" beam_jobs.")
    jobs = [
        *(args.split(",") for call in calls for args in values(call, "--args")),
        *(call[2:] for call in of_program(calls, "apptainer", "run")),
        f"beam_jobs.{updater}".split(),
    ]
    for name, *options in jobs:
        assert JOBS[name].parse(options)[1] == []
    assert {name for name, *_ in jobs} == JOBS.keys()
    (variables,) = (values(call, "--set-env-vars") for call in calls if "--set-env-vars" in call)
    fields = Settings.model_fields.items()
    settings = {field.validation_alias or f"L2CACHE_{name.upper()}" for name, field in fields}
    assert {pair.partition("=")[0] for pair in variables[0].split(",")} <= settings | {
        "AUTH_URL",
        "FORWARDED_ALLOW_IPS",
    }


def test_the_example_of_a_line() -> None:
    record = logging.makeLogRecord({"name": ProgressLines.__module__, "levelname": "INFO", "msg": "x"})
    (line,) = blocks("json", PAGE)
    assert json.loads(line).keys() == json.loads(JsonLines().format(record)).keys()
