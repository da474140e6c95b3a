"""Tests of the contributors' files: their programs exist, and workflows run the commands of `.ci/run`."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.jobs import ROOT


def jobs_of(workflow: str) -> dict[str, Any]:
    jobs: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / workflow).read_text())["jobs"]
    return jobs


def runs(workflow: str) -> list[str]:
    jobs = jobs_of(workflow).values()
    return [step["run"] for job in jobs for step in job.get("steps", ()) if "run" in step]


@pytest.mark.parametrize("workflow", ["ci.yml", "release.yml"])
def test_actions_are_named_by_commit(workflow: str) -> None:
    steps = [step for job in jobs_of(workflow).values() for step in job.get("steps", [])]
    used = [step["uses"] for step in steps if "uses" in step]
    assert len(used) >= 3
    assert not [action for action in used if not re.fullmatch(r"[-\w]+/[-\w]+@[0-9a-f]{40}", action)]


def test_the_workflows_run_what_is_run_here() -> None:
    assert runs("ci.yml")[-1] == ".ci/run"
    ci = (ROOT / ".ci" / "run").read_text().replace(".venv/bin/", "")
    for command in runs("release.yml"):
        if command.startswith(("npm", "python -m build", "twine check")):
            assert re.sub(" dist/.*", "", command) in ci, command


def test_what_is_released_passed_the_checks() -> None:
    jobs = jobs_of("release.yml")
    assert jobs["checks"]["uses"] == "./.github/workflows/ci.yml"
    assert (jobs["build"]["needs"], jobs["publish"]["needs"]) == ("checks", "build")


def test_the_programs_of_hooks_and_commands_exist() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lines = [*(hook["entry"] for hook in hooks), *(ROOT / "justfile").read_text().splitlines()]
    named = {name for line in lines for name in re.findall(r"(?:^| )\.venv/bin/([\w-]+)", line)}
    assert {"ruff", "mypy", "python", "pre-commit", "twine", "l2features"} <= named
    scripts = Path(sysconfig.get_path("scripts"))
    assert not [name for name in named if not (scripts / name).exists()]
    assert all((ROOT / name).exists() for line in lines for name in re.findall(r"\.ci/\w+", line))
