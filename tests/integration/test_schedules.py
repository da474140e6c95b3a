"""Tests of the example schedules: their commands and options are valid for `beam_jobs.materialize`."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from beam_jobs import materialize
from beam_jobs.templates import metadata
from l2features.versions.columns import signed
from l2features.versions.folders import Folder
from l2features.versions.materialization import settled_time
from tests.support.jobs import ROOT

DOCS = (ROOT / "docs" / "versions.md").read_text()
CRON = re.compile(r"([0-9*,/-]+ ){4}[0-9*,/-]+")


def check_options(words: list[str]) -> None:
    """Check that the job accepts the options: a valid output folder, and the latest version as the base."""
    args, flags = materialize.parse(words)
    assert flags == []
    assert (args.dataset, args.timestamp, args.base) == ("minnie", "today", "latest")
    assert Folder(args.output if "://" not in args.output else "/bucket").url
    assert args.output.endswith("/versions/minnie")


def test_the_cron_line() -> None:
    (line,) = [line for line in DOCS.splitlines() if " l2 python -m beam_jobs.materialize " in line]
    times, _, command = line.partition(" l2 ")
    assert CRON.fullmatch(times)
    assert "%" not in line  # cron would end the command there
    check_options(shlex.split(command)[3:])


def test_the_body_for_cloud_scheduler() -> None:
    text = (ROOT / "deploy" / "scheduler-materialize.json").read_text()
    launch = json.loads(text)["launchParameter"]
    assert set(launch) == {"jobName", "containerSpecGcsPath", "parameters"}
    assert launch["containerSpecGcsPath"].endswith("/materialize.json")
    described = {parameter["name"]: parameter for parameter in metadata("materialize")["parameters"]}
    required = {name for name, parameter in described.items() if not parameter["isOptional"]}
    assert required <= set(launch["parameters"]) <= set(described)
    for name, value in launch["parameters"].items():
        assert all(re.search(regex, value) for regex in described[name].get("regexes", [])), name
    own = {name: value for name, value in launch["parameters"].items() if name != "sdk_container_image"}
    check_options([f"--{name}={value}" for name, value in own.items()])
    assert "--message-body-from-file deploy/scheduler-materialize.json" in DOCS


def test_today_is_the_last_midnight() -> None:
    time = settled_time("today", timedelta(0))
    assert (time.tzinfo, time.hour, time.minute, time.second, time.microsecond) == (UTC, 0, 0, 0, 0)
    assert timedelta(0) <= datetime.now(UTC) - time < timedelta(days=1, minutes=1)


def test_the_highest_layer_of_int64_ids() -> None:
    (layer,) = re.findall(r"int64 in files and SQL results \(int64 fits layers up to (\d+)\)", DOCS)
    above = (int(layer) + 1) << 56
    assert signed(np.array([above - 1], np.uint64)).tolist() == [above - 1]
    with pytest.raises(ValueError, match="does not fit into a signed column"):
        signed(np.array([above], np.uint64))
