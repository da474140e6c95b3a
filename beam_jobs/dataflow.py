"""Defaults, labels and names of jobs on Dataflow."""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Sequence

from l2features.config.datasets import Dataset

DEFAULTS = (
    "--number_of_worker_harness_threads=1",
    "--disk_size_gb=50",
    "--no_save_main_session",
    "--element_processing_timeout_minutes=20",
)
"""Default flags. Dataflow starts a process for each core of a worker; a second thread in a process would
compete for the GIL and keep a second chunk in memory. The disk stores the image and no shuffled data. Code
comes from the image, not from the launcher's main module. A process exits after 20 minutes on one chunk.
"""
_NOT_IN_LABELS = re.compile(r"[^a-z0-9_-]")
LABEL_LENGTH = NAME_LENGTH = 63
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")


def is_dataflow(runner: str) -> bool:
    """Return whether ``runner`` is one of Beam's names for Dataflow."""
    return runner.lower().removesuffix("runner") == "dataflow"


def output_problem(args: argparse.Namespace, _: Sequence[str]) -> str:
    """Return what is wrong with ``--output``, or "". On Dataflow, the output must be in a bucket."""
    if is_dataflow(args.runner) and not args.output.startswith("gs://"):
        return f"--output {args.output}: Dataflow workers cannot share this folder: expected gs://bucket/path"
    return ""


def dataflow_flags(runner: str, flags: Sequence[str]) -> list[str]:
    """Return ``flags``, with `DEFAULTS` first on Dataflow; given flags override defaults."""
    return [*DEFAULTS, *flags] if is_dataflow(runner) else list(flags)


def labels(job: str, dataset: str | None = None) -> list[str]:
    """Return the flags that set the labels by which costs and metrics are grouped."""
    found = {"application": "l2features", "l2features-job": job}
    if dataset:
        found["l2features-dataset"] = _NOT_IN_LABELS.sub("_", dataset.lower())[:LABEL_LENGTH]
    return [f"--labels={name}={value}" for name, value in found.items()]


def table_job_name(job: str, dataset: Dataset) -> str:
    """Return the flag that names a job after its table."""
    return _job_name(job, dataset.l2cache_id, f"{dataset.store} {dataset.l2cache_id}")


def update_job_name(subscriptions: Sequence[str]) -> str:
    """Return the flag that names an update after its subscriptions, whose order does not matter."""
    paths = sorted(set(subscriptions))
    return _job_name("update", paths[0].rpartition("/")[2], " ".join(paths))


def _job_name(job: str, shown: str, same: str) -> str:
    """Return the flag for the name ``l2features-JOB-SHOWN-DIGEST``; a long ``shown`` is cut.

    DIGEST is a hash of ``same``, which identifies the table or the subscriptions completely. Dataflow runs
    one job per name at a time, so jobs with the same ``shown`` need different digests.
    """
    digest = hashlib.sha256(same.encode()).hexdigest()[:8]
    begin = f"l2features-{job}-{_NOT_IN_NAMES.sub('-', shown.lower()).strip('-')}"
    return f"--job_name={begin[: NAME_LENGTH - len(digest) - 1].rstrip('-')}-{digest}"
