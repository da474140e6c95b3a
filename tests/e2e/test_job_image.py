"""Tests of the jobs' Dockerfile, as far as its steps run without Docker."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from l2features.testing.storage_emulator import storage_emulator
from l2features.versions import bucket_files
from tests.support.dataflow_launch import FLAGS, NO_FREEZE
from tests.support.dockerfile import (
    SITE,
    Step,
    below,
    build,
    environment,
    follow_copies,
    import_with_only,
    last,
    read_steps,
    stages,
)
from tests.support.jobs import ROOT

pytestmark = pytest.mark.usefixtures("dead_topic")
DOCKERFILE, BASE = "templates/Dockerfile", "python:3.11-slim-bookworm"
OPTIONS = {
    "ingest": ["--dataset=sample", "--recompute=true"],
    "audit": ["--dataset=sample"],
    "materialize": [
        "--dataset=sample",
        "--timestamp=2026-11-21T00:27:44Z",
        "--output=gs://versions/sample",
    ],
    "update": [
        "--subscriptions=projects/my-project/subscriptions/edits",
        "--dead_letters=projects/my-project/topics/dead",
    ],
}
LAUNCHER = """
import runpy, sys, beam_jobs
_, site, main, *_ = sys.argv
assert beam_jobs.__file__.startswith(site), beam_jobs.__file__
sys.argv = sys.argv[2:]
runpy.run_path(main, run_name="__main__")
"""
"""Checks that `beam_jobs` is the image's, and runs a main file as ``python FILE`` does."""


@pytest.fixture(scope="module")
def targets() -> dict[str, list[Step]]:
    return stages(read_steps(DOCKERFILE))


