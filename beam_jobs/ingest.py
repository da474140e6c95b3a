"""Batch ingest: compute the features of every L2 node of a segmentation, and store them.

By default, worker processes of this machine compute the chunks. With --runner=DaskRunner, the workers of a
Dask cluster compute them. With --runner=DataflowRunner, or another Beam runner, the job is a Beam pipeline.
The same command continues a run that was stopped: it skips chunks that are done, and retries failed chunks.

example, the sample data set:
  l2features sample sample
  python -m beam_jobs.ingest --config sample/datasets.yml --dataset sample --create

example, a proofread data set:
  python -m beam_jobs.ingest --config datasets.yml --dataset minnie --create \\
      --timestamp "2026-11-21 00:27:44"
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from l2features.core.chunks import FileCounts
from l2features.core.errors import EXIT_FAILED
from l2features.ingest.steps import Ingest
from l2features.jobs.ingest_run import (
    STOPPED,
    STORE,
    add_options,
    end_window,
    ingest_chunks,
    judge,
    run,
)
from l2features.jobs.job_options import is_beams

from . import command

parse = partial(command.parse, "ingest", __doc__, add_options)


def ingest_on(ingest: Ingest, args: argparse.Namespace, flags: list[str]) -> int:
    """Ingest on a Beam runner; return the exit status."""
    from .transforms import build, pending_chunks

    recorded = args.sink == STORE
    chunks = pending_chunks(ingest)
    add = partial(build, ingest=ingest, chunks=chunks, recorded=recorded, counted=recorded)
    counts = command.run_on_table("ingest", ingest.dataset, args, flags, add)
    if counts is None:
        return 0
    end_window(ingest)
    files = FileCounts(*(counts.get(f"files_{name}", 0) for name in FileCounts._fields))
    print(", ".join(f"{name} {value}" for name, value in sorted(counts.items())))
    if failed := counts.get("failed_chunks"):
        print(f"error: {failed} chunks failed: l2features status names them", file=sys.stderr)
        return EXIT_FAILED
    return judge(ingest, args, files, counts.get("chunks_done_before", 0))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 2 for a ConfigError, 1 for another error or failed chunks."""
    args, flags = parse(argv)
    work = partial(ingest_on, flags=flags) if is_beams(args.runner) else ingest_chunks
    return command.exit_status(partial(run, args, work=work), STOPPED)


if __name__ == "__main__":
    sys.exit(main())
