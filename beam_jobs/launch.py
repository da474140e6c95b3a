"""Launch a pipeline on Dataflow, print its job, and wait for its end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineState
from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError

from l2features.core.errors import L2FeaturesError, message_of
from l2features.jobs.job_command import StillRunning

from .portable import reason

_ID = re.compile(r"\bwith id: (\S+?)\.(?:\s|$)")
_ENDED_WELL = {PipelineState.DONE, PipelineState.DRAINED, PipelineState.UPDATED}


class LaunchFailed(L2FeaturesError):
    """Dataflow refused a job, or the job failed."""


class CloudJob(NamedTuple):
    """A job on Dataflow, and the commands that stop it."""

    id: str
    name: str
    project: str
    region: str
    streaming: bool = False

    @property
    def page(self) -> str:
        """URL of the job's page in the Google Cloud console."""
        return (
            f"https://console.cloud.google.com/dataflow/jobs/{self.region}/{self.id}?project={self.project}"
        )

    def command(self, verb: str) -> str:
        """Return the gcloud command that cancels or drains the job."""
        return f"gcloud dataflow jobs {verb} {self.id} --project={self.project} --region={self.region}"

    @property
    def end(self) -> str:
        """``drain: gcloud …``, which loses no message, for a streaming job; else ``cancel: gcloud …``."""
        verb = "drain" if self.streaming else "cancel"
        return f"{verb}: {self.command(verb)}"

    def __str__(self) -> str:
        lines = [f"started: job {self.id} ({self.name})", f"page: {self.page}", self.end]
        if self.streaming:
            lines.append(f"cancel: {self.command('cancel')} (loses the messages in flight: audit --repair)")
        return "\n".join(lines)


def launch(pipeline: Any, options: PipelineOptions) -> tuple[Any, CloudJob | None]:
    """Start a pipeline on Dataflow and print its job; return a tuple: the pipeline's result; the job.

    The job is None if only a template was made. Raises LaunchFailed if Dataflow cannot be reached or refuses
    the job, and StillRunning after Ctrl-C, since the job may be running.
    """
    # An internal module, but the only place of this error; apache-beam is pinned to 2.77.
    from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError

    google = options.view_as(GoogleCloudOptions)

    def job(id_: str) -> CloudJob:
        streaming = options.view_as(StandardOptions).streaming
        return CloudJob(id_, google.job_name, google.project, google.region, streaming)

    try:
        with _one_line():
            result = pipeline.run()
    except DataflowJobAlreadyExistsError as error:
        found = _ID.search(str(error))
        if found is None or google.update:
            raise LaunchFailed(str(error)) from error
        runs = job(found[1])
        raise LaunchFailed(
            f"job {runs.name} already runs as {runs.id}: {runs.page}; wait for it, or "
            f"{runs.command('cancel')}, or give another --job_name"
        ) from error
    except KeyboardInterrupt:
        raise StillRunning(
            f"stopped while job {google.job_name} was being started; to see whether it runs: gcloud "
            f"dataflow jobs list --status=active --filter=name={google.job_name} --project={google.project} "
            f"--region={google.region}"
        ) from None
    if google.template_location or not hasattr(result, "job_id"):
        return result, None
    started = job(result.job_id())
    print(started, flush=True)
    return result, started


def wait_for(result: Any, job: CloudJob) -> None:
    """Wait for the end of a job.

    Raises LaunchFailed if the job fails or its state cannot be read, and StillRunning after Ctrl-C.
    """
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException

    continues = f"job {job.id} continues: {job.page}; {job.end}"
    try:
        with _one_line():
            result.wait_until_finish()
    except KeyboardInterrupt:
        raise StillRunning(f"stopped waiting; {continues}") from None
    except DataflowRuntimeException as error:
        state = error.result.state
        if state not in _ENDED_WELL:
            why = reason(str(error).partition("Error:\n")[2])
            raise LaunchFailed(f"job {job.id}: {state}: {why}; see {job.page}") from error
    except AssertionError as error:  # Beam raises it if its polling thread died
        raise LaunchFailed(f"cannot read the state of the job; {continues}") from error


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn errors of Google's services, the network and options into LaunchFailed with one line of text."""
    try:
        yield
    except (GoogleAPIError, GoogleAuthError, OSError, ValueError) as error:
        raise LaunchFailed(f"Dataflow: {message_of(error)}") from error
