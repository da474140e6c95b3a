"""Audit without Beam: its options, its run and its report."""

from __future__ import annotations

import argparse
import sys
import uuid
from collections.abc import Callable
from contextlib import closing
from functools import partial

from ..audit.chunk_audit import Audit, prepare_audit
from ..audit.summary import AuditSummary, give_up, open_audit, save_audit, settle, summary_text
from ..config.datasets import Dataset, load_dataset
from ..core.errors import EXIT_FAILED, EXIT_STOPPED
from ..local.job_run import ChunkJob
from .job_command import compile_decoder, compile_kernel, run_job
from .job_options import add_data_options, add_switch, choose_box

STOPPED = "stopped: not all chunks were audited, so the result is not stored; run the command again"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for an audit, but none of Beam's."""
    add_data_options(parser)
    parser.add_argument(
        "--timestamp",
        help='expect only the nodes valid at this time, "YYYY-MM-DD HH:MM:SS" in UTC or ISO 8601; '
        "default: all nodes that ever existed",
    )
    add_switch(parser, "--repair", "compute the features of missing nodes and write them")


def plan(args: argparse.Namespace, dataset: Dataset | None = None) -> Audit:
    """Return the audit that the options describe. Raises L2FeaturesError before any chunk is read."""
    dataset = dataset or load_dataset(args.dataset, args.config)
    return prepare_audit(dataset, args.timestamp, args.repair, partial(choose_box, args))


def report(summary: AuditSummary) -> int:
    """Print what an audit found; return the exit status."""
    print(summary_text(summary))
    for what, reason in summary.problems.items():
        print(f"error: {what}: {reason}", file=sys.stderr)
    return 0 if summary.complete else EXIT_FAILED


def warm_up(audit: Audit) -> None:
    """Compile the code that an audit uses, or load it from the cache."""
    compile_decoder(audit.dataset)
    if audit.repair:
        compile_kernel()


def chunk_job(audit: Audit) -> ChunkJob[AuditSummary]:
    """Return the audit as a job for workers."""
    return ChunkJob(
        box=audit.box,
        open_store=audit.open_store,
        pending=lambda _, first, last: audit.chunks(first, last),
        warm_up=partial(warm_up, audit),
        open_worker=partial(open_audit, audit),
        give_up=partial(give_up, audit),
    )


def audit_chunks(audit: Audit, args: argparse.Namespace, run: str) -> int:
    """Audit without Beam; return the exit status. ``run`` is the unique name of this run."""
    summary = AuditSummary()
    progress = run_job(chunk_job(audit), args, summary.add)
    if progress.stopped:
        print(summary_text(summary))
        print(STOPPED, file=sys.stderr)
        return EXIT_STOPPED
    with closing(audit.open_store()) as store:
        summary = settle(store, audit, summary)
        save_audit(store, audit, summary, run)
    return report(summary)


def run(
    args: argparse.Namespace,
    dataset: Dataset | None = None,
    work: Callable[[Audit, argparse.Namespace, str], int] = audit_chunks,
) -> int:
    """Call ``work`` to run the audit that the options describe; return the exit status.

    Raises L2FeaturesError.
    """
    return work(plan(args, dataset), args, uuid.uuid4().hex)
