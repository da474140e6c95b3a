"""Ingest one chunk from start to end, and sum up the results of a run."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..core.chunks import NO_FILES, FileCounts
from ..core.errors import StoreError
from ..core.geometry import Chunk, Geometry
from ..core.schema import FEATURES
from ..store.base import FAILED, ChunkRecord, Store
from ..store.rewrites import Rewriting
from .compute import ChunkFeatures, ChunkSource
from .steps import (
    GIVEN_UP,
    Ingest,
    clear_attempts,
    compute_chunk,
    failure_text,
    save_chunk,
    save_failure,
    save_given_up,
)

STEPS = ("read", "map", "compute", "write")
MAX_REASONS = 1_000
logger = logging.getLogger(__name__)


class ChunkResult(NamedTuple):
    """The record of an ingested chunk; ``millis`` has the milliseconds that each of `STEPS` took."""

    chunk: Chunk
    record: ChunkRecord
    millis: Mapping[str, float]


def failed_chunk(chunk: Chunk, reason: str) -> ChunkFeatures:
    """Return the result of a chunk that could not be computed: no features, and ``reason`` as the failure."""
    return ChunkFeatures(chunk, np.zeros(0, FEATURES), failure=reason)


def compute_or_fail(source: ChunkSource, chunk: Chunk) -> ChunkFeatures:
    """Return the features of a chunk. An exception fails the chunk, not the run."""
    try:
        return compute_chunk(source, chunk)
    except Exception as error:
        return failed_chunk(chunk, failure_text(chunk, error))


def save_result(
    store: Store,
    geometry: Geometry,
    result: ChunkFeatures,
    recorded: bool = True,
    rewriting: Rewriting | None = None,
) -> ChunkResult:
    """Write a chunk's rows and then, once they are durable, the chunk's record.

    A chunk that could not be computed gets only a record. Without ``recorded``, computed chunks get no
    record. ``rewriting`` tells readers of the table that rows may be replaced; all chunks of a process
    may share it. If the chunk cannot be written, raises StoreError and, unless the chunk was given up,
    resets the count of attempts at it.
    """
    start = time.perf_counter()
    try:
        record = _save(store, geometry, result, recorded, rewriting or Rewriting(store))
    except StoreError:
        if result.failure != GIVEN_UP:
            clear_attempts(store, geometry, result.chunk)
        raise
    if record.state == FAILED:
        logger.error("chunk %s failed: %s", result.chunk, record.reason)
    millis = {} if result.failure else result.millis | {"write": (time.perf_counter() - start) * 1e3}
    return ChunkResult(result.chunk, record, millis)


def _save(
    store: Store, geometry: Geometry, result: ChunkFeatures, recorded: bool, rewriting: Rewriting
) -> ChunkRecord:
    if result.failure == GIVEN_UP:
        return save_given_up(store, geometry, result.chunk)
    if result.failure:
        return save_failure(store, geometry, result.chunk, result.failure)
    with rewriting.open():
        return save_chunk(store, geometry, result, recorded)


def open_ingest(ingest: Ingest, recorded: bool = True) -> Callable[[Chunk], ChunkResult]:
    """Open volume, graph and store once; return the function that ingests a chunk. See `save_result`."""
    source, store = ingest.open_source(), ingest.open_store()
    rewriting = Rewriting(store)

    def ingest_chunk(chunk: Chunk) -> ChunkResult:
        return save_result(store, ingest.geometry, compute_or_fail(source, chunk), recorded, rewriting)

    return ingest_chunk


def give_up(geometry: Geometry, store: Store, chunk: Chunk, reason: str) -> ChunkResult:
    """Store a failure record for a chunk that killed its workers; return the chunk's result."""
    return save_result(store, geometry, failed_chunk(chunk, reason))


@dataclass
class Summary:
    """Sums over the chunks of a run.

    ``failed`` maps the first `MAX_REASONS` failed chunks to reasons. ``millis`` maps each step to its
    milliseconds, summed over all workers. ``saturated`` maps attributes to the number of nodes whose value
    is stored as the type's maximum.
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
        """Add the result of a chunk."""
        record = result.record
        self.nodes += record.nodes
        self.orphans += record.orphans
        self.millis.update(result.millis)
        self.files = self.files.plus(record.files)
        self.saturated.update(record.saturated)
        if record.state == FAILED:
            self.n_failed += 1
            if len(self.failed) < MAX_REASONS:
                self.failed[result.chunk] = record.reason
        else:
            self.done += 1
