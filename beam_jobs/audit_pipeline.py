"""The pipeline of the audit, for every runner: chunks, compare, sum up. It is linear."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from l2features.audit.chunk_audit import Audit
from l2features.audit.summary import AuditSummary, audit_or_fail, save_audit, settle
from l2features.core.geometry import Chunk

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


@dataclass
class AllChunks(beam.PTransform):
    """Enumerate the chunks of an audit in the workers, in a scattered order."""

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

    def process(self, chunk: Chunk) -> Iterator[AuditSummary]:
        found = audit_or_fail(self.source, chunk)
        for name in COUNTED:
            Metrics.counter(NAMESPACE, f"audit_{name}").inc(getattr(found, name))
        yield found

    def teardown(self) -> None:
        if hasattr(self, "source"):
            self.source.close()


@dataclass
class AuditChunks(beam.PTransform):
    """Audit each chunk; returns its `AuditSummary`. An unreachable store is an error of the pipeline."""

    audit: Audit

    def expand(self, chunks: Any) -> Any:
        return chunks | "Compare" >> beam.ParDo(_AuditFn(self.audit))


def build(pipeline: Any, audit: Audit, chunks: beam.PTransform) -> Any:
    """Add the audit of ``chunks`` to a pipeline; returns its PCollection of `AuditSummary`."""
    return pipeline | "Chunks" >> chunks | "Audit chunks" >> AuditChunks(audit)


def _total(summaries: Iterable[AuditSummary]) -> AuditSummary:
    total = AuditSummary()
    for summary in summaries:
        total.add(summary)
    return total


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
    """Sum up all chunks, and keep the sums with the table under the name of the run."""

    audit: Audit
    run: str

    def expand(self, summaries: Any) -> Any:
        return (
            summaries
            | "Sum up" >> beam.CombineGlobally(_total).without_defaults()
            | "Keep" >> beam.ParDo(_KeepFn(self.audit, self.run))
        )
