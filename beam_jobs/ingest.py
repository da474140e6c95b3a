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
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from l2features.config import load_dataset
from l2features.errors import ConfigError
from l2features.ingest import Ingest, prepare

from . import command
from .command import EXIT_FAILED, EXIT_STOPPED, LOCAL
from .dataflow import labels
from .options import add_switch
from .pipeline import BIGTABLEIO, SINKS, STORE, IngestJob, Summary, build
from .transforms import EnumerateChunks

STOPPED = "stopped: the same command goes on from here"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the job's own options, beside Beam's."""
    command.add_data_options(parser)
    parser.add_argument(
        "--timestamp",
        help='the time at which the graph is read, "YYYY-MM-DD HH:MM:SS" in UTC; needed when the table '
        "is made, unless the data set has no graph; afterwards the table knows it",
    )
    add_switch(parser, "--create", "make the table if it is not there")
    add_switch(parser, "--recompute", "compute chunks again that are done")
    parser.add_argument(
        "--sink",
        choices=SINKS,
        default=STORE,
        help="store: the default, with a record of each chunk. bigtableio: Beam's own connector, which "
        "keeps no records, so that nothing can be skipped afterwards",
    )


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The job's own options, and the flags for Beam. Exits with status 2 where one is unknown."""
    parser = command.new_parser("ingest", __doc__)
    add_options(parser)
    return command.parse(parser, argv)


def plan(own: argparse.Namespace) -> Ingest:
    """The ingest that the options ask for. Raises L2FeaturesError before anything is computed."""
    dataset = load_dataset(own.dataset, own.config)
    if own.sink == BIGTABLEIO and not dataset.store.startswith("bigtable://"):
        raise ConfigError(f"sink {own.sink}: the data set's store is {dataset.store}, expected bigtable://…")
    ingest = prepare(dataset, own.timestamp, own.create, command.box_chooser(own))
    return replace(ingest, recompute=own.recompute)


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
        print(STOPPED, file=sys.stderr)
        return EXIT_STOPPED
    return EXIT_FAILED if summary.n_failed else 0


def report_counters(counts: dict[str, int] | None) -> int:
    """Say what a Beam runner counted; gives the exit status."""
    if counts is None:
        return 0
    print(", ".join(f"{name} {value}" for name, value in sorted(counts.items())))
    if counts.get("failed_chunks"):
        print(
            f"error: {counts['failed_chunks']} chunks failed: l2features status names them", file=sys.stderr
        )
        return EXIT_FAILED
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; gives the exit status: 1 where chunks failed or the job ended, 2 for a wrong option."""
    own, flags = parse(sys.argv[1:] if argv is None else argv)

    def run() -> int:
        ingest = plan(own)
        if own.runner == LOCAL:
            starting = "starting; the first time, this compiles the kernel"
            return report(command.run_local(IngestJob(ingest, own.sink), own, flags, starting))

        def add(pipeline: Any) -> None:
            build(pipeline, ingest, EnumerateChunks(ingest), own.sink, counted=own.sink == STORE)

        labelled = [*labels("ingest", own.dataset), *flags]
        return report_counters(command.run_on(own.runner, labelled, add))

    return command.exit_status(run, STOPPED)


if __name__ == "__main__":
    sys.exit(main())
