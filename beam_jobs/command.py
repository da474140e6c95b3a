"""What the commands of the jobs share: options, runners, and exit statuses.

Apache Beam is imported only where it is used: a worker of a local run imports the command's module.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import select
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from l2features.core.chunks import ChunkBox, centre_box, parse_box, whole_box
from l2features.core.errors import ConfigError, L2FeaturesError
from l2features.core.geometry import Triple
from l2features.local.pool import ChunkJob, LocalRun, Progress
from l2features.local.processes import heeded

from .dataflow import dataflow_flags, is_dataflow
from .options import CONFIG_HELP, add_switch, beam_flags, pipeline_options

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

LOCAL = "local"
EXIT_FAILED, EXIT_USAGE, EXIT_STOPPED = 1, 2, 130
_WHILE_RUNNING = re.compile(r" \[while running '.*'\]", re.DOTALL)
"""The step that Beam adds to the message of an error."""
R = TypeVar("R")


class StillRunning(L2FeaturesError):
    """The command was stopped; its job on Dataflow continues."""


def new_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a command."""
    return argparse.ArgumentParser(
        prog=f"python -m beam_jobs.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Beam's options (--runner, --project, --region, --temp_location, …) are taken as well.",
        allow_abbrev=False,
    )


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the data set, the chunks and the number of processes."""
    add_dataset_options(parser)
    which = parser.add_mutually_exclusive_group()
    add_switch(which, "--test", "only the 8 chunks at the centre of the grid")
    which.add_argument("--chunks", metavar="x0:x1,y0:y1,z0:z1", help="only this part of the grid")


def add_dataset_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the data set and the number of processes."""
    parser.add_argument(
        "--dataset", required=True, help="name of the data set in the data sets file (required)"
    )
    parser.add_argument("--config", help=CONFIG_HELP)
    parser.add_argument("--workers", type=int, help="worker processes of a local run; default: one per core")


def parse(
    name: str,
    description: str | None,
    add_options: Callable[[argparse.ArgumentParser], None],
    argv: Sequence[str] | None,
    problem: Callable[[argparse.Namespace, list[str]], str] = lambda args, _: "",
) -> tuple[argparse.Namespace, list[str]]:
    """Return the job's own options, and the flags for Beam. Exits with status 2 if one is wrong.

    ``problem`` returns what is wrong with the job's own options and Beam's flags, or "".
    """
    # Set the form of log lines before Beam sets its own when it reads options.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    parser = new_parser(name, description)
    add_options(parser)
    parser.add_argument(
        "--runner", default=LOCAL, help="local (default), or a Beam runner such as DataflowRunner"
    )
    until = parser.add_mutually_exclusive_group()
    add_switch(until, "--wait", "wait for the end of a job on Dataflow: the default for batch jobs")
    add_switch(until, "--detach", "only start a job on Dataflow: the default for streaming jobs")
    parser.set_defaults(wait=None, detach=None)
    args, rest = parser.parse_known_args(argv)
    if waiting(args) is False and not is_dataflow(args.runner):
        parser.error(
            f"--detach, --wait=false: runner {args.runner} ends with this command; "
            "expected --runner=DataflowRunner"
        )
    for option in ("attempts", "workers", "version", "segments", "shard_size", "cell_nodes"):
        if (number := getattr(args, option, None)) is not None and number < 1:
            parser.error(f"--{option} {number}: expected 1 or more")
    flags = beam_flags(parser, rest)
    if text := problem(args, rest):
        parser.error(text)
    return args, flags


def choose_box(args: argparse.Namespace, grid: Triple) -> ChunkBox:
    """Return the part of a grid that the options name."""
    if args.test:
        return centre_box(grid)
    return parse_box(args.chunks, grid) if args.chunks is not None else whole_box(grid)


def run_local(
    job: ChunkJob[R], args: argparse.Namespace, add: Callable[[R], object], starting: str = "starting"
) -> Progress:
    """Run on this machine with a progress bar; ``add`` receives the result of each chunk."""
    run = LocalRun(job, args.workers or len(os.sched_getaffinity(0)), add)
    with logging_redirect_tqdm(), tqdm(total=len(job.box), unit="chunk") as bar:
        bar.set_description(f"{args.dataset} ({starting})")

        def advance(chunks: int) -> None:
            bar.set_description(args.dataset, refresh=False)
            bar.update(chunks)

        return run.run(advance)


def waiting(args: argparse.Namespace) -> bool | None:
    """Return whether to wait for a job on Dataflow; None if the options leave it open."""
    return args.wait if args.detach is None else not args.detach


def run_on(
    runner: str, flags: list[str], add: Callable[[Any], object], wait: bool | None = None
) -> dict[str, int] | None:
    """Run what ``add`` adds to a pipeline on a Beam runner; returns its counters.

    Returns None if nothing is run, and for a job on Dataflow that streams or is not waited for. Raises
    ConfigError for an unknown runner, LaunchFailed or JobFailed for a job that failed, StillRunning for a job
    on Dataflow that continues after Ctrl-C.

    Args:
        wait: whether to wait for the end of a job on Dataflow; default: unless it streams.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import GoogleCloudOptions, TestOptions

    from .portable import plain_errors, portable_flags

    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    options = pipeline_options([*portable_flags(dataflow_flags(runner, flags)), f"--runner={runner}"])
    try:
        pipeline = beam.Pipeline(options=options)
    except ValueError as error:
        raise ConfigError(f"runner {runner}: {' '.join(str(error).split())}") from error
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
    """Return the job's counters; those of one name, which several steps have, are added up."""
    from apache_beam.metrics import MetricsFilter

    from .transforms import NAMESPACE

    total: Counter[str] = Counter()
    for metric in result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]:
        total[metric.key.metric.name] += metric.result or 0
    return dict(total)


def exit_status(run: Callable[[], int], stopped: str) -> int:
    """Run a command; returns its exit status: 1 for an error, 2 for a wrong option, 130 if it was stopped."""
    for number in heeded(signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        status = run()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return EXIT_FAILED
    except StillRunning as error:
        print(error, file=sys.stderr)
        return EXIT_STOPPED
    except L2FeaturesError as error:
        print(f"error: {_WHILE_RUNNING.sub('', str(error))}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return EXIT_STOPPED


def _nobody_reads() -> bool:
    """Return whether standard output is a closed pipe; then nothing more is printed."""
    reader = select.poll()
    reader.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in reader.poll(0)):
        return False
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return True
