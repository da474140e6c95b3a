"""PTransforms of the jobs. Their logic lives in ``l2features``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from l2features.core.chunks import FileCounts
from l2features.core.errors import L2FeaturesError, StoreError
from l2features.core.geometry import Chunk
from l2features.core.saturation import saturated_counts
from l2features.ingest.compute import ChunkFeatures
from l2features.ingest.steps import (
    GIVEN_UP,
    Ingest,
    begin_anew,
    begin_attempt,
    clear_attempts,
    compute_chunk,
    save_chunk,
    save_failure,
    save_given_up,
)
from l2features.store.base import FAILED, ChunkRecord

NAMESPACE = "l2features"
STEPS = ("read", "map", "compute", "write")
FAILURES = "failures"
SENT = "sent"
"""State of a chunk of which nobody says when it is written."""
logger = logging.getLogger(__name__)


class FailedChunk(NamedTuple):
    """A chunk that could not be computed, and why."""

    chunk: Chunk
    reason: str


class ChunkResult(NamedTuple):
    """The outcome of a chunk; ``millis`` is the time in each of `STEPS`, the rest is as in `ChunkRecord`."""

    chunk: Chunk
    state: str
    nodes: int
    orphans: int
    reason: str
    millis: dict[str, float]
    files: FileCounts
    saturated: Mapping[str, int]


def _counter(name: str) -> Any:
    return Metrics.counter(NAMESPACE, name)


def count_saturated(features: np.ndarray) -> None:
    """Count, by attribute, the nodes whose value is the largest that its type holds."""
    for name, nodes in saturated_counts(features).items():
        _counter(f"saturated_{name}").inc(nodes)


def _milliseconds(step: str) -> Any:
    return Metrics.distribution(NAMESPACE, f"{step}_ms")


class _StoreFn(beam.DoFn):
    """What holds the ingest and its open store."""

    def __init__(self, ingest: Ingest) -> None:
        self.ingest = ingest

    def setup(self) -> None:
        self.store = self.ingest.open_store()

    def teardown(self) -> None:
        self.store.close()


class _PendingFn(_StoreFn):
    """Shards of the chunk order to the chunks that are to be computed."""

    def process(self, shard: tuple[int, int]) -> Iterator[Chunk]:
        chunks = self.ingest.pending(self.store, *shard)
        begin_anew(self.store, self.ingest.chunk_ids(*shard))
        _counter("chunks_done_before").inc(shard[1] - shard[0] - len(chunks))
        yield from chunks


@dataclass
class EnumerateChunks(beam.PTransform):
    """Nothing to the chunks that are to be computed, enumerated by the workers in a scattered order."""

    ingest: Ingest

    def expand(self, begin: Any) -> Any:
        return (
            begin
            | "Ingest" >> beam.Create([self.ingest])
            | "Shards" >> beam.FlatMap(Ingest.shards)
            | "Spread shards" >> beam.Reshuffle()
            | "Pending chunks" >> beam.ParDo(_PendingFn(self.ingest))
            | "Spread chunks" >> beam.Reshuffle()
        )


class _ComputeFn(beam.DoFn):
    def __init__(self, open_source: Callable[[], Any], counted: Ingest | None) -> None:
        self.open_source, self.counted = open_source, counted

    def setup(self) -> None:
        self.source = self.open_source()
        self.store = self.counted and self.counted.open_store()

    def teardown(self) -> None:
        if self.store:
            self.store.close()

    def process(self, chunk: Chunk) -> Iterator[Any]:
        if self.counted and self.store:
            given_up = begin_attempt(self.store, self.counted.geometry, chunk)
            if given_up:
                yield TaggedOutput(FAILURES, FailedChunk(chunk, given_up))
                return
        try:
            result = compute_chunk(self.source, chunk)
        except Exception as error:  # whatever a chunk's data cause: the others complete, the job says so
            if not isinstance(error, L2FeaturesError):
                logger.exception("chunk %s", chunk)
            reason = _reason(error).removeprefix(f"chunk {chunk}: ")
            yield TaggedOutput(FAILURES, FailedChunk(chunk, reason))
            return
        _counter("chunks").inc()
        _counter("empty_chunks").inc(int(len(result.features) == 0))
        _counter("nodes").inc(len(result.features))
        _counter("orphan_supervoxels").inc(result.orphans)
        for name, files in result.files._asdict().items():
            _counter(f"files_{name}").inc(files)
        count_saturated(result.features)
        for step, millis in result.millis.items():
            _milliseconds(step).update(round(millis))
        yield result


@dataclass
class ComputeFeatures(beam.PTransform):
    """Chunks to their features (main output), and to `FailedChunk` (output ``failures``).

    Attempts are ``counted`` in the store of an ingest whose runner repeats what kills a process.
    """

    open_source: Callable[[], Any]
    counted: Ingest | None = None

    def expand(self, chunks: Any) -> Any:
        compute = beam.ParDo(_ComputeFn(self.open_source, self.counted))
        return chunks | "Compute" >> compute.with_outputs(FAILURES, main="features")


class _WriteFn(_StoreFn):
    def process(self, result: ChunkFeatures) -> Iterator[ChunkResult]:
        start = time.perf_counter()
        try:
            record = save_chunk(self.store, self.ingest.geometry, result)
        except StoreError:
            clear_attempts(self.store, self.ingest.geometry, result.chunk)
            raise
        millis = {**result.millis, "write": (time.perf_counter() - start) * 1e3}
        _milliseconds("write").update(round(millis["write"]))
        _counter("rows_written").inc(len(result.features))
        yield _result(result.chunk, record, millis)


class _FailFn(_StoreFn):
    def process(self, failed: FailedChunk) -> Iterator[ChunkResult]:
        yield _result(failed.chunk, self.save(*failed), {})

    def save(self, chunk: Chunk, reason: str) -> ChunkRecord:
        try:
            if reason == GIVEN_UP:
                return save_given_up(self.store, self.ingest.geometry, chunk)
            return save_failure(self.store, self.ingest.geometry, chunk, reason)
        except StoreError:
            if reason != GIVEN_UP:
                clear_attempts(self.store, self.ingest.geometry, chunk)
            raise


def _result(chunk: Chunk, record: ChunkRecord, millis: dict[str, float]) -> ChunkResult:
    if record.state == FAILED:
        _counter("failed_chunks").inc()
        logger.error("chunk %s failed: %s", chunk, record.reason)
    return ChunkResult(
        chunk,
        record.state,
        record.nodes,
        record.orphans,
        record.reason,
        millis,
        record.files,
        record.saturated,
    )


@dataclass
class WriteFeatures(beam.PTransform):
    """Features to the store, chunk by chunk: rows, confirmation, and only then the chunk's record.

    Gives a `ChunkResult` per chunk. A store that cannot be written to is an error of the pipeline.
    """

    ingest: Ingest

    def expand(self, features: Any) -> Any:
        return features | "Write" >> beam.ParDo(_WriteFn(self.ingest))


@dataclass
class RecordFailures(beam.PTransform):
    """`FailedChunk` to the store's record of the chunk; gives a `ChunkResult` per chunk."""

    ingest: Ingest

    def expand(self, failures: Any) -> Any:
        return failures | "Record" >> beam.ParDo(_FailFn(self.ingest))


class _DirectRowsFn(beam.DoFn):
    """Features to rows of the legacy Bigtable client, which is what Beam's connector takes."""

    def process(self, result: ChunkFeatures) -> Iterator[Any]:
        from l2features.store.bigtable.cells import direct_rows

        return direct_rows(result.features)


def sent(result: ChunkFeatures) -> ChunkResult:
    """The result of a chunk whose rows were handed to Beam's connector."""
    return ChunkResult(
        result.chunk,
        SENT,
        len(result.features),
        result.orphans,
        "",
        result.millis,
        result.files,
        saturated_counts(result.features),
    )


@dataclass
class WriteByBigtableIO(beam.PTransform):
    """Features to Bigtable by Beam's own connector: the same rows, but no records of chunks."""

    project: str
    instance: str
    table: str

    def expand(self, features: Any) -> Any:
        from apache_beam.io.gcp.bigtableio import WriteToBigTable

        return (
            features
            | "Direct rows" >> beam.ParDo(_DirectRowsFn())
            | "WriteToBigTable" >> WriteToBigTable(self.project, self.instance, self.table)
        )


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, L2FeaturesError) else f"{type(error).__name__}: {error}"
