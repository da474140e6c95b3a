"""Batch ingest: every chunk of a segmentation to the features of its L2 nodes, in the store.

On one machine the pipeline runs in worker processes that share out the chunks as they go. With
--runner=DataflowRunner (or any other Beam runner) the same pipeline runs there. The same command given
again goes on where it stopped: chunks that are done are skipped, chunks that failed are tried again.

example, the sample data set:
  l2features sample sample
  python -m beam_jobs.ingest --config sample/datasets.yml --dataset sample --create

example, a proofread data set:
  python -m beam_jobs.ingest --config datasets.yml --dataset minnie --create \\
      --timestamp "2026-11-21 00:27:44"
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import apache_beam as beam
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, TestOptions
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from l2features.chunks import ChunkBox, centre_box, parse_box, whole_box
from l2features.config import CONFIG_VARIABLE, load_dataset
from l2features.errors import ConfigError, L2FeaturesError
from l2features.geometry import Triple
from l2features.ingest import Ingest, prepare

from .local import LocalRun, Summary
from .pipeline import BIGTABLEIO, SINKS, STORE, build, plain_message
from .transforms import NAMESPACE, EnumerateChunks

LOCAL = "local"
EXIT_FAILED, EXIT_USAGE, EXIT_STOPPED = 1, 2, 130


class IngestOptions(PipelineOptions):
    """The job's own options, beside Beam's."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--dataset", help="name of the data set in the data sets file (required)")
        parser.add_argument("--config", help=f"the data sets file (YAML); default: ${CONFIG_VARIABLE}")
        parser.add_argument(
            "--timestamp",
            help='the time at which the graph is read, "YYYY-MM-DD HH:MM:SS" in UTC; needed when the table '
            "is made, unless the data set has no graph; afterwards the table knows it",
        )
        parser.add_argument("--create", action="store_true", help="make the table if it is not there")
        which = parser.add_mutually_exclusive_group()
        which.add_argument("--test", action="store_true", help="only the 8 chunks at the centre of the grid")
        which.add_argument("--chunks", metavar="x0:x1,y0:y1,z0:z1", help="only this part of the grid")
        parser.add_argument("--recompute", action="store_true", help="compute chunks again that are done")
        parser.add_argument(
            "--sink",
            choices=SINKS,
            default=STORE,
            help="store: the default, with a record of each chunk. bigtableio: Beam's own connector, which "
            "keeps no records, so that nothing can be skipped afterwards",
        )
        parser.add_argument(
            "--workers", type=int, help="worker processes of a local run; default: one per core"
        )


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The job's own options, and the flags for Beam. Exits with status 2 where one is unknown."""
    parser = argparse.ArgumentParser(
        prog="python -m beam_jobs.ingest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Beam's options (--runner, --project, --region, --temp_location, …) are taken as well.",
        allow_abbrev=False,
    )
    IngestOptions._add_argparse_args(parser)
    parser.add_argument(
        "--runner", default=LOCAL, help="local (default), or a Beam runner such as DataflowRunner"
    )
    own, rest = parser.parse_known_args(argv)
    if not own.dataset:
        parser.error("--dataset NAME is required")
    if own.workers is not None and own.workers < 1:
        parser.error(f"--workers {own.workers}: expected 1 or more")
    beam_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(beam_parser)
    unknown = beam_parser.parse_known_args(rest)[1]
    if unknown:
        parser.error(f"unknown option {unknown[0]}: neither an option of this job nor one of Beam's")
    return own, rest


def plan(own: argparse.Namespace) -> Ingest:
    """The ingest that the options ask for. Raises L2FeaturesError before anything is computed."""
    dataset = load_dataset(own.dataset, own.config)
    if own.sink == BIGTABLEIO and not dataset.store.startswith("bigtable://"):
        raise ConfigError(f"sink {own.sink}: the data set's store is {dataset.store}, expected bigtable://…")

    def choose_box(grid: Triple) -> ChunkBox:
        if own.test:
            return centre_box(grid)
        return parse_box(own.chunks, grid) if own.chunks else whole_box(grid)

    ingest = prepare(dataset, own.timestamp, own.create, choose_box)
    return replace(ingest, recompute=own.recompute)


def run_local(ingest: Ingest, own: argparse.Namespace, flags: list[str]) -> int:
    """Run on this machine with a progress bar; gives the exit status."""
    workers = own.workers or len(os.sched_getaffinity(0))
    run = LocalRun(ingest, workers, own.sink, flags)
    with logging_redirect_tqdm(), tqdm(total=len(ingest.box), unit="chunk") as bar:
        bar.set_description(f"{ingest.dataset.name} (starting; the first time, this compiles the kernel)")

        def advance(chunks: int) -> None:
            bar.set_description(ingest.dataset.name, refresh=False)
            bar.update(chunks)

        summary = run.run(advance)
    return report(summary)


def report(summary: Summary) -> int:
    """Say what a run did; gives the exit status."""
    before = f" ({summary.done_before} were done before)" if summary.done_before else ""
    print(
        f"{summary.done} of {summary.total} chunks done{before}: {summary.nodes} nodes, "
        f"{summary.orphans} supervoxels without a parent, {summary.n_failed} chunks failed"
    )
    for chunk, reason in summary.failed.items():
        print(f"error: chunk {chunk} failed: {reason}", file=sys.stderr)
    if summary.n_failed > len(summary.failed):
        print(f"error: and {summary.n_failed - len(summary.failed)} chunks more", file=sys.stderr)
    if summary.stopped:
        print("stopped: the same command goes on from here", file=sys.stderr)
        return EXIT_STOPPED
    return EXIT_FAILED if summary.n_failed else 0


def run_on(runner: str, ingest: Ingest, own: argparse.Namespace, flags: list[str]) -> int:
    """Run on a Beam runner and wait, unless nothing is run; gives the exit status."""
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    options = PipelineOptions([*flags, f"--runner={runner}"])
    try:
        pipeline = beam.Pipeline(options=options)
    except ValueError as error:
        raise ConfigError(f"runner {runner}: {' '.join(str(error).split())}") from error
    build(pipeline, ingest, EnumerateChunks(ingest), own.sink)
    result: Any = pipeline.run()
    if options.view_as(TestOptions).dry_run or options.view_as(GoogleCloudOptions).template_location:
        return 0
    result.wait_until_finish()
    counters = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]
    counts = {metric.key.metric.name: metric.result for metric in counters}
    print(", ".join(f"{name} {value}" for name, value in sorted(counts.items())))
    if counts.get("failed_chunks"):
        print(
            f"error: {counts['failed_chunks']} chunks failed: l2features status names them", file=sys.stderr
        )
        return EXIT_FAILED
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; gives the exit status: 1 where chunks failed or the job ended, 2 for a wrong option."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    own, flags = parse(sys.argv[1:] if argv is None else argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        ingest = plan(own)
        if own.runner == LOCAL:
            return run_local(ingest, own, flags)
        return run_on(own.runner, ingest, own, flags)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except L2FeaturesError as error:
        print(f"error: {plain_message(error)}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        return EXIT_STOPPED


if __name__ == "__main__":
    sys.exit(main())
