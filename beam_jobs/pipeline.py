"""The batch pipeline, for every runner: chunks, compute, write."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from l2features.ingest import Ingest

from .transforms import (
    FAILURES,
    ComputeFeatures,
    RecordFailures,
    WriteByBigtableIO,
    WriteFeatures,
    sent,
)

STORE, BIGTABLEIO = "store", "bigtableio"
SINKS = (STORE, BIGTABLEIO)
_WHILE_RUNNING = re.compile(r" \[while running '.*'\]", re.DOTALL)


def plain_message(error: Exception) -> str:
    """What an error says, without the step that Beam adds."""
    return _WHILE_RUNNING.sub("", str(error))


@dataclass
class IngestResults:
    """PCollections of `ChunkResult`: chunks that were written, and chunks that failed."""

    written: Any
    failed: Any


def build(pipeline: Any, ingest: Ingest, chunks: beam.PTransform, sink: str = STORE) -> IngestResults:
    """Add the ingest to a pipeline. ``chunks`` gives the chunks to compute.

    The sink ``bigtableio`` needs a Bigtable store. With it a chunk's state is ``sent``: that it is written is
    known when the pipeline has ended well.
    """
    computed = pipeline | "Chunks" >> chunks | "Compute features" >> ComputeFeatures(ingest.open_source)
    failed = computed[FAILURES] | "Record failures" >> RecordFailures(ingest)
    if sink == STORE:
        return IngestResults(computed.features | "Write features" >> WriteFeatures(ingest), failed)
    project, instance = ingest.dataset.store.removeprefix("bigtable://").strip("/").split("/")
    to_bigtable = WriteByBigtableIO(project, instance, ingest.dataset.l2cache_id)
    computed.features | "Write features" >> to_bigtable
    return IngestResults(computed.features | "Sent" >> beam.Map(sent), failed)
