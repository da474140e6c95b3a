"""The Beam pipeline that makes a version: read rows, group them by partition (range of ids), write files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np

from l2features.core.chunks import ChunkBox
from l2features.ingest.steps import shards
from l2features.versions.completion import finish
from l2features.versions.materialization import Materialization, put_done, read_done
from l2features.versions.node_rows import NODE_ROW
from l2features.versions.partitions import Partition, Written, divide

from .counters import count
from .transforms import RunFn, WriteGroups

Key = tuple[str, int]
"""A partition of a version's rows: its layout (the order of the rows) and its number."""
ELEMENT_ROWS = 10_000
"""Maximum number of rows in a pipeline element, about 0.9 MB; runners limit the size of an element."""


def unit_shards(run: Materialization) -> Iterator[tuple[int, int]]:
    """Yield ranges (first, end excluded) of numbers of units of work: blocks of chunks, or sets of roots."""
    yield from shards(ChunkBox((0, 0, 0), (run.plan.units, 1, 1)))


def units_of(first: int, last: int) -> Iterator[int]:
    """Yield the numbers from ``first`` to ``last`` - 1."""
    yield from range(first, last)


class _ScanFn(RunFn):
    def setup(self) -> None:
        self.run = self.run.whole()
        self.source = self.opened = self.run.units.open()

    def process(self, unit: int) -> Iterator[tuple[Key, bytes]]:
        rows = self.source.read(unit)
        count(units=1, nodes=len(rows))
        for partition, part in divide(rows, self.run.plan):
            for first in range(0, len(part), ELEMENT_ROWS):
                piece = part[first : first + ELEMENT_ROWS]
                yield (partition.layout, partition.number), piece.tobytes()


class _WriteFn(RunFn):
    def setup(self) -> None:
        self.writer = self.run.writer()

    def process(self, element: tuple[Key, Iterable[bytes]]) -> Iterator[str]:
        (layout, number), parts = element
        partition = Partition(layout, number)  # type: ignore[arg-type]
        written = read_done(self.run, partition)
        if written is None:
            written = self.writer.write(
                partition, lambda: (np.frombuffer(part, dtype=NODE_ROW) for part in parts)
            )
            put_done(self.run, partition, written)
        count(files=len(written.files))
        yield written.model_dump_json()


class _FinishFn(RunFn):
    def process(self, done: list[str]) -> Iterator[int]:
        manifest = finish(self.run.whole(), [Written.model_validate_json(text) for text in done])
        yield manifest.number


@dataclass
class ScanUnits(beam.PTransform):
    """Read the rows of each unit of work, which is a block of chunks or some roots.

    Returns pairs ((layout, number) of the partition, rows as bytes).
    """

    run: Materialization

    def expand(self, begin: Any) -> Any:
        return (
            begin
            | "Run" >> beam.Create([self.run])
            | "Shards" >> beam.FlatMap(unit_shards)
            | "Spread shards" >> beam.Reshuffle()
            | "Units" >> beam.FlatMapTuple(units_of)
            | "Spread units" >> beam.Reshuffle()
            | "Scan" >> beam.ParDo(_ScanFn(self.run)).with_output_types(tuple[tuple[str, int], bytes])
        )


@dataclass
class WriteManifest(beam.PTransform):
    """Write the manifest when all files are written; return the version's number."""

    run: Materialization

    def expand(self, written: Any) -> Any:
        return written | "List" >> beam.combiners.ToList() | "Manifest" >> beam.ParDo(_FinishFn(self.run))


def build(pipeline: Any, run: Materialization) -> Any:
    """Add the steps that make a version to a pipeline; return the version's number."""
    light = run.light()
    return (
        pipeline
        | "Scan units" >> ScanUnits(light)
        | "Write partitions" >> WriteGroups(_WriteFn(light))
        | "Write manifest" >> WriteManifest(light)
    )
