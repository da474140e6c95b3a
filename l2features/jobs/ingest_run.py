"""Batch ingest without Beam: its options, its run and its report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from ..config.datasets import Dataset, load_dataset
from ..core.chunks import FileCounts
from ..core.errors import EXIT_FAILED, EXIT_STOPPED, ConfigError
from ..core.saturation import saturated_text
from ..ingest.chunk_results import Summary, give_up, open_ingest
from ..ingest.found import nothing_found, nothing_found_text
from ..ingest.rates import record_start
from ..ingest.steps import Ingest, prepare
from ..local.job_run import ChunkJob, Progress
from ..store.rewrites import end_rewrites
from .job_command import compile_kernel, run_job
from .job_options import add_data_options, add_switch, choose_box

STORE, BIGTABLEIO = "store", "bigtableio"
SINKS = (STORE, BIGTABLEIO)
AFTERWARDS = "then --retry-missing computes these chunks again; --allow-empty accepts an empty segmentation"
STOPPED = "stopped: run the command again to continue"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for an ingest, but none of Beam's."""
    add_data_options(parser)
    parser.add_argument(
        "--timestamp",
        help='time at which the graph is read, "YYYY-MM-DD HH:MM:SS" in UTC or ISO 8601; required to create '
        "the table of a data set with a graph; later runs use the table's timestamp",
    )
    add_switch(parser, "--create", "create the table if it is missing")
    add_switch(parser, "--recompute", "also compute chunks that are done")
    add_switch(parser, "--retry-missing", "also compute chunks that are done but had missing or empty files")
    add_switch(parser, "--allow-empty", "exit with 0 even if no file of the segmentation was found")
    parser.add_argument(
        "--sink",
        choices=SINKS,
        default=STORE,
        help="store (default) writes rows and a record of each chunk; bigtableio writes only rows, on a Beam "
        "runner with Beam's connector, so that a later run computes all chunks again",
    )


def plan(args: argparse.Namespace, dataset: Dataset | None = None) -> Ingest:
    """Return the ingest that the options describe; ``dataset`` replaces the data set in the options.

    Raises L2FeaturesError before anything is computed.
    """
    dataset = dataset or load_dataset(args.dataset, args.config)
    if args.sink == BIGTABLEIO and not dataset.store.startswith("bigtable://"):
        raise ConfigError(f"sink {args.sink}: the data set's store is {dataset.store}, expected bigtable://…")
    ingest = prepare(dataset, args.timestamp, args.create, partial(choose_box, args))
    return replace(ingest, recompute=args.recompute, retry_missing=args.retry_missing)


def report(summary: Summary, progress: Progress) -> int:
    """Print what a run did; return the exit status."""
    before, done = progress.done_before, progress.done_before + summary.done
    if before == progress.total:
        print(f"{done} of {progress.total} chunks done, all of them before this run: nothing to compute")
    else:
        earlier = f", {before} of them before; in this run" if before else ""
        print(
            f"{done} of {progress.total} chunks done{earlier}: {summary.nodes} nodes, "
            f"{summary.orphans} supervoxels without a parent, {summary.n_failed} chunks failed"
        )
    if summary.files.expected:
        print(f"files: {summary.files}")
    if summary.saturated:
        print(f"saturated: {saturated_text(summary.saturated)}")
    for chunk, reason in summary.failed.items():
        print(f"error: chunk {chunk} failed: {reason}", file=sys.stderr)
    if summary.n_failed > len(summary.failed):
        print(f"error: and {summary.n_failed - len(summary.failed)} more chunks failed", file=sys.stderr)
    if progress.stopped:
        print(STOPPED, file=sys.stderr)
        return EXIT_STOPPED
    return EXIT_FAILED if summary.n_failed else 0


def judge(ingest: Ingest, args: argparse.Namespace, read: FileCounts, done_before: int) -> int:
    """Print an error if no file of the segmentation was found; return the exit status.

    With --allow-empty, print a warning instead and return 0.

    Args:
        ingest: the ingest; only files of the chunks in its box count.
        args: the options of the run.
        read: file counts, summed over the chunks that this run computed.
        done_before: number of chunks that this run skipped, because they were done.
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


def chunk_job(ingest: Ingest, recorded: bool = True) -> ChunkJob[Any]:
    """Return the ingest as a job for workers. Without ``recorded``, only failed chunks get a chunk record."""
    return ChunkJob(
        box=ingest.box,
        open_store=ingest.open_store,
        pending=ingest.pending,
        warm_up=compile_kernel,
        open_worker=partial(open_ingest, ingest, recorded),
        give_up=partial(give_up, ingest.geometry),
    )


def end_window(ingest: Ingest) -> None:
    """Tell readers of the table that its rows are no longer being replaced."""
    with closing(ingest.open_store()) as store:
        end_rewrites(store)


def ingest_chunks(ingest: Ingest, args: argparse.Namespace) -> int:
    """Ingest without Beam; return the exit status."""
    summary = Summary()
    progress = run_job(chunk_job(ingest, args.sink == STORE), args, summary.add)
    if summary.done or summary.n_failed:
        end_window(ingest)
    return report(summary, progress) or judge(ingest, args, summary.files, progress.done_before)


def run(
    args: argparse.Namespace,
    dataset: Dataset | None = None,
    work: Callable[[Ingest, argparse.Namespace], int] = ingest_chunks,
) -> int:
    """Call ``work`` to run the ingest that the options describe; return the exit status.

    Raises L2FeaturesError.
    """
    started = datetime.now(UTC)
    ingest = plan(args, dataset)
    with closing(ingest.open_store()) as store:
        record_start(store, started)
    return work(ingest, args)
