"""Versions made on this machine: options, run and report."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..config.datasets import Dataset, load_dataset
from ..core.errors import EXIT_STOPPED, VersionError
from ..core.times import iso_text
from ..local.numbered_job import numbered_job
from ..local.pool import ChunkJob, Progress
from ..versions.completion import alone, finish, finished_before
from ..versions.leftovers import WORK
from ..versions.manifest import Manifest, folder_name
from ..versions.materialization import (
    LATEST,
    SETTLED,
    Materialization,
    Wanted,
    all_partitions,
    prepare,
    read_done,
)
from ..versions.partitions import Partition, Written
from ..versions.spill import Spill
from .job_command import compile_decoder, run_local
from .job_options import add_data_options, add_switch, choose_box

STOPPED = "stopped: run the command again to continue"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the job's own options, beside Beam's."""
    add_data_options(parser)
    parser.add_argument(
        "--timestamp",
        required=True,
        help="nodes and roots that are valid at this time, ISO 8601 with milliseconds; today: the last "
        "midnight, UTC (required)",
    )
    parser.add_argument(
        "--output", required=True, help="folder of all versions: a path, file:///… or gs://… (required)"
    )
    parser.add_argument(
        "--base",
        type=_base,
        metavar="N",
        help="number of the version to renew, or latest: the newest one, if any; default: a fresh version",
    )
    add_switch(parser, "--rebase", "make a fresh version although --base is given")
    add_switch(parser, "--delta", "commit a fresh version to a Delta Lake table in the folder")
    parser.add_argument(
        "--settle_seconds",
        type=float,
        default=SETTLED.total_seconds(),
        help="how far --timestamp must lie in the past; default 60",
    )


def _base(text: str) -> int | Literal["latest"]:
    if text == LATEST:
        return LATEST
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected the number of a version, or {LATEST}")
    return int(text)


def plan(args: argparse.Namespace, dataset: Dataset | None = None) -> Materialization:
    """Return the version that the options describe. Raises L2FeaturesError before its rows are read."""
    wanted = Wanted(
        dataset or load_dataset(args.dataset, args.config),
        args.timestamp,
        output_url(args.output),
        args.base,
        args.rebase,
        timedelta(seconds=args.settle_seconds),
        args.delta,
    )
    return prepare(wanted, partial(choose_box, args))


def output_url(text: str) -> str:
    """Return a folder's URL; a relative path is made absolute."""
    return text if "://" in text else str(Path(text).resolve())


def scan_job(run: Materialization, spill: Spill) -> ChunkJob[Any]:
    """Return the first part of a local run: read the units, and keep the rows of each in a file."""
    worker = partial(spill.open_worker, run.units)
    units = run.plan.units
    return numbered_job(
        units,
        "unit of the scan",
        run.open_store,
        spill.has,
        worker,
        partial(compile_decoder, run.units.dataset),
    )


def write_job(run: Materialization, spill: Spill, parts: Sequence[Partition]) -> ChunkJob[Any]:
    """Return the second part of a local run: write the files of each partition."""

    def is_done(part: int) -> bool:
        return read_done(run, parts[part]) is not None

    worker = partial(spill.open_writer, run, parts)
    return numbered_job(len(parts), "partition", run.open_store, is_done, worker)


def materialize_locally(run: Materialization, args: argparse.Namespace) -> int:
    """Make the version on this machine; returns the exit status."""
    with ExitStack() as stack:
        local = run.folder.local
        work = local / folder_name(run.plan.number) / WORK if local else None
        spill = Spill(work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="l2features-"))))
        parts = all_partitions(run.plan)
        for job in (scan_job(run, spill), write_job(run, spill, parts)) if parts else ():
            progress: Progress = run_local(job, args, lambda _: None)
            if progress.stopped:
                print(STOPPED, file=sys.stderr)
                return EXIT_STOPPED
        return report(finish(run, [_done(run, part) for part in parts]), run)


def _done(run: Materialization, part: Partition) -> Written:
    written = read_done(run, part)
    if written is None:
        raise VersionError(
            f"{part.layout}, partition {part.number}: its files are gone; run the command again"
        )
    return written


def report(manifest: Manifest, run: Materialization) -> int:
    """Print what a version holds; returns the exit status."""
    own, totals = manifest.layers[-1], manifest.totals
    base = f", renews version {manifest.base}" if manifest.base else ""
    print(
        f"version {manifest.number} at {iso_text(manifest.timestamp, 'milliseconds')}{base}: "
        f"{totals.nodes} nodes of {totals.roots} roots, {totals.missing} without features yet, "
        f"{totals.empty} that cannot have any"
    )
    size = sum(file.bytes for file in own.files)
    print(f"{len(own.files)} files of {size / 1e6:.1f} MB in {run.folder.url}/{folder_name(manifest.number)}")
    return 0


def run(args: argparse.Namespace, dataset: Dataset | None = None) -> int:
    """Make the version that the options describe; returns the exit status. Raises L2FeaturesError."""
    version = plan(args, dataset)
    with alone(version):
        if manifest := finished_before(version):
            return report(manifest, version)
        return materialize_locally(version, args)
