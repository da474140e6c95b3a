"""Export a version as layers that Neuroglancer reads, in files that any file server or bucket serves.

Writes the layers nodes, axes and segment_properties of a version, and on request skeletons, below --output,
which must be a folder for this export alone. After an interruption, run the same command again: it continues,
and makes the same files.
See docs/pictures.md.

example:
  python -m beam_jobs.precomputed --config datasets.yml --dataset minnie --version 7 \\
      --output gs://bucket/precomputed/minnie-7
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from l2features.config.datasets import load_dataset
from l2features.core.errors import EXIT_STOPPED, VersionError
from l2features.jobs.job_command import run_parts
from l2features.jobs.job_options import add_dataset_options, is_beams
from l2features.jobs.materialize_run import STOPPED, add_output_options, output_of, work_folder
from l2features.local.job_run import ChunkJob
from l2features.local.numbered_job import numbered_job
from l2features.local.worker import report_progress
from l2features.pictures.row_files import RowFiles
from l2features.pictures.static_export import (
    DEFAULT_LAYERS,
    LAYERS,
    StaticExport,
    WantedExport,
    WrittenPart,
    alone,
    prepare,
)
from l2features.pictures.static_finish import StaticManifest, finish, finished_before
from l2features.versions.leftovers import WORK

from . import command
from .dataflow import output_problem


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this job to a parser; Beam's options are not among them."""
    add_dataset_options(parser)
    parser.add_argument("--version", type=int, required=True, help="number of the version (required)")
    add_output_options(parser, "folder of the export")
    parser.add_argument(
        "--layers",
        default=",".join(DEFAULT_LAYERS),
        help=f"layers to export: some of {', '.join(LAYERS)}; skeletons need the graph; default: %(default)s",
    )
    parser.add_argument(
        "--segments",
        type=int,
        default=WantedExport.segments,
        help="number of roots, the largest ones, in segment_properties and skeletons; default %(default)s",
    )
    parser.add_argument(
        "--shard_size",
        type=int,
        default=WantedExport.shard_size,
        help="approximate size of a file in bytes; default %(default)s",
    )
    parser.add_argument(
        "--cell_nodes",
        type=int,
        default=WantedExport.cell_nodes,
        help="approximate maximum of nodes in a cell of the spatial index; cells of a single chunk may have "
        "more; default %(default)s",
    )


parse = partial(command.parse, "precomputed", __doc__, add_options, problem=output_problem)


def plan(args: argparse.Namespace) -> StaticExport:
    """Plan the export that the options describe, and return it. Writes no shard. Raises L2FeaturesError."""
    wanted = WantedExport(
        load_dataset(args.dataset, args.config),
        args.version,
        output_of(args),
        tuple(args.layers.split(",")),
        args.segments,
        args.shard_size,
        args.cell_nodes,
    )
    return prepare(wanted)


# ------------------------------------------------------------------ without Beam
def scan_job(run: StaticExport, files: RowFiles, units: int) -> ChunkJob[Any]:
    """Return the first job of a run: read the rows of each unit of work, and store them in files.

    A unit is some rows of a version's file. If skeletons are exported, one more unit has their roots.
    ``units`` is the number of units.
    """
    worker = partial(files.open_worker, run)
    return numbered_job(units, "unit of the scan", run.open_store, files.has, worker)


def write_job(run: StaticExport, files: RowFiles, units: int) -> ChunkJob[Any]:
    """Return the second job of a run: write the shards of all layers."""

    def is_done(part: int) -> bool:
        return run.read_done(part) is not None

    worker = partial(files.open_writer, run, units, report_progress)
    return numbered_job(run.parts, "shard", run.open_store, is_done, worker)


def make_export(run: StaticExport, args: argparse.Namespace) -> int:
    """Make an export without Beam; return the exit status."""
    local, units = run.folder.local, run.open().count
    with work_folder(args, local and local / WORK) as work:
        files = RowFiles(work, run.row_layers)
        if run.parts and not run_parts([scan_job(run, files, units), write_job(run, files, units)], args):
            print(STOPPED, file=sys.stderr)
            return EXIT_STOPPED
        return report(finish(run, [_done(run, part) for part in range(run.parts)]), run)


def _done(run: StaticExport, part: int) -> WrittenPart:
    written = run.read_done(part)
    if written is None:
        raise VersionError(f"shard {part} of the export is missing or incomplete; run the command again")
    return written


# ------------------------------------------------------------------ on a Beam runner
def export_on(run: StaticExport, args: argparse.Namespace, flags: list[str]) -> int:
    """Make an export on a Beam runner; return the exit status."""
    from .precomputed_pipeline import build

    counts = command.run_on_table("precomputed", run.dataset, args, flags, partial(build, run=run))
    if counts is None:
        return 0
    manifest = finished_before(run)
    if manifest is None:
        raise VersionError(
            f"the job ended, but the export in {run.url} has no manifest: run the command again"
        )
    return report(manifest, run)


def report(manifest: StaticManifest, run: StaticExport) -> int:
    """Print what an export holds; return the exit status."""
    counts = ", ".join(f"{count} in {layer}" for layer, count in manifest.counts.items())
    print(f"version {manifest.version}: {counts}")
    print(f"{len(manifest.shards)} shards of {sum(manifest.shards.values()) / 1e6:.1f} MB in {run.url}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 1 for an error, 2 for a wrong option."""
    args, flags = parse(argv)

    def run() -> int:
        export = plan(args)
        with alone(export):
            if manifest := finished_before(export):
                return report(manifest, export)
            if is_beams(args.runner):
                return export_on(export, args, flags)
            return make_export(export, args)

    return command.exit_status(run, STOPPED)


if __name__ == "__main__":
    sys.exit(main())
