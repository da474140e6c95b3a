"""How the jobs run on Dataflow unless their flags say otherwise."""

from __future__ import annotations

import re
from collections.abc import Sequence

DEFAULTS = (
    "--number_of_worker_harness_threads=1",
    "--disk_size_gb=50",
    "--no_save_main_session",
    "--element_processing_timeout_minutes=20",
)
"""One kernel per core: Dataflow starts a process for each core of a worker, and a second thread in it would
compete for the interpreter's lock and hold a second chunk. The disk holds the image, and no shuffled data.
Workers have the code from their image, and take nothing from the launcher's main module. A process whose
chunk takes longer than on one machine hangs, and ends itself."""
_NOT_IN_LABELS = re.compile(r"[^a-z0-9_-]")
LABEL_LENGTH = 63


def is_dataflow(runner: str) -> bool:
    """Whether Beam takes a runner's name for Dataflow's."""
    return runner.lower().removesuffix("runner") == "dataflow"


def dataflow_flags(runner: str, flags: Sequence[str]) -> list[str]:
    """Beam's flags with the defaults before them: a flag that is given comes later, and counts."""
    return [*DEFAULTS, *flags] if is_dataflow(runner) else list(flags)


def labels(job: str, dataset: str | None = None) -> list[str]:
    """Flags with the labels by which costs and metrics are told apart."""
    found = {"application": "l2features", "l2features-job": job}
    if dataset:
        found["l2features-dataset"] = _NOT_IN_LABELS.sub("_", dataset.lower())[:LABEL_LENGTH]
    return [f"--labels={name}={value}" for name, value in found.items()]
