"""Batch ingest: compute the features of every L2 node of a segmentation, and store them.

On one machine, worker processes share the chunks. With --runner=DataflowRunner, or another Beam runner, the
job runs there as a pipeline. The same command continues a run that was stopped: chunks that are done are
skipped, chunks that failed are retried.

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
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from l2features import kernel
from l2features.config.datasets import load_dataset
from l2features.core.chunks import FileCounts
from l2features.core.errors import ConfigError
from l2features.core.saturation import saturated_text
from l2features.ingest.chunk_results import Summary, give_up, open_ingest
from l2features.ingest.found import nothing_found, nothing_found_text
from l2features.ingest.rates import record_start
from l2features.ingest.steps import Ingest, prepare
from l2features.local.pool import ChunkJob, Progress
from l2features.store.rewrites import end_rewrites

from . import command
from .command import EXIT_FAILED, EXIT_STOPPED, LOCAL
from .dataflow import labels, table_job_name
from .options import add_switch

STORE, BIGTABLEIO = "store", "bigtableio"
SINKS = (STORE, BIGTABLEIO)
AFTERWARDS = "then --retry-missing computes these chunks again; --allow-empty accepts an empty segmentation"
STOPPED = "stopped: the same command goes on from here"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the job's own options, beside Beam's."""
    command.add_data_options(parser)
    parser.add_argument(
        "--timestamp",
        help='time at which the graph is read, "YYYY-MM-DD HH:MM:SS" in UTC or ISO 8601; required to create '
        "a table, unless the data set has no graph; later runs read it from the table",
    )
    add_switch(parser, "--create", "create the table if it is missing")
    add_switch(parser, "--recompute", "compute chunks again that are done")
    add_switch(parser, "--retry-missing", "compute chunks again that are done with missing or empty files")
    add_switch(parser, "--allow-empty", "exit with 0 even if no file of the segmentation was found")
    parser.add_argument(
        "--sink",
        choices=SINKS,
        default=STORE,
        help="store (default): rows and a record of each chunk. bigtableio: rows only, on a Beam runner by "
        "Beam's own connector; without records, no chunk can be skipped afterwards",
    )


parse = partial(command.parse, "ingest", __doc__, add_options)


def plan(args: argparse.Namespace) -> Ingest:
    """Return the ingest that the options describe. Raises L2FeaturesError before anything is computed."""
    dataset = load_dataset(args.dataset, args.config)
    if args.sink == BIGTABLEIO and not dataset.store.startswith("bigtable://"):
        raise ConfigError(f"sink {args.sink}: the data set's store is {dataset.store}, expected bigtable://…")
    ingest = prepare(dataset, args.timestamp, args.create, partial(command.choose_box, args))
    return replace(ingest, recompute=args.recompute, retry_missing=args.retry_missing)


def report(summary: Summary, progress: Progress) -> int:
    """Print what a run did; returns the exit status."""
    before = f" ({progress.done_before} were done before)" if progress.done_before else ""
    print(
        f"{summary.done} of {progress.total} chunks done{before}: {summary.nodes} nodes, "
        f"{summary.orphans} supervoxels without a parent, {summary.n_failed} chunks failed"
    )
    if summary.files.expected:
        print(f"files: {summary.files}")
    if summary.saturated:
        print(f"saturated: {saturated_text(summary.saturated)}")
    for chunk, reason in summary.failed.items():
        print(f"error: chunk {chunk} failed: {reason}", file=sys.stderr)
    if summary.n_failed > len(summary.failed):
        print(f"error: and {summary.n_failed - len(summary.failed)} chunks more", file=sys.stderr)
    if progress.stopped:
        print(STOPPED, file=sys.stderr)
        return EXIT_STOPPED
    return EXIT_FAILED if summary.n_failed else 0


def judge(ingest: Ingest, args: argparse.Namespace, read: FileCounts, done_before: int) -> int:
    """Report a box in which no file was found; returns the exit status.

    Args:
        read: the files of the chunks that this run computed.
        done_before: how many chunks it skipped.
    """
    if read.read:
        return 0
    files = read if read.expected and not done_before else None
    if args.sink == STORE:
        with closing(ingest.open_store()) as store:
            files = nothing_found(store, ingest.geometry, ingest.box)
    if files is None:
        return 0
    text = nothing_found_text(ingest.dataset, ingest.geometry, files)
    if args.allow_empty:
        print(f"warning: {text}", file=sys.stderr)
        return 0
    print(f"error: {text}; {AFTERWARDS}", file=sys.stderr)
    return EXIT_FAILED


def local_job(ingest: Ingest, recorded: bool = True) -> ChunkJob[Any]:
    """Return the ingest as a job of a local run."""
    return ChunkJob(
        box=ingest.box,
        open_store=ingest.open_store,
        pending=ingest.pending,
        warm_up=kernel.warm_up,
        open_worker=partial(open_ingest, ingest, recorded),
        give_up=partial(give_up, ingest.geometry),
    )


def _end_rewrites(ingest: Ingest) -> None:
    with closing(ingest.open_store()) as store:
        end_rewrites(store)


def ingest_on(ingest: Ingest, args: argparse.Namespace, flags: list[str]) -> int:
    """Ingest on a Beam runner; returns the exit status."""
    from .transforms import build, pending_chunks

    recorded = args.sink == STORE
    chunks = pending_chunks(ingest)
    add = partial(build, ingest=ingest, chunks=chunks, recorded=recorded, counted=recorded)
    named = [table_job_name("ingest", ingest.dataset), *labels("ingest", args.dataset), *flags]
    counts = command.run_on(args.runner, named, add, command.waiting(args))
    if counts is None:
        return 0
    _end_rewrites(ingest)
    files = FileCounts(*(counts.get(f"files_{name}", 0) for name in FileCounts._fields))
    print(", ".join(f"{name} {value}" for name, value in sorted(counts.items())))
    if failed := counts.get("failed_chunks"):
        print(f"error: {failed} chunks failed: l2features status names them", file=sys.stderr)
        return EXIT_FAILED
    return judge(ingest, args, files, counts.get("chunks_done_before", 0))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 1 for failed chunks or no file found, 2 for a wrong option."""
    started = datetime.now(UTC)
    args, flags = parse(argv)

    def run() -> int:
        ingest = plan(args)
        with closing(ingest.open_store()) as store:
            record_start(store, started)
        if args.runner != LOCAL:
            return ingest_on(ingest, args, flags)
        summary, starting = Summary(), "starting; the first time, this compiles the kernel"
        progress = command.run_local(local_job(ingest, args.sink == STORE), args, summary.add, starting)
        if summary.done or summary.n_failed:
            _end_rewrites(ingest)
        return report(summary, progress) or judge(ingest, args, summary.files, progress.done_before)

    return command.exit_status(run, STOPPED)


if __name__ == "__main__":
    sys.exit(main())
