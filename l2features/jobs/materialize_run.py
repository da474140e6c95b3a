"""Make a version without Beam: options, run and report."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..config.datasets import Dataset, load_dataset
from ..core.errors import EXIT_STOPPED, ConfigError, VersionError
from ..core.times import iso_text
from ..local.job_run import ChunkJob
from ..local.numbered_job import numbered_job
from ..versions.completion import alone, finish, finished_before
from ..versions.folders import Folder
from ..versions.leftovers import WORK
from ..versions.manifest import Manifest, folder_name
from ..versions.materialization import (
    LATEST,
    SETTLED,
    Materialization,
    WantedVersion,
    all_partitions,
    prepare,
    read_done,
)
from ..versions.partitions import Partition, Written
from ..versions.spill import Spill
from .job_command import compile_decoder, run_parts
from .job_options import add_data_options, add_switch, choose_box, is_dask

STOPPED = "stopped: run the command again to continue"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for making a version, but none of Beam's."""
    add_data_options(parser)
    parser.add_argument(
        "--timestamp",
        required=True,
        help="time of the version's nodes and roots: ISO 8601 with milliseconds, or today for the last "
        "midnight in UTC (required)",
    )
    add_output_options(parser, "folder of all versions")
    parser.add_argument(
        "--base",
        type=_base,
        metavar="N",
        help="version to renew: its number, or latest for the newest, if any; default: make a fresh version",
    )
    add_switch(parser, "--rebase", "ignore --base, and make a fresh version")
    add_switch(parser, "--delta", "commit a fresh version to a Delta Lake table in the folder")
    parser.add_argument(
        "--settle_seconds",
        type=float,
        default=SETTLED.total_seconds(),
        help="minimum age of --timestamp in seconds; default 60",
    )


def _base(text: str) -> int | Literal["latest"]:
    if text == LATEST:
        return LATEST
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected the number of a version, or {LATEST}")
    return int(text)


def plan(args: argparse.Namespace, dataset: Dataset | None = None) -> Materialization:
    """Return the version that the options describe. Writes or continues its plan. Raises L2FeaturesError."""
    wanted = WantedVersion(
        dataset or load_dataset(args.dataset, args.config),
        args.timestamp,
        output_of(args),
        args.base,
        args.rebase,
        timedelta(seconds=args.settle_seconds),
        args.delta,
    )
    return prepare(wanted, partial(choose_box, args))


def add_output_options(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the options for the output folder, and for the intermediate rows of a run."""
    parser.add_argument("--output", required=True, help=f"{what}: a path, file:///… or gs://… (required)")
    parser.add_argument(
        "--scratch",
        help="folder for intermediate rows of a run without Beam, shared by all workers; default: inside a "
        "local --output, where an interrupted run can continue, or else a temporary folder",
    )


def output_of(args: argparse.Namespace) -> str:
    """Return the URL of the output; a relative path is made absolute.

    Raises ConfigError if --scratch is not writable, or if Dask workers need --scratch and it is missing.
    """
    if args.scratch and not os.access(args.scratch, os.W_OK | os.X_OK):
        raise ConfigError(f"--scratch {args.scratch}: expected a folder that exists and is writable")
    url = args.output if "://" in args.output else str(Path(args.output).resolve())
    if is_dask(args.runner) and not args.scratch and Folder(url).local is None:
        raise ConfigError(
            f"--output {url}: expected --scratch FOLDER too, a folder that all Dask workers share"
        )
    return url


@contextmanager
def work_folder(args: argparse.Namespace, local: Path | None) -> Iterator[Path]:
    """Yield the folder for intermediate rows.

    With --scratch, this is a temporary folder inside --scratch. Otherwise it is ``local`` or, if ``local`` is
    None, a temporary folder of the system. Temporary folders are removed afterwards.
    """
    if local is not None and not args.scratch:
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="l2features-", dir=args.scratch) as folder:
        yield Path(folder).resolve()


def scan_job(run: Materialization, spill: Spill) -> ChunkJob[Any]:
    """Return the first job of a run: read the rows of each unit, and write them to one file per unit.

    A unit is a box of chunks or, if the version renews another one, some new roots.
    """
    worker = partial(spill.open_worker, run.light())
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
    """Return the second job of a run: write the version's files, partition by partition."""

    def is_done(part: int) -> bool:
        return read_done(run, parts[part]) is not None

    worker = partial(spill.open_writer, run.light(), parts)
    return numbered_job(len(parts), "partition", run.open_store, is_done, worker)


def make_version(run: Materialization, args: argparse.Namespace) -> int:
    """Make a version without Beam; return the exit status."""
    local = run.folder.local
    with work_folder(args, local and local / folder_name(run.plan.number) / WORK) as work:
        spill, parts = Spill(work), all_partitions(run.plan)
        if parts and not run_parts([scan_job(run, spill), write_job(run, spill, parts)], args):
            print(STOPPED, file=sys.stderr)
            return EXIT_STOPPED
        return report(finish(run, [_done(run, part) for part in parts]), run)


def _done(run: Materialization, part: Partition) -> Written:
    written = read_done(run, part)
    if written is None:
        raise VersionError(
            f"{part.layout}, partition {part.number}: files are missing; run the command again"
        )
    return written


def report(manifest: Manifest, run: Materialization) -> int:
    """Print what a version holds; return the exit status."""
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


def run(
    args: argparse.Namespace,
    dataset: Dataset | None = None,
    work: Callable[[Materialization, argparse.Namespace], int] = make_version,
) -> int:
    """Call ``work`` to make the version that the options describe; return the exit status.

    If an interrupted run has already written the manifest, ``work`` is not called. Raises L2FeaturesError.
    """
    version = plan(args, dataset)
    with alone(version):
        if manifest := finished_before(version):
            return report(manifest, version)
        return work(version, args)
