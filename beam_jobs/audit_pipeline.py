"""The pipeline of the audit, for every runner: chunks, compare, sum up."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics

from l2features import kernel as features
from l2features.audit.chunk_audit import Audit, audit_chunk, is_of_chunk, recorded_state
from l2features.audit.summary import AuditSummary, save_audit, settle
from l2features.core.chunks import ChunkBox
from l2features.core.errors import L2FeaturesError
from l2features.core.geometry import Chunk
from l2features.store.base import Store
from l2features.store.bigtable import decoded

from .job import Progress
from .transforms import NAMESPACE

COUNTED = (
    "chunks",
    "unaudited",
    "files_missing",
    "expected",
    "present",
    "empty",
    "missing",
    "repaired",
    "superfluous",
    "other",
)
"""Sums of a summary that are counters of Beam too, as ``audit_`` + name."""
logger = logging.getLogger(__name__)


class Audited(NamedTuple):
    """What was found in a chunk."""

    chunk: Chunk
    found: AuditSummary


@dataclass
class AllChunks(beam.PTransform):
    """Nothing to the chunks of an audit, enumerated by the workers in a scattered order."""

    audit: Audit

    def expand(self, begin: Any) -> Any:
        return (
            begin
            | "Audit" >> beam.Create([self.audit])
            | "Shards" >> beam.FlatMap(Audit.shards)
            | "Spread shards" >> beam.Reshuffle()
            | "Chunks" >> beam.FlatMapTuple(self.audit.chunks)
            | "Spread chunks" >> beam.Reshuffle()
        )


class _AuditFn(beam.DoFn):
    def __init__(self, audit: Audit) -> None:
        self.audit = audit

    def setup(self) -> None:
        self.source = self.audit.open_source()

    def process(self, chunk: Chunk) -> Iterator[Audited]:
        try:
            found = AuditSummary.of(audit_chunk(self.source, chunk))
        except Exception as error:  # whatever one chunk causes: the others are audited, and this one is named
            if not is_of_chunk(error):
                raise
            recorded = recorded_state(self.source.store, self.audit.geometry, chunk)
            found = AuditSummary.of_unaudited(chunk, recorded, _reason(chunk, error))
        for name in COUNTED:
            Metrics.counter(NAMESPACE, f"audit_{name}").inc(getattr(found, name))
        yield Audited(chunk, found)

    def teardown(self) -> None:
        if hasattr(self, "source"):
            self.source.close()


def _reason(chunk: Chunk, error: Exception) -> str:
    if isinstance(error, L2FeaturesError):
        return str(error).removeprefix(f"chunk {chunk}: ")
    logger.error("chunk %s", chunk, exc_info=error)
    return f"{type(error).__name__}: {error}"


@dataclass
class AuditChunks(beam.PTransform):
    """Chunks to `Audited`. A store that cannot be reached is an error of the pipeline."""

    audit: Audit

    def expand(self, chunks: Any) -> Any:
        return chunks | "Compare" >> beam.ParDo(_AuditFn(self.audit))


def build(pipeline: Any, audit: Audit, chunks: beam.PTransform) -> Any:
    """Add the audit of ``chunks`` to a pipeline; gives its PCollection of `Audited`."""
    return pipeline | "Chunks" >> chunks | "Audit chunks" >> AuditChunks(audit)


class _SumFn(beam.CombineFn):
    def create_accumulator(self) -> AuditSummary:
        return AuditSummary()

    def add_input(self, accumulator: AuditSummary, audited: Audited) -> AuditSummary:
        accumulator.add(audited.found)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[AuditSummary]) -> AuditSummary:
        total = AuditSummary()
        for accumulator in accumulators:
            total.add(accumulator)
        return total

    def extract_output(self, accumulator: AuditSummary) -> AuditSummary:
        return accumulator


class _KeepFn(beam.DoFn):
    def __init__(self, audit: Audit, run: str) -> None:
        self.audit, self.run = audit, run

    def setup(self) -> None:
        self.store = self.audit.open_store()

    def process(self, summary: AuditSummary) -> Iterator[AuditSummary]:
        summary = settle(self.store, self.audit, summary)
        save_audit(self.store, self.audit, summary, self.run)
        yield summary

    def teardown(self) -> None:
        self.store.close()


@dataclass
class KeepSummary(beam.PTransform):
    """`Audited` of all chunks to their summary, which is kept with the table under the name of the run."""

    audit: Audit
    run: str

    def expand(self, audited: Any) -> Any:
        return (
            audited
            | "Sum up" >> beam.CombineGlobally(_SumFn())
            | "Keep" >> beam.ParDo(_KeepFn(self.audit, self.run))
        )


@dataclass
class AuditProgress(Progress):
    """How far an audit is, and what it has found."""

    summary: AuditSummary = field(default_factory=AuditSummary)

    def add(self, result: Audited) -> None:
        self.summary.add(result.found)


@dataclass
class AuditJob:
    """The audit as a `beam_jobs.job.Job`."""

    audit: Audit
    durable: bool = True

    @property
    def box(self) -> ChunkBox:
        return self.audit.box

    def open_store(self) -> Store:
        return self.audit.open_store()

    def shards(self) -> Iterator[tuple[int, int]]:
        return self.audit.shards()

    def pending(self, store: Store, first: int, last: int) -> list[Chunk]:
        return self.audit.chunks(first, last)

    def warm_up(self) -> None:
        decoded.warm_up()
        if self.audit.repair:
            features.warm_up()

    def build(self, pipeline: Any, chunks: beam.PTransform) -> Sequence[Any]:
        return [build(pipeline, self.audit, chunks)]

    def progress(self) -> AuditProgress:
        return AuditProgress(total=len(self.box))

    def result(self, fields: Sequence[Any]) -> Audited:
        return Audited(Chunk(*fields[0]), fields[1])

    def give_up(self, store: Store, chunk: Chunk, reason: str) -> Audited:
        recorded = recorded_state(store, self.audit.geometry, chunk)
        return Audited(chunk, AuditSummary.of_unaudited(chunk, recorded, reason))