@pytest.fixture(scope="module")
def root(targets: dict[str, list[Step]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the Dockerfile's stage `jobs` copies, and the built packages."""
    root = tmp_path_factory.mktemp("image")
    follow_copies(DOCKERFILE, targets["jobs"], root)
    assert {path.name for path in build(root).iterdir()} == {"l2features", "beam_jobs"}
    return root


@pytest.mark.parametrize("job", OPTIONS)
def test_an_image_launches_its_job(
    targets: dict[str, list[Step]], root: Path, job: str, config: Path, tmp_path: Path
) -> None:
    """Check the launcher with only the files that the image's COPY lines take."""
    steps, site = targets[job], root / SITE.strip("/")
    assert steps[: len(targets["jobs"])] == targets["jobs"]
    follow_copies(DOCKERFILE, steps[len(targets["jobs"]) :], root)
    variables = {name: below(value, root) for name, value in environment(steps).items()}
    inside = {**os.environ, **variables, "PYTHONPATH": str(site)}
    launcher = [sys.executable, "-c", LAUNCHER, str(site), variables["FLEX_TEMPLATE_PYTHON_PY_FILE"]]
    flags = [f"--config={config}", *OPTIONS[job], *FLAGS, NO_FREEZE, "--dry_run=True"]
    with storage_emulator("versions") as host:
        inside[bucket_files.EMULATOR] = host
        ran = subprocess.run(
            [*launcher, *flags], cwd=tmp_path, env=inside, capture_output=True, text=True, check=False
        )
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    assert "Traceback" not in ran.stderr


def test_launcher_and_worker_are_of_one_beam(targets: dict[str, list[Step]]) -> None:
    steps = read_steps(DOCKERFILE)
    arguments = dict(step.rest.split("=") for step in steps if step.word == "ARG")
    locked = re.search(r"^apache-beam==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert locked
    assert arguments["BEAM_VERSION"] == locked[1]
    images = [step.rest.partition(" AS ")[0] for step in steps if step.word == "FROM"]
    bases = [image for image in images if image not in targets]
    assert bases == [
        "apache/beam_python3.11_sdk:${BEAM_VERSION}",
        "gcr.io/dataflow-templates-base/python311-template-launcher-base:${LAUNCHER_VERSION}",
        BASE,
    ]
    assert all(step.rest.count("==") for step in steps if "setuptools" in step.rest)


def test_kernels_are_compiled_when_the_image_is_built(targets: dict[str, list[Step]]) -> None:
    """Run the Dockerfile's compile command here. It skips kernels that are in this machine's cache."""
    (compiling,) = [s.rest for s in targets["jobs"] if s.word == "RUN" and s.rest.startswith("python")]
    subprocess.run([sys.executable, *shlex.split(compiling)[1:]], check=True)
    assert environment(targets["jobs"])["NUMBA_CPU_NAME"] == "generic"
    made = [step.rest for step in targets["jobs"] if "install -d -o l2jobs" in step.rest]
    assert "$NUMBA_CACHE_DIR" in made[0]


def test_who_runs_in_an_image(targets: dict[str, list[Step]]) -> None:
    """Dataflow demands root, and nothing else does."""
    assert last(targets["jobs"], "USER") == "l2jobs"
    assert json.loads(last(targets["jobs"], "ENTRYPOINT")) == ["python", "-m"]
    for job in OPTIONS:
        assert last(targets[job], "USER") == "root"
        assert json.loads(last(targets[job], "ENTRYPOINT")) == ["/opt/apache/beam/boot"]
        copied = [step.rest.split()[-1] for step in targets[job] if step.rest.startswith("--from=")]
        assert copied == ["/opt/apache/beam", "/opt/google/dataflow/python_template_launcher"]
        assert environment(targets[job])["FLEX_TEMPLATE_PYTHON_PY_FILE"] == "/template/main.py"
        flex = [name for name in environment(targets[job]) if name.startswith("FLEX_")]
        assert flex == ["FLEX_TEMPLATE_PYTHON_PY_FILE"]


def test_the_definition_for_apptainer_has_the_same_steps(targets: dict[str, list[Step]]) -> None:
    """Only the steps about users differ: Apptainer runs as the caller, so everyone may write to the cache."""
    steps, text = targets["jobs"], (ROOT / "deploy" / "apptainer" / "jobs.def").read_text()
    head, *parts = re.split(
        r"^%(\w+)\n", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE
    )
    sections = {
        name: [line.strip() for line in body.strip().splitlines()]
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }
    assert f"\nFrom: {BASE}\n" in f"\n{head}"
    copies = [step.rest.split() for step in steps if step.word == "COPY"]
    assert [line.split() for line in sections["files"]] == [
        [source, target] for *sources, target in copies for source in sources
    ]
    variables = environment(steps)
    exports = [line.removeprefix("export ").split("=", 1) for line in sections["environment"]]
    assert dict(exports) == variables
    commands = [part.strip() for step in steps if step.word == "RUN" for part in step.rest.split("&&")]
    kept = [re.sub(" -o l2jobs", "", command) for command in commands if "useradd" not in command]
    first, *others, last_one = sections["post"]
    assert others == kept
    assert {*first.split()[1:]} <= {f"{name}={value}" for name, value in variables.items()}
    assert {pair.partition("=")[0] for pair in first.split()[1:]} == {n for n in variables if "NUMBA" in n}
    assert last_one == 'chmod -R a+rwX "$NUMBA_CACHE_DIR"'
    assert sections["runscript"] == ["exec " + " ".join(json.loads(last(steps, "ENTRYPOINT"))) + ' "$@"']


def test_the_lock_holds_every_library_that_the_jobs_need() -> None:
    code = (
        "import beam_jobs.ingest, beam_jobs.audit, beam_jobs.update, beam_jobs.update_dataflow\n"
        "import beam_jobs.materialize, beam_jobs.materialize_pipeline\n"
        "import l2features.store.bigtable.bigtable_store, l2features.volume\n"
        "import l2features.ingest.node_features\n"
    )
    assert {"kvdbclient", "caveclient"} <= import_with_only("requirements.txt", code)
