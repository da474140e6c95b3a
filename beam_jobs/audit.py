"""Audit: check that every L2 node of the graph has its row in the store; repair what is missing.

Compares the nodes of each chunk of the graph with the rows of the store: without --timestamp all nodes that
ever existed, superseded ones included; with it those that are valid at that time. Prints how many nodes are
expected, present, marked empty, missing and superfluous, and keeps the numbers with the table. --repair
computes and writes what is missing. The exit status is 0 if the table is complete, 1 if it is not.

example, is the ingest complete?
  python -m beam_jobs.audit --config datasets.yml --dataset minnie --timestamp "2026-11-21 00:27:44"

example, find every node that ever existed and has no row, then repair:
  python -m beam_jobs.audit --config datasets.yml --dataset minnie
  python -m beam_jobs.audit --config datasets.yml --dataset minnie --repair
"""

from __future__ import annotations

import argparse
import sys
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from l2features import kernel
from l2features.audit.chunk_audit import Audit, prepare_audit
from l2features.audit.summary import (
    AuditSummary,
    give_up,
    open_audit,
    read_run,
    save_audit,
    settle,
    summary_text,
)
from l2features.config.datasets import load_dataset
from l2features.core.errors import StoreError
from l2features.local.pool import ChunkJob
from l2features.store.bigtable import decoded

from . import command
from .command import EXIT_FAILED, EXIT_STOPPED, LOCAL
from .dataflow import labels, table_job_name
from .options import add_switch

STOPPED = "stopped: the audit is of a part only, and is not kept"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the job's own options, beside Beam's."""
    command.add_data_options(parser)
    parser.add_argument(
        "--timestamp",
        help='expect the nodes that are valid at this time, "YYYY-MM-DD HH:MM:SS" in UTC or ISO 8601; '
        "default: all nodes that ever existed",
    )
    add_switch(parser, "--repair", "compute the features of missing nodes and write them")


parse = partial(command.parse, "audit", __doc__, add_options)


def plan(args: argparse.Namespace) -> Audit:
    """Return the audit that the options describe. Raises L2FeaturesError before any chunk is read."""
    dataset = load_dataset(args.dataset, args.config)
    return prepare_audit(dataset, args.timestamp, args.repair, partial(command.choose_box, args))


def report(summary: AuditSummary) -> int:
    """Print what an audit found; returns the exit status."""
    print(summary_text(summary))
    for what, reason in summary.problems.items():
        print(f"error: {what}: {reason}", file=sys.stderr)
    return 0 if summary.complete else EXIT_FAILED


def local_job(audit: Audit) -> ChunkJob[AuditSummary]:
    """Return the audit as a job of a local run."""

    def warm_up() -> None:
        decoded.warm_up()
        if audit.repair:
            kernel.warm_up()

    return ChunkJob(
        box=audit.box,
        open_store=audit.open_store,
        pending=lambda _, first, last: audit.chunks(first, last),
        warm_up=warm_up,
        open_worker=partial(open_audit, audit),
        give_up=partial(give_up, audit),
    )


def audit_locally(audit: Audit, args: argparse.Namespace, run: str) -> int:
    """Audit on this machine; returns the exit status."""
    summary = AuditSummary()
    progress = command.run_local(local_job(audit), args, summary.add)
    if progress.stopped:
        print(summary_text(summary))
        print(STOPPED, file=sys.stderr)
        return EXIT_STOPPED
    with closing(audit.open_store()) as store:
        summary = settle(store, audit, summary)
        save_audit(store, audit, summary, run)
    return report(summary)


def audit_on(args: argparse.Namespace, audit: Audit, flags: list[str], run: str) -> int:
    """Audit on a Beam runner, which keeps the summary; returns the exit status."""
    from .audit_pipeline import build

    audit = replace(audit, counted=True)
    named = [table_job_name("audit", audit.dataset), *labels("audit", audit.dataset.name), *flags]
    counts = command.run_on(args.runner, named, partial(build, audit=audit, run=run), command.waiting(args))
    if counts is None:
        return 0
    with closing(audit.open_store()) as store:
        summary = read_run(store, audit, run)
    if summary is None:
        raise StoreError(f"the audit is done, but {audit.dataset.store} keeps the summary of a later one")
    return report(summary)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 complete, 1 incomplete or failed, 2 for a wrong option."""
    args, flags = parse(argv)
    run_id = uuid.uuid4().hex

    def run() -> int:
        audit = plan(args)
        if args.runner == LOCAL:
            return audit_locally(audit, args, run_id)
        return audit_on(args, audit, flags, run_id)

    return command.exit_status(run, STOPPED)


if __name__ == "__main__":
    sys.exit(main())
