"""Audit: whether every L2 node of the graph has its row in the store, and repair of what is missing.

Chunk by chunk, the nodes of the graph are compared with the rows of the store: without --timestamp all
nodes that were ever made, superseded ones among them; with it those that are valid at that time. Prints
how many chunks were looked at, and how many nodes are expected, present, marked empty, missing and
superfluous, and keeps it with the table. --repair computes and writes what is missing. The exit status is
0 where the table is complete, 1 where it is not.

example, is the ingest complete?
  python -m beam_jobs.audit --config datasets.yml --dataset minnie --timestamp "2026-11-21 00:27:44"

example, is every node there that was ever made, and if not, make it so:
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
from typing import Any

from l2features.audit.chunk_audit import Audit, prepare_audit
from l2features.audit.summary import AuditSummary, read_run, save_audit, settle, summary_text
from l2features.config.datasets import load_dataset
from l2features.core.errors import StoreError

from . import command
from .audit_pipeline import AllChunks, AuditJob, AuditProgress, KeepSummary, build
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
        "default: all nodes that were ever made",
    )
    add_switch(parser, "--repair", "compute the features of missing nodes and write them")


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The job's own options, and the flags for Beam. Exits with status 2 where one is unknown."""
    parser = command.new_parser("audit", __doc__)
    add_options(parser)
    return command.parse(parser, argv)


def plan(own: argparse.Namespace) -> Audit:
    """The audit that the options ask for. Raises L2FeaturesError before any chunk is looked at."""
    dataset = load_dataset(own.dataset, own.config)
    return prepare_audit(dataset, own.timestamp, own.repair, command.box_chooser(own))


def report(summary: AuditSummary) -> int:
    """Say what an audit found; gives the exit status."""
    print(summary_text(summary))
    for what, reason in summary.problems.items():
        print(f"error: {what}: {reason}", file=sys.stderr)
    return 0 if summary.complete else EXIT_FAILED


def audit_locally(audit: Audit, own: argparse.Namespace, flags: list[str], run: str) -> int:
    """Audit on this machine; gives the exit status."""
    progress: AuditProgress = command.run_local(AuditJob(audit), own, flags)
    if progress.stopped:
        print(summary_text(progress.summary))
        print(STOPPED, file=sys.stderr)
        return EXIT_STOPPED
    with closing(audit.open_store()) as store:
        summary = settle(store, audit, progress.summary)
        save_audit(store, audit, summary, run)
    return report(summary)


def audit_on(own: argparse.Namespace, audit: Audit, flags: list[str], run: str) -> int:
    """Audit on a Beam runner, which keeps the summary itself; gives the exit status."""

    audit = replace(audit, counted=True)

    def add(pipeline: Any) -> None:
        _ = build(pipeline, audit, AllChunks(audit)) | "Keep summary" >> KeepSummary(audit, run)

    named = [table_job_name("audit", audit.dataset), *labels("audit", audit.dataset.name), *flags]
    if command.run_on(own.runner, named, add, command.waiting(own)) is None:
        return 0
    with closing(audit.open_store()) as store:
        summary = read_run(store, audit, run)
    if summary is None:
        raise StoreError(f"the audit has ended, but another one's findings are kept in {audit.dataset.store}")
    return report(summary)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; gives the exit status: 0 complete, 1 incomplete or ended, 2 for a wrong option."""
    own, flags = parse(sys.argv[1:] if argv is None else argv)
    run_id = uuid.uuid4().hex

    def run() -> int:
        audit = plan(own)
        if own.runner == LOCAL:
            return audit_locally(audit, own, flags, run_id)
        return audit_on(own, audit, flags, run_id)

    return command.exit_status(run, STOPPED)


if __name__ == "__main__":
    sys.exit(main())
