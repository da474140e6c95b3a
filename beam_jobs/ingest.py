"""Batch ingest: every chunk of a segmentation to the features of its L2 nodes, in the store.

On one machine the pipeline runs in worker processes that share out the chunks as they go. With
--runner=DataflowRunner (or any other Beam runner) the same pipeline runs there. The same command given
again continues where it stopped: chunks that are done are skipped, chunks that failed are tried again.

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
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from l2features.config.datasets import load_dataset
from l2features.core.chunks import FileCounts
from l2features.core.errors import ConfigError
from l2features.core.saturation import saturated_text
from l2features.ingest.found import nothing_found, nothing_found_text
from l2features.ingest.rates import record_start
from l2features.ingest.steps import Ingest, prepare

from . import command
from .command import EXIT_FAILED, EXIT_STOPPED, LOCAL
from .dataflow import labels, table_job_name
from .options import add_switch
from .pipeline import BIGTABLEIO, SINKS, STORE, IngestJob, Summary, build
from .transforms import EnumerateChunks

AFTERWARDS = "then --retry-missing computes these chunks again; --allow-empty accepts an empty segmentation"
STOPPED = "stopped: the same command goes on from here"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the job's own options, beside Beam's."""
    command.add_data_options(parser)
    parser.add_argument(
        "--timestamp",
        help='the time at which the graph is read, "YYYY-MM-DD HH:MM:SS" in UTC or ISO 8601; needed '
        "when the table is made, unless the data set has no graph; afterwards the table knows it",
    )
    add_switch(parser, "--create", "make the table if it is missing")
    add_switch(parser, "--recompute", "compute chunks again that are done")
    add_switch(parser, "--retry-missing", "compute chunks again that are done with missing or empty files")
    add_switch(parser, "--allow-empty", "exit with 0 where no file of the segmentation was found at all")
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
    return replace(ingest, recompute=own.recompute, retry_missing=own.retry_missing)


def report(summary: Summary) -> int:
    """Print what a run did; returns the exit status."""
    before = f" ({summary.done_before} were done before)" if summary.done_before else ""
    print(
        f"{summary.done} of {summary.total} chunks done{before}: {summary.nodes} nodes, "
        f"{summary.orphans} supervoxels without a parent, {summary.n_failed} chunks failed"
    )
    _print_counts(summary.files, summary.saturated)
    for chunk, reason in summary.failed.items():
        print(f"error: chunk {chunk} failed: {reason}", file=sys.stderr)
    if summary.n_failed > len(summary.failed):
        print(f"error: and {summary.n_failed - len(summary.failed)} chunks more", file=sys.stderr)
    if summary.stopped:
        print(STOPPED, file=sys.stderr)
        return EXIT_STOPPED
    return EXIT_FAILED if summary.n_failed else 0


def report_counters(counts: dict[str, int]) -> int:
    """Print what a Beam runner counted; returns the exit status."""
    print(", ".join(f"{name} {value}" for name, value in sorted(counts.items())))
    if counts.get("failed_chunks"):
        print(
            f"error: {counts['failed_chunks']} chunks failed: l2features status names them", file=sys.stderr
        )
        return EXIT_FAILED
    return 0


def _print_counts(files: FileCounts, saturated: Mapping[str, int]) -> None:
    if files.expected:
        print(f"files: {files}")
    if saturated:
        print(f"saturated: {saturated_text(saturated)}")


def judge(ingest: Ingest, own: argparse.Namespace, read: FileCounts, done_before: int) -> int:
    """Report a box in which no file was found; returns the exit status.

    ``read`` are the files of the chunks that this run computed, ``done_before`` the chunks that it skipped.
    """
    if read.read:
        return 0
    files = read if read.expected and not done_before else None
    if own.sink == STORE:
        with closing(ingest.open_store()) as store:
            files = nothing_found(store, ingest.geometry, ingest.box)
    if files is None:
        return 0
    text = nothing_found_text(ingest.dataset, ingest.geometry, files)
    if own.allow_empty:
        print(f"warning: {text}", file=sys.stderr)
        return 0
    print(f"error: {text}; {AFTERWARDS}", file=sys.stderr)
    return EXIT_FAILED


def ingest_locally(ingest: Ingest, own: argparse.Namespace, flags: list[str]) -> int:
    """Ingest on this machine; returns the exit status."""
    starting = "starting; the first time, this compiles the kernel"
    summary: Summary = command.run_local(IngestJob(ingest, own.sink), own, flags, starting)
    return report(summary) or judge(ingest, own, summary.files, summary.done_before)


def ingest_on(ingest: Ingest, own: argparse.Namespace, flags: list[str]) -> int:
    """Ingest on a Beam runner; returns the exit status."""

    def add(pipeline: Any) -> None:
        build(pipeline, ingest, EnumerateChunks(ingest), own.sink, counted=own.sink == STORE)

    named = [table_job_name("ingest", ingest.dataset), *labels("ingest", own.dataset), *flags]
    counts = command.run_on(own.runner, named, add, command.waiting(own))
    if counts is None:
        return 0
    files = FileCounts(*(counts.get(f"files_{name}", 0) for name in FileCounts._fields))
    return report_counters(counts) or judge(ingest, own, files, counts.get("chunks_done_before", 0))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 1 for failed chunks or no file found, 2 for a wrong option."""
    started = datetime.now(UTC)
    own, flags = parse(sys.argv[1:] if argv is None else argv)

    def run() -> int:
        ingest = plan(own)
        with closing(ingest.open_store()) as store:
            record_start(store, started)
        return (ingest_locally if own.runner == LOCAL else ingest_on)(ingest, own, flags)

    return command.exit_status(run, STOPPED)


if __name__ == "__main__":
    sys.exit(main())
