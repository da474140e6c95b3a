"""A fake Dataflow service behind Google's clients."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions
from apache_beam.runners.dataflow import dataflow_runner
from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient
from google.cloud import dataflow
from google.protobuf.struct_pb2 import Value

from tests.support.dataflow_launch import NO_FREEZE

STATES = dataflow.JobState
FLAGS = [
    "--runner=DataflowRunner",
    "--no_auth",
    "--project=my-project",
    "--region=us-east1",
    "--temp_location=gs://bucket/temp",
    "--sdk_container_image=us-east1-docker.pkg.dev/my-project/jobs/ingest:1",
    NO_FREEZE,
]


class Service:
    """A fake Dataflow: a request for a second job of the same name returns the first, as in the real one.

    ``ends`` is the state that ``get_job`` returns, and ``counters`` are the counters of the steps.
    ``before`` is called before a job is created, and ``asked`` before a job's state is read.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ends = STATES.JOB_STATE_DONE
        self.error = ""
        self.counters: list[tuple[str, str, int]] = []
        self.jobs: dict[str, dataflow.Job] = {}
        self.before: Any = lambda: None
        self.asked: Any = lambda: None
        service = self
        for client, methods in {
            dataflow.JobsV1Beta3Client: ("create_job", "get_job"),
            dataflow.MessagesV1Beta3Client: ("list_job_messages",),
            dataflow.MetricsV1Beta3Client: ("get_job_metrics",),
        }.items():
            for name in methods:
                method = getattr(service, name)
                monkeypatch.setattr(client, name, lambda _, request, method=method: method(request))
        monkeypatch.setattr(DataflowApplicationClient, "stage_file_with_retry", lambda *_, **__: None)
        monkeypatch.setattr(GoogleCloudOptions, "_warn_if_soft_delete_policy_enabled", lambda *_: None)
        clock = SimpleNamespace(sleep=lambda _: time.sleep(0.01), time=time.time)
        monkeypatch.setattr(dataflow_runner, "time", clock)

    def close(self) -> None:
        """Set all jobs to done, and join the threads in which Beam polls job states."""
        self.ends = STATES.JOB_STATE_DONE
        for thread in threading.enumerate():
            if "poll_for_job_completion" in thread.name:
                thread.join(60)

    def create_job(self, request: Any) -> dataflow.Job:
        self.before()
        job = request.job
        made = dataflow.Job(
            id=f"2026-11-28_01_02_03-{len(self.jobs) + 1}",
            name=job.name,
            client_request_id=job.client_request_id,
            current_state=STATES.JOB_STATE_RUNNING,
        )
        return self.jobs.setdefault(job.name, made)

    def get_job(self, request: Any) -> dataflow.Job:
        self.asked()
        return dataflow.Job(id=request.job_id, current_state=self.ends)

    def list_job_messages(self, request: Any) -> Any:
        error = dataflow.JobMessage(
            message_text=self.error, message_importance=dataflow.JobMessageImportance.JOB_MESSAGE_ERROR
        )
        return SimpleNamespace(job_messages=[error] if self.error else [], next_page_token="")

    def get_job_metrics(self, request: Any) -> dataflow.JobMetrics:
        return dataflow.JobMetrics(
            metrics=[
                dataflow.MetricUpdate(
                    name=dataflow.MetricStructuredName(
                        origin="user", name=name, context={"step": step, "namespace": "l2features", **more}
                    ),
                    scalar=Value(number_value=count),
                )
                for step, name, count in self.counters
                for more in ({}, {"tentative": "true"})
            ]
        )
