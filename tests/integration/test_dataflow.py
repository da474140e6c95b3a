"""Tests of the jobs that Dataflow receives when their templates are launched."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from apache_beam.portability.api import beam_runner_api_pb2 as beam_api
from apache_beam.runners.pipeline_context import PipelineContext

from beam_jobs import audit, ingest, materialize, update
from l2features.testing.storage_emulator import storage_emulator
from l2features.versions import bucket_files
from tests.support.dataflow_launch import IMAGE, NO_FREEZE, Launched, launch
from tests.support.jobs import ROOT, own_copy

JOBS: dict[str, tuple[Callable[[Sequence[str]], int], list[str]]] = {
    "ingest": (ingest.main, ["--dataset=sample", "--create=true", "--recompute=false"]),
    "audit": (audit.main, ["--dataset=sample", "--repair=true"]),
    "materialize": (
        materialize.main,
        ["--dataset=sample", "--timestamp=2026-11-21T00:27:44.368Z", "--output=gs://versions/sample"],
    ),
    "update": (
        update.main,
        [
            "--subscriptions=projects/my-project/subscriptions/high,projects/my-project/subscriptions/low",
            "--dead_letters=projects/my-project/topics/dead",
        ],
    ),
}
RECORDED = ROOT / "tests" / "job_steps.json"
PARDO = "beam:transform:pardo:v1"
GROUP_BY_KEY = "beam:transform:group_by_key:v1"
RESHUFFLE = "beam:transform:reshuffle:v1"
MOST_BYTES = 100_000
"""Limit of a pipeline, and of a job as JSON; Dataflow accepts 10 MB."""
DIFFERENT = """
The steps of {job}, or what they keep, are not those of tests/job_steps.json. Dataflow knows a step by its
name: a streaming job that runs cannot be replaced in place by one whose steps have other names, coders,
state or timers, and
what it holds of messages would be lost; dashboards and alerts name steps as well. If it is meant, put the
new names into the file, and say in docs/dataflow.md that the job must be drained and started anew, or be
updated with --transform-name-mappings."""

pytestmark = pytest.mark.usefixtures("dead_topic", "versions")


@pytest.fixture(scope="module")
def versions() -> Iterator[None]:
    """Start a Cloud Storage emulator with the bucket ``versions``, to which materialize jobs write."""
    with storage_emulator("versions") as host, pytest.MonkeyPatch.context() as patch:
        patch.setenv(bucket_files.EMULATOR, host)
        yield


@pytest.fixture(scope="module")
def launched(
    versions: None, undisturbed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Launched]]:
    config = own_copy(undisturbed, tmp_path_factory.mktemp("launched"))
    with pytest.MonkeyPatch.context() as patch:
        yield {
            job: launch(patch, main, [f"--config={config}", *options])
            for job, (main, options) in JOBS.items()
        }


@pytest.fixture(params=JOBS)
def job(request: pytest.FixtureRequest, launched: dict[str, Launched]) -> tuple[str, Launched]:
    return request.param, launched[request.param]


def test_workers_are_what_the_launcher_is(job: tuple[str, Launched]) -> None:
    """Check that workers have the launcher's image and service account, and receive no other code."""
    _, found = job
    assert found.status == 0
    assert found.pool["workerHarnessContainerImage"] == IMAGE
    environments = found.pipeline.components.environments.values()
    images = {beam_api.DockerPayload.FromString(e.payload).container_image for e in environments}
    assert images == {IMAGE}
    assert [package["name"] for package in found.pool["packages"]] == [
        "submission_environment_dependencies.txt"
    ]
    assert found.environment["serviceAccountEmail"] == "jobs@my-project.iam.gserviceaccount.com"


def test_a_kernel_for_each_core(job: tuple[str, Launched]) -> None:
    name, found = job
    assert "use_runner_v2" in found.environment["experiments"]
    assert found.pool["numThreadsPerWorker"] == 1
    (harness,) = found.pool["sdkHarnessContainerImages"]
    assert harness["useSingleCorePerContainer"]
    assert found.pool["diskSizeGb"] == 50
    dataset = {} if name == "update" else {"l2features-dataset": "sample"}
    ours = {"application": "l2features", "l2features-job": name, **dataset}
    assert found.job["labels"] == {**ours, "team": "connectomics"}


