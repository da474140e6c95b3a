"""Make a version: all valid nodes of a data set at a time, with their roots and features, as Parquet files.

Writes the files of a version and then its manifest below --output, in a folder by its number. A version that
was interrupted is continued by the same command; it gets the same files. With --base, only what changed since
that version is read and written. `l2features versions` lists, checks, compares and deletes versions,
`l2features query` queries them; see docs/versions.md.

example, a first version:
  python -m beam_jobs.materialize --config datasets.yml --dataset minnie \\
      --timestamp 2026-11-21T00:27:44.368Z --output gs://bucket/versions/minnie

example, renew version 1:
  python -m beam_jobs.materialize --config datasets.yml --dataset minnie \\
      --timestamp 2026-11-22T00:00:00Z --output gs://bucket/versions/minnie --base 1
"""

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

from l2features.config.datasets import load_dataset
from l2features.core.errors import VersionError
from l2features.core.times import iso_text
from l2features.local.numbered_job import numbered_job
from l2features.local.pool import ChunkJob, Progress
from l2features.store.bigtable import decoded
from l2features.versions.completion import alone, finish, finished_before
from l2features.versions.leftovers import WORK
from l2features.versions.manifest import Manifest, folder_name, read_manifest
from l2features.versions.materialization import (
    LATEST,
    SETTLED,
    Materialization,
    Wanted,
    all_partitions,
    prepare,
    read_done,
)
from l2features.versions.partitions import Partition, Written
from l2features.versions.spill import Spill

from . import command
from .command import EXIT_STOPPED, LOCAL
from .dataflow import labels, table_job_name
from .options import add_switch

STOPPED = "stopped: run the command again to continue"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the job's own options, beside Beam's."""
    command.add_data_options(parser)
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


parse = partial(command.parse, "materialize", __doc__, add_options)


def plan(args: argparse.Namespace) -> Materialization:
    """Return the version that the options describe. Raises L2FeaturesError before its rows are read."""
    wanted = Wanted(
        load_dataset(args.dataset, args.config),
        args.timestamp,
        output_url(args.output),
        args.base,
        args.rebase,
        timedelta(seconds=args.settle_seconds),
        args.delta,
    )
    return prepare(wanted, partial(command.choose_box, args))


def output_url(text: str) -> str:
    """Return a folder's URL; a relative path is made absolute."""
    return text if "://" in text else str(Path(text).resolve())


# ------------------------------------------------------------------ on this machine
def scan_job(run: Materialization, spill: Spill) -> ChunkJob[Any]:
    """Return the first part of a local run: read the units, and keep the rows of each in a file."""
    worker = partial(spill.open_worker, run.units)
    units = run.plan.units
    return numbered_job(units, "unit of the scan", run.open_store, spill.has, worker, decoded.warm_up)


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
            progress: Progress = command.run_local(job, args, lambda _: None)
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


# ------------------------------------------------------------------ on a Beam runner
def materialize_on(run: Materialization, args: argparse.Namespace, flags: list[str]) -> int:
    """Make the version on a Beam runner; returns the exit status."""
    from .materialize_pipeline import build

    named = [
        table_job_name("materialize", run.units.dataset),
        *labels("materialize", args.dataset),
        *flags,
    ]
    counts = command.run_on(args.runner, named, partial(build, run=run), command.waiting(args))
    if counts is None:
        return 0
    return report(read_manifest(run.folder, run.plan.number), run)


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


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 1 for an error, 2 for a wrong option."""
    args, flags = parse(argv)

    def run() -> int:
        version = plan(args)
        with alone(version):
            if manifest := finished_before(version):
                return report(manifest, version)
            if args.runner == LOCAL:
                return materialize_locally(version, args)
            return materialize_on(version, args, flags)

    return command.exit_status(run, STOPPED)


if __name__ == "__main__":
    sys.exit(main())
