"""The Beam pipeline of the batch ingest, and its PTransforms. The logic is in ``l2features``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np

from l2features.core.geometry import Chunk
from l2features.core.saturation import saturated_counts
from l2features.ingest.chunk_results import ChunkResult, compute_or_fail, failed_chunk, save_result
from l2features.ingest.compute import ChunkFeatures
from l2features.ingest.steps import ChunkRun, Ingest, begin_anew, begin_attempt
from l2features.store.base import FAILED
from l2features.store.rewrites import Rewriting

from .counters import count, measure


def observe(features: np.ndarray, millis: Mapping[str, float]) -> None:
    """Count, by attribute, nodes at the dtype's maximum (saturated); record the milliseconds of each step."""
    count(**{f"saturated_{name}": nodes for name, nodes in saturated_counts(features).items()})
    measure(**{f"{step}_ms": time for step, time in millis.items()})


class RunFn(beam.DoFn):
    """Base of DoFns with the settings of a run. ``teardown`` closes ``opened``, if a subclass has set it."""

    opened: Any = None

    def __init__(self, run: Any) -> None:
        self.run = run

    def teardown(self) -> None:
        if self.opened is not None:
            self.opened.close()


class StoreFn(RunFn):
    """Base of DoFns that hold a run and its open store."""

    def setup(self) -> None:
        self.store = self.opened = self.run.open_store()


@dataclass
class WriteGroups(beam.PTransform):
    """Group rows by key, and write each group with the DoFn ``write``; return the JSON texts it yields."""

    write: beam.DoFn

    def expand(self, rows: Any) -> Any:
        written = beam.ParDo(self.write).with_output_types(str)
        return rows | "Group" >> beam.GroupByKey() | "Write" >> written


class _PendingFn(StoreFn):
    """Yields the chunks of a shard that must be computed; a shard is a range of the run's chunks."""

    def process(self, shard: tuple[int, int]) -> Iterator[Chunk]:
        chunks = self.run.pending(self.store, *shard)
        begin_anew(self.store, self.run.chunk_ids(*shard))
        count(chunks_done_before=shard[1] - shard[0] - len(chunks))
        yield from chunks


@dataclass
class EnumerateChunks(beam.PTransform):
    """Return the chunks of a run that must be processed, in random order; workers enumerate them.

    A shard is a range of the run's chunks: positions (first, end) in ``run.box``, without ``end``. For each
    shard, the transform ``pending`` returns the chunks that must be processed.
    """

    run: ChunkRun
    pending: beam.PTransform

    def expand(self, begin: Any) -> Any:
        return (
            begin
            | "Run" >> beam.Create([self.run])
            | "Shards" >> beam.FlatMap(ChunkRun.shards)
            | "Spread shards" >> beam.Reshuffle()
            | "Pending chunks" >> self.pending
            | "Spread chunks" >> beam.Reshuffle()
        )


def pending_chunks(ingest: Ingest) -> EnumerateChunks:
    """Return the transform that enumerates the chunks to compute in an ingest."""
    return EnumerateChunks(ingest, beam.ParDo(_PendingFn(ingest)))


class _ComputeFn(StoreFn):
    def __init__(self, ingest: Ingest, counted: bool) -> None:
        super().__init__(ingest)
        self.counted = counted

    def setup(self) -> None:
        super().setup()
        self.source = self.run.open_source()

    def process(self, chunk: Chunk) -> Iterator[ChunkFeatures]:
        given_up = self.counted and begin_attempt(self.store, self.run.geometry, chunk)
        if given_up:
            yield failed_chunk(chunk, given_up)
            return
        result = compute_or_fail(self.source, chunk)
        if not result.failure:
            _count_chunk(result)
        yield result


def _count_chunk(result: ChunkFeatures) -> None:
    nodes = len(result.features)
    count(chunks=1, empty_chunks=int(nodes == 0), nodes=nodes, orphan_supervoxels=result.orphans)
    count(**{f"files_{name}": files for name, files in result.files._asdict().items()})
    observe(result.features, result.millis)


@dataclass
class ComputeFeatures(beam.PTransform):
    """Return the `ChunkFeatures` of each chunk, with the reason if the chunk failed.

    With ``counted``, the store counts each attempt at a chunk before it begins, and a chunk that killed or
    hung its process three times fails.
    """

    ingest: Ingest
    counted: bool = False

    def expand(self, chunks: Any) -> Any:
        return chunks | "Compute" >> beam.ParDo(_ComputeFn(self.ingest, self.counted))


class _WriteFn(StoreFn):
    def setup(self) -> None:
        super().setup()
        self.rewriting = Rewriting(self.store)

    def process(self, result: ChunkFeatures) -> Iterator[ChunkResult]:
        saved = save_result(self.store, self.run.geometry, result, rewriting=self.rewriting)
        if saved.record.state == FAILED:
            count(failed_chunks=1)
        if not result.failure:
            measure(write_ms=saved.millis["write"])
            count(rows_written=len(result.features))
        yield saved


@dataclass
class WriteFeatures(beam.PTransform):
    """Write the rows of each chunk, then its record; returns a `ChunkResult` per chunk.

    A store that cannot be written fails the pipeline.
    """

    ingest: Ingest

    def expand(self, features: Any) -> Any:
        return features | "Write" >> beam.ParDo(_WriteFn(self.ingest))


class _DirectRowsFn(_WriteFn):
    """Turns features into the legacy Bigtable client's rows, as Beam's connector expects."""

    def process(self, result: ChunkFeatures) -> Iterator[Any]:
        from l2features.store.bigtable.cells import direct_rows

        if result.failure:
            list(super().process(result))
        else:
            with self.rewriting.open():
                yield from direct_rows(result.features)


@dataclass
class WriteByBigtableIO(beam.PTransform):
    """Write rows to Bigtable with Beam's own connector; only failed chunks get a record in the store."""

    ingest: Ingest

    def expand(self, features: Any) -> Any:
        from apache_beam.io.gcp.bigtableio import WriteToBigTable

        dataset = self.ingest.dataset
        project, instance = dataset.store.removeprefix("bigtable://").strip("/").split("/")
        return (
            features
            | "Direct rows" >> beam.ParDo(_DirectRowsFn(self.ingest))
            | "WriteToBigTable" >> WriteToBigTable(project, instance, dataset.l2cache_id)
        )


def build(
    pipeline: Any, ingest: Ingest, chunks: beam.PTransform, recorded: bool = True, counted: bool = False
) -> Any:
    """Add the ingest of ``chunks`` to a pipeline; return the output of the sink.

    Args:
        recorded: store a record of each chunk, and return its `ChunkResult`. Otherwise, Beam's connector
            writes the rows, and only failed chunks get a record.
        counted: count attempts before they begin, for runners that retry after a process dies. A chunk that
            killed or hung its process three times fails.
    """
    write = WriteFeatures(ingest) if recorded else WriteByBigtableIO(ingest)
    compute = ComputeFeatures(ingest, counted)
    return pipeline | "Chunks" >> chunks | "Compute features" >> compute | "Write features" >> write
