"""The pipeline of the batch ingest, for every runner: chunks, compute, write."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam

from l2features import kernel as features
from l2features.core.chunks import NO_FILES, ChunkBox, FileCounts
from l2features.core.geometry import Chunk
from l2features.ingest.steps import Ingest, save_failure
from l2features.store.base import FAILED, Store

from .job import Progress
from .transforms import (
    FAILURES,
    ChunkResult,
    ComputeFeatures,
    RecordFailures,
    WriteByBigtableIO,
    WriteFeatures,
    sent,
)

STORE, BIGTABLEIO = "store", "bigtableio"
SINKS = (STORE, BIGTABLEIO)
MAX_REASONS = 1_000
_WHILE_RUNNING = re.compile(r" \[while running '.*'\]", re.DOTALL)


def plain_message(error: Exception) -> str:
    """What an error says, without the step that Beam adds."""
    return _WHILE_RUNNING.sub("", str(error))


@dataclass
class IngestResults:
    """PCollections of `ChunkResult`: chunks that were written, and chunks that failed."""

    written: Any
    failed: Any


def build(
    pipeline: Any, ingest: Ingest, chunks: beam.PTransform, sink: str = STORE, counted: bool = False
) -> IngestResults:
    """Add the ingest to a pipeline. ``chunks`` gives the chunks to compute.

    Where the runner repeats what kills a process, attempts are ``counted``: a chunk fails after three that
    never ended.

    The sink ``bigtableio`` needs a Bigtable store. With it a chunk's state is ``sent``: that it is written is
    known when the pipeline has ended well.
    """
    compute = ComputeFeatures(ingest.open_source, ingest if counted else None)
    computed = pipeline | "Chunks" >> chunks | "Compute features" >> compute
    failed = computed[FAILURES] | "Record failures" >> RecordFailures(ingest)
    if sink == STORE:
        return IngestResults(computed.features | "Write features" >> WriteFeatures(ingest), failed)
    project, instance = ingest.dataset.store.removeprefix("bigtable://").strip("/").split("/")
    to_bigtable = WriteByBigtableIO(project, instance, ingest.dataset.l2cache_id)
    computed.features | "Write features" >> to_bigtable
    return IngestResults(computed.features | "Sent" >> beam.Map(sent), failed)


@dataclass
class Summary(Progress):
    """What a run of the ingest did.

    ``failed`` maps the first failed chunks to reasons; ``millis`` sums the time of all workers by step,
    ``saturated`` the nodes by attribute.
    """

    done: int = 0
    nodes: int = 0
    orphans: int = 0
    n_failed: int = 0
    failed: dict[Chunk, str] = field(default_factory=dict)
    millis: Counter[str] = field(default_factory=Counter)
    files: FileCounts = NO_FILES
    saturated: Counter[str] = field(default_factory=Counter)

    def add(self, result: ChunkResult) -> None:
        self.nodes += result.nodes
        self.orphans += result.orphans
        self.millis.update(result.millis)
        self.files = self.files.plus(result.files)
        self.saturated.update(result.saturated)
        if result.state == FAILED:
            self.n_failed += 1
            if len(self.failed) < MAX_REASONS:
                self.failed[result.chunk] = result.reason
        else:
            self.done += 1


@dataclass
class IngestJob:
    """The ingest as a `beam_jobs.job.Job`."""

    ingest: Ingest
    sink: str = STORE

    def __post_init__(self) -> None:
        self.durable = self.sink == STORE

    @property
    def box(self) -> ChunkBox:
        return self.ingest.box

    def open_store(self) -> Store:
        return self.ingest.open_store()

    def shards(self) -> Iterator[tuple[int, int]]:
        return self.ingest.shards()

    def pending(self, store: Store, first: int, last: int) -> list[Chunk]:
        return self.ingest.pending(store, first, last)

    def warm_up(self) -> None:
        features.warm_up()

    def build(self, pipeline: Any, chunks: beam.PTransform) -> Sequence[Any]:
        results = build(pipeline, self.ingest, chunks, self.sink)
        return results.written, results.failed

    def progress(self) -> Summary:
        return Summary(total=len(self.box))

    def result(self, fields: Sequence[Any]) -> ChunkResult:
        result = ChunkResult(*fields)
        return result._replace(chunk=Chunk(*result.chunk), files=FileCounts(*result.files))

    def give_up(self, store: Store, chunk: Chunk, reason: str) -> ChunkResult:
        save_failure(store, self.ingest.geometry, chunk, reason)
        return ChunkResult(chunk, FAILED, 0, 0, reason, {}, NO_FILES, {})