def test_a_flag_that_is_given_counts(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--number_of_worker_harness_threads=2", "--disk_size_gb=100", "--labels=application=mine"]
    flags.append(NO_FREEZE)
    for name, (main, options) in JOBS.items():
        found = launch(monkeypatch, main, [f"--config={config}", *options, *flags])
        assert (found.pool["numThreadsPerWorker"], found.pool["diskSizeGb"]) == (2, 100), name
        assert found.job["labels"]["application"] == "mine"


def test_batch_and_streaming(launched: dict[str, Launched]) -> None:
    kinds = {name: found.job["type"] for name, found in launched.items()}
    batch, streaming = "JOB_TYPE_BATCH", "JOB_TYPE_STREAMING"
    assert kinds == {"ingest": batch, "audit": batch, "materialize": batch, "update": streaming}
    streams = launched["update"].environment
    assert {"enable_streaming_engine", "enable_windmill_service"} <= set(streams["experiments"])
    assert streams["serviceOptions"] == ["streaming_mode_at_least_once"]


def test_a_process_that_hangs_ends_itself(launched: dict[str, Launched]) -> None:
    minutes = {
        name: found.environment["sdkPipelineOptions"]["options"]["element_processing_timeout_minutes"]
        for name, found in launched.items()
    }
    assert minutes == {"ingest": 20, "audit": 20, "materialize": 20, "update": 60}
    page = (ROOT / "docs" / "dataflow.md").read_text()
    [row] = [line for line in page.splitlines() if "element_processing_timeout_minutes" in line]
    assert [int(number) for number in re.findall(r"(?:after|or) (\d+)", row)] == [
        minutes["ingest"],
        minutes["update"],
    ]


def test_no_timer_is_of_processing_time(job: tuple[str, Launched]) -> None:
    """A processing-time timer holds the watermark; if it resets itself, the job cannot drain."""
    _, found = job
    kept = [text for state in steps_of(found)["state"].values() for text in state.values()]
    assert not any("PROCESSING_TIME" in text for text in kept)


@pytest.mark.parametrize(
    ("name", "source", "after"),
    [
        ("ingest", "Chunks/Pending chunks", "Compute features/Compute"),
        ("audit", "Chunks/Pending chunks", "Audit chunks/Compare"),
        ("materialize", "Scan units/Units", "Scan units/Scan"),
    ],
)
def test_chunks_are_shared_out_before_they_are_computed(
    launched: dict[str, Launched], name: str, source: str, after: str
) -> None:
    """Without the reshuffle, one worker would run the source and all later steps."""
    transforms = launched[name].pipeline.components.transforms.values()
    names = {"Chunks/Spread chunks", "Scan units/Spread units"}
    (spread,) = [step for step in transforms if step.unique_name in names]
    assert spread.spec.urn == RESHUFFLE
    steps = launched[name].steps
    assert set(spread.inputs.values()) == set(steps[source].outputs.values())
    assert set(spread.outputs.values()) == set(steps[after].inputs.values())


def test_no_chunk_and_no_row_travels_in_the_job(job: tuple[str, Launched]) -> None:
    _, found = job
    assert found.pipeline.ByteSize() < MOST_BYTES
    assert len(json.dumps(found.job)) < MOST_BYTES


def steps_of(found: Launched) -> dict[str, Any]:
    """Return the step names, the coders of grouped elements, and each step's state and timers."""
    context = PipelineContext(found.pipeline.components)
    kept, grouped = {}, {}
    for name, step in found.steps.items():
        payload = beam_api.ParDoPayload()
        if step.spec.urn == PARDO:
            payload.ParseFromString(step.spec.payload)
        if payload.state_specs or payload.timer_family_specs:
            kept[plain(name)] = kept_by(payload, context)
        if plain(name) in kept or step.spec.urn == GROUP_BY_KEY:
            [source] = step.inputs.values()
            coder_id = found.pipeline.components.pcollections[source].coder_id
            grouped[plain(name)] = str(context.coders[coder_id])
    return {"steps": sorted(plain(name) for name in found.steps), "coders": grouped, "state": kept}


def kept_by(payload: beam_api.ParDoPayload, context: PipelineContext) -> dict[str, str]:
    """Return the coders of a step's state, and the time domains and coders of its timers."""
    kept = {}
    for name, state in payload.state_specs.items():
        kind = state.WhichOneof("spec")
        spec = getattr(state, kind)
        coder_id = spec.element_coder_id if kind == "bag_spec" else spec.coder_id
        kept[name] = f"{kind}: {context.coders[coder_id]}"
    for name, timer in payload.timer_family_specs.items():
        domain = beam_api.TimeDomain.Enum.Name(timer.time_domain)
        kept[name] = f"{domain}: {context.coders[timer.timer_family_coder_id]}"
    return kept


def plain(step: str) -> str:
    """Return the step's name without the line numbers of lambdas in Beam's code."""
    return re.sub(r"<lambda at (\w+\.py):\d+>", r"<lambda in \1>", step)


def test_steps_have_the_names_that_running_jobs_know(job: tuple[str, Launched]) -> None:
    name, found = job
    recorded = json.loads(RECORDED.read_text())[name]
    assert steps_of(found) == recorded, DIFFERENT.format(job=name)
