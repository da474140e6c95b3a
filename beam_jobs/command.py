"""Code that the jobs' commands share: options, and runs on Beam runners.

Only functions import Apache Beam. Worker processes of a local run import the command's module, and thus this
module, but do not need Beam.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from l2features.config.datasets import Dataset
from l2features.core.errors import ConfigError, message_of
from l2features.jobs import job_command
from l2features.jobs.job_options import LOCAL, add_switch, check_options
from l2features.local import log_lines

from .dataflow import dataflow_flags, is_dataflow, labels, table_job_name
from .options import beam_flags, pipeline_options

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

_WHILE_RUNNING = re.compile(r" \[while running '.*'\]", re.DOTALL)
"""Matches the pipeline step that Beam adds to error messages."""


def new_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a command."""
    return argparse.ArgumentParser(
        prog=f"python -m beam_jobs.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Beam's options (--runner, --project, --region, --temp_location, …) are also accepted.",
        allow_abbrev=False,
    )


def parse(
    name: str,
    description: str | None,
    add_options: Callable[[argparse.ArgumentParser], None],
    argv: Sequence[str] | None,
    problem: Callable[[argparse.Namespace, list[str]], str] = lambda args, _: "",
) -> tuple[argparse.Namespace, list[str]]:
    """Return a tuple: the job's own options; the flags for Beam.

    ``problem`` receives the job's options, and the flags for Beam as given. It returns what is wrong with
    them, or "". Exits with status 2 for a wrong option or flag.
    """
    # Set the form of log lines before Beam sets its own when it reads options.
    log_lines.configure()
    parser = new_parser(name, description)
    add_options(parser)
    parser.add_argument(
        "--runner", default=LOCAL, help="local (default), DaskRunner, or a Beam runner such as DataflowRunner"
    )
    until = parser.add_mutually_exclusive_group()
    add_switch(until, "--wait", "wait for the end of a job on Dataflow: the default for batch jobs")
    add_switch(until, "--detach", "only start a job on Dataflow: the default for streaming jobs")
    parser.set_defaults(wait=None, detach=None)
    args, rest = parser.parse_known_args(argv)
    if waiting(args) is False and not is_dataflow(args.runner):
        parser.error(
            "--detach, --wait=false: expected --runner=DataflowRunner; "
            f"a job on runner {args.runner} cannot outlive this command"
        )
    check_options(parser, args)
    flags = beam_flags(parser, rest)
    if text := problem(args, rest):
        parser.error(text)
    return args, flags


def waiting(args: argparse.Namespace) -> bool | None:
    """Return whether to wait for a job on Dataflow; None if the options do not say."""
    return args.wait if args.detach is None else not args.detach


def run_on(
    runner: str, flags: list[str], add: Callable[[Any], object], wait: bool | None = None
) -> dict[str, int] | None:
    """Run the pipeline that ``add`` builds on a Beam runner; return its counters.

    Returns None for a dry run, a template, and a job on Dataflow that streams or is not waited for. Raises
    ConfigError for an unknown runner, LaunchFailed or JobFailed for a job that failed, StillRunning for a job
    on Dataflow that continues after Ctrl-C.

    Args:
        runner: name of the Beam runner.
        flags: flags for Beam.
        add: adds the job to a pipeline.
        wait: whether to wait for the end of a job on Dataflow; by default, only for a batch job.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import GoogleCloudOptions, TestOptions

    from .portable import plain_errors, portable_flags

    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    options = pipeline_options([*portable_flags(dataflow_flags(runner, flags)), f"--runner={runner}"])
    try:
        pipeline = beam.Pipeline(options=options)
    except ValueError as error:
        raise ConfigError(f"runner {runner}: {message_of(error)}") from error
    with plain_errors(options):
        add(pipeline)
        if is_dataflow(runner):
            return _on_dataflow(pipeline, options, wait)
        result = pipeline.run()
        google = options.view_as(GoogleCloudOptions)
        if options.view_as(TestOptions).dry_run or google.template_location:
            return None
        result.wait_until_finish()
        return _counters(result)


def run_on_table(
    job: str, dataset: Dataset, args: argparse.Namespace, flags: list[str], add: Callable[[Any], object]
) -> dict[str, int] | None:
    """Run a job on the runner in ``args``. Its name and labels identify the table; see `run_on`."""
    named = [table_job_name(job, dataset), *labels(job, dataset.name), *flags]
    return run_on(args.runner, named, add, waiting(args))


def _on_dataflow(pipeline: Any, options: PipelineOptions, wait: bool | None) -> dict[str, int] | None:
    from apache_beam.options.pipeline_options import StandardOptions

    from .launch import launch, wait_for

    standard = options.view_as(StandardOptions)
    result, job = launch(pipeline, options)
    if wait is None:
        wait = not (standard.streaming or standard.no_wait_until_finish)
    if job is None or not wait:
        return None
    wait_for(result, job)
    return None if standard.streaming else _counters(result)


def _counters(result: Any) -> dict[str, int]:
    """Return the job's counters; counters of the same name in several steps are summed."""
    from apache_beam.metrics import MetricsFilter

    from .counters import NAMESPACE

    total: Counter[str] = Counter()
    for metric in result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]:
        total[metric.key.metric.name] += metric.result or 0
    return dict(total)


exit_status = partial(job_command.exit_status, shown=partial(_WHILE_RUNNING.sub, ""))
"""Run a command and return its exit status; its error messages are printed without Beam's step."""
