"""Audit: check that every L2 node of the graph has its row in the store; repair what is missing.

Compares the nodes of each chunk of the graph with the rows of the store. All nodes that ever existed are
expected, including superseded nodes; with --timestamp, only the nodes valid at that time. Prints how many
nodes are expected, present, marked empty, missing and superfluous, and stores the numbers in the table.
--repair computes and writes missing nodes. The exit status is 0 if the table is complete, 1 if it is not.

example, is the ingest complete?
  python -m beam_jobs.audit --config datasets.yml --dataset minnie --timestamp "2026-11-21 00:27:44"

example, find every node that ever existed and has no row, then repair:
  python -m beam_jobs.audit --config datasets.yml --dataset minnie
  python -m beam_jobs.audit --config datasets.yml --dataset minnie --repair
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from l2features.audit.chunk_audit import Audit
from l2features.audit.summary import read_run
from l2features.core.errors import StoreError
from l2features.jobs.audit_run import STOPPED, add_options, audit_chunks, report, run
from l2features.jobs.job_options import is_beams

from . import command

parse = partial(command.parse, "audit", __doc__, add_options)


def audit_on(audit: Audit, args: argparse.Namespace, name: str, flags: list[str]) -> int:
    """Audit on a Beam runner, print the stored summary, and return the exit status."""
    from .audit_pipeline import build

    audit = replace(audit, counted=True)
    add = partial(build, audit=audit, run=name)
    counts = command.run_on_table("audit", audit.dataset, args, flags, add)
    if counts is None:
        return 0
    with closing(audit.open_store()) as store:
        summary = read_run(store, audit, name)
    if summary is None:
        raise StoreError(
            f"the audit finished, but a later audit has replaced its result in {audit.dataset.store}: "
            "run the audit again, or use the later result"
        )
    return report(summary)


def main(argv: Sequence[str] | None = None) -> int:
    """Run an audit; return 0 if the table is complete, 1 if it is not.

    Also returns 0 if the audit is not waited for, as with --detach. Returns 2 for a ConfigError, 1 for
    another error, and 130 if stopped.
    """
    args, flags = parse(argv)
    work = partial(audit_on, flags=flags) if is_beams(args.runner) else audit_chunks
    return command.exit_status(partial(run, args, work=work), STOPPED)


if __name__ == "__main__":
    sys.exit(main())
