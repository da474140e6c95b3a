"""Make a version: the nodes of a data set that are valid at one time, their roots and features, in Parquet.

Writes the files of a version and then its manifest below --output, in a folder named by its number. After an
interruption, run the same command again: it continues, and makes the same files. --base renews an earlier
version: only changes since that version are read and written. `l2features versions` lists, checks, compares
and deletes versions, `l2features query` queries them; see docs/versions.md.

example, a first version:
  python -m beam_jobs.materialize --config datasets.yml --dataset minnie \\
      --timestamp 2026-11-21T00:27:44.368Z --output gs://bucket/versions/minnie

example, renew version 1 as version 2:
  python -m beam_jobs.materialize --config datasets.yml --dataset minnie \\
      --timestamp 2026-11-22T00:00:00Z --output gs://bucket/versions/minnie --base 1
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from l2features.jobs.job_options import is_beams
from l2features.jobs.materialize_run import STOPPED, add_options, make_version, report, run
from l2features.versions.manifest import read_manifest
from l2features.versions.materialization import Materialization

from . import command
from .dataflow import output_problem

parse = partial(command.parse, "materialize", __doc__, add_options, problem=output_problem)


def materialize_on(version: Materialization, args: argparse.Namespace, flags: list[str]) -> int:
    """Make a version on a Beam runner; return the exit status."""
    from .materialize_pipeline import build

    add = partial(build, run=version)
    counts = command.run_on_table("materialize", version.units.dataset, args, flags, add)
    if counts is None:
        return 0
    return report(read_manifest(version.folder, version.plan.number), version)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 1 for an error, 2 for a wrong option."""
    args, flags = parse(argv)
    work = partial(materialize_on, flags=flags) if is_beams(args.runner) else make_version
    return command.exit_status(partial(run, args, work=work), STOPPED)


if __name__ == "__main__":
    sys.exit(main())
