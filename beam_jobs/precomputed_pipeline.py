"""The Beam pipeline that exports a version: read rows, group them by shard, write the shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np

from l2features.pictures.static_export import PartWriter, StaticExport, WrittenPart
from l2features.pictures.static_finish import finish
from l2features.pictures.static_index import row_dtype

from .counters import count
from .transforms import RunFn, WriteGroups

ELEMENT_ROWS = 20_000
"""Maximum number of rows in a pipeline element, about 1 MB; runners limit the size of an element."""


class _ScanFn(RunFn):
    def setup(self) -> None:
        self.source = self.run.open()

    def process(self, unit: int) -> Iterator[tuple[int, bytes]]:
        for rows in self.source.scan(unit).values():
            count(rows=len(rows))
            parts, starts = np.unique(rows["part"], return_index=True)
            for part, own in zip(parts.tolist(), np.split(rows, starts[1:]), strict=True):
                for first in range(0, len(own), ELEMENT_ROWS):
                    yield part, own[first : first + ELEMENT_ROWS].tobytes()


class _WriteFn(RunFn):
    def setup(self) -> None:
        self.writer = self.opened = PartWriter(self.run)

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[str]:
        part, pieces = element
        dtype = row_dtype(self.run.index_of(part)[0].layer)
        written = self.run.read_done(part)
        if written is None:
            written = self.writer.write(part, (np.frombuffer(piece, dtype=dtype) for piece in pieces))
        count(files=1)
        yield written.model_dump_json()


class _FinishFn(RunFn):
    def process(self, done: list[str]) -> Iterator[int]:
        yield finish(self.run, [WrittenPart.model_validate_json(text) for text in done]).version


@dataclass
class ScanNodes(beam.PTransform):
    """Read the rows of each unit of work; return pairs (number of the rows' shard, rows as bytes).

    A unit is some rows of a version's file. If skeletons are exported, one more unit has their roots.
    """

    run: StaticExport

    def expand(self, begin: Any) -> Any:
        units = self.run.open().count
        return (
            begin
            | "Units" >> beam.Create(range(units), reshuffle=True)
            | "Scan" >> beam.ParDo(_ScanFn(self.run)).with_output_types(tuple[int, bytes])
        )


@dataclass
class WriteInfo(beam.PTransform):
    """Write the info files and the manifest when all shards are written; return the version's number."""

    run: StaticExport

    def expand(self, written: Any) -> Any:
        return written | "List" >> beam.combiners.ToList() | "Info" >> beam.ParDo(_FinishFn(self.run))


def build(pipeline: Any, run: StaticExport) -> Any:
    """Add an export to a pipeline; return the number of the exported version."""
    return (
        pipeline
        | "Scan nodes" >> ScanNodes(run)
        | "Write shards" >> WriteGroups(_WriteFn(run))
        | "Write info" >> WriteInfo(run)
    )
