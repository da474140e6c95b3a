"""A helper that captures the job that a template launch sends to Dataflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient

IMAGE = "us-east1-docker.pkg.dev/my-project/jobs/ingest:1"
JOB_OBJECT = "gs://bucket/staging/template_launches/1/job_object"
NO_FREEZE = "--experiments=disable_logging_submission_environment"
"""Skips the `pip freeze` whose output Beam would stage with each job."""
FLAGS = [
    "--runner=DataflowRunner",
    "--no_auth",
    "--project=my-project",
    "--region=us-east1",
    "--job_name=my-job",
    "--temp_location=gs://bucket/temp",
    "--staging_location=gs://bucket/staging",
    f"--template_location={JOB_OBJECT}",
    f"--sdk_container_image={IMAGE}",
    "--service_account_email=jobs@my-project.iam.gserviceaccount.com",
    '--labels={"team": "connectomics"}',
    "--a_flag_of_the_service=1",
]
"""Flags that a template's launcher adds to the parameters. Beam does not know the last one."""


@dataclass
class Launched:
    """The exit status, the job and the pipeline of a launch."""

    status: int
    job: dict[str, Any]
    pipeline: beam_runner_api_pb2.Pipeline

    @property
    def environment(self) -> dict[str, Any]:
        found: dict[str, Any] = self.job["environment"]
        return found

    @property
    def pool(self) -> dict[str, Any]:
        (found,) = self.environment["workerPools"]
        return dict(found)

    @property
    def steps(self) -> dict[str, Any]:
        transforms = self.pipeline.components.transforms.values()
        return {step.unique_name: step for step in transforms if not step.subtransforms}

    def inputs(self, name: str) -> set[str]:
        """Return the names of the steps whose output a step takes."""
        wanted = set(self.steps[name].inputs.values())
        return {other for other, step in self.steps.items() if wanted & set(step.outputs.values())}


def launch(
    monkeypatch: pytest.MonkeyPatch, main: Callable[[Sequence[str]], int], options: Sequence[str]
) -> Launched:
    """Run a job's ``main`` as a template's launcher does, but upload nothing."""
    staged: dict[str, bytes] = {}

    def stage(_: Any, folder: str, name: str, content: Any, *more: object, **named: object) -> None:
        is_path = isinstance(content, str)
        staged[f"{folder}/{name}"] = Path(content).read_bytes() if is_path else content.read()

    monkeypatch.setattr(DataflowApplicationClient, "stage_file_with_retry", stage)
    monkeypatch.setattr(GoogleCloudOptions, "_warn_if_soft_delete_policy_enabled", lambda *_: None)
    status = main([*options, *FLAGS])
    (pipeline,) = [content for name, content in staged.items() if name.endswith(".pb")]
    parsed = beam_runner_api_pb2.Pipeline.FromString(pipeline)
    return Launched(status, json.loads(staged[JOB_OBJECT]), parsed)
