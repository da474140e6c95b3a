"""The Beam pipeline of the audit, a chain of steps: enumerate the chunks, audit each chunk, sum up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from l2features.audit.chunk_audit import Audit
from l2features.audit.summary import AuditSummary, audit_or_fail, save_audit, settle
from l2features.core.geometry import Chunk

from .counters import count
from .transforms import EnumerateChunks, RunFn, StoreFn

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
"""Attributes of `AuditSummary` that are also Beam counters, which are named ``audit_`` + attribute."""


class _AuditFn(RunFn):
    def setup(self) -> None:
        self.source = self.opened = self.run.open_source()

    def process(self, chunk: Chunk) -> Iterator[AuditSummary]:
        found = audit_or_fail(self.source, chunk)
        count(**{f"audit_{name}": getattr(found, name) for name in COUNTED})
        yield found


@dataclass
class AuditChunks(beam.PTransform):
    """Audit each chunk; returns an `AuditSummary` per chunk. An unreachable store fails the pipeline."""

    audit: Audit

    def expand(self, chunks: Any) -> Any:
        return chunks | "Compare" >> beam.ParDo(_AuditFn(self.audit))


def _total(summaries: Iterable[AuditSummary]) -> AuditSummary:
    total = AuditSummary()
    for summary in summaries:
        total.add(summary)
    return total


class _KeepFn(StoreFn):
    def __init__(self, audit: Audit, name: str) -> None:
        super().__init__(audit)
        self.name = name

    def process(self, summary: AuditSummary) -> Iterator[AuditSummary]:
        summary = settle(self.store, self.run, summary)
        save_audit(self.store, self.run, summary, self.name)
        yield summary


@dataclass
class KeepSummary(beam.PTransform):
    """Sum up all chunks, and store the sums in the table under the name of the run."""

    audit: Audit
    run: str

    def expand(self, summaries: Any) -> Any:
        return (
            summaries
            | "Sum up" >> beam.CombineGlobally(_total).without_defaults()
            | "Keep" >> beam.ParDo(_KeepFn(self.audit, self.run))
        )


def build(pipeline: Any, audit: Audit, run: str) -> Any:
    """Add an audit to a pipeline; return its `AuditSummary`, which is stored under the name of the run."""
    return (
        pipeline
        | "Chunks" >> EnumerateChunks(audit, beam.FlatMapTuple(audit.chunks))
        | "Audit chunks" >> AuditChunks(audit)
        | "Keep summary" >> KeepSummary(audit, run)
    )
