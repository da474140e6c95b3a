"""The pipeline of the batch ingest: chunks, compute, write. It is linear, for every runner."""

from __future__ import annotations

from typing import Any

import apache_beam as beam

from l2features.ingest.steps import Ingest

from .command import plain_message as plain_message  # noqa: PLC0414
from .transforms import ComputeFeatures, WriteByBigtableIO, WriteFeatures


def build(
    pipeline: Any, ingest: Ingest, chunks: beam.PTransform, recorded: bool = True, counted: bool = False
) -> Any:
    """Add the ingest of ``chunks`` to a pipeline; returns what the sink returns.

    Args:
        recorded: keep a record of each chunk, and return its `ChunkResult`. Otherwise Beam's connector writes
            the rows, and only failures are recorded.
        counted: count attempts before they begin, for runners that retry what kills a process; a chunk fails
            after three attempts that never ended.
    """
    write = WriteFeatures(ingest) if recorded else WriteByBigtableIO(ingest)
    compute = ComputeFeatures(ingest, counted)
    return pipeline | "Chunks" >> chunks | "Compute features" >> compute | "Write features" >> write
