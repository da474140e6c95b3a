"""Steps of the batch ingest: prepare a run, compute and save a chunk, count attempts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

import tenacity

from ..config.datasets import Dataset
from ..config.reach import check_bigtable
from ..core.chunks import ChunkBox, whole_box
from ..core.errors import (
    ConfigError,
    GraphError,
    L2FeaturesError,
    StoreError,
    TableNotFound,
    VolumeError,
    typed_message,
)
from ..core.geometry import Chunk, Geometry, Triple
from ..core.ids import Ids
from ..core.saturation import likely_saturated, saturated_counts
from ..core.times import EXPECTED_TIME, format_time, parse_time
from ..graph.sources import source_of
from ..store.base import DONE, FAILED, ChunkRecord, Meta, Store, open_store
from ..store.segment_index import start_index
from .compute import ChunkFeatures, ChunkSource, read_geometry
from .source import open_source

ATTEMPTS = 3
"""Maximum attempts to read and compute a chunk."""
SHARD_CHUNKS = 1_000
MAX_REASON = 2_000
GIVEN_UP = f"killed or hung its process {ATTEMPTS} times"
"""Reason why a chunk or a message is given up: each attempt began, but never ended."""
AGAIN = f"{GIVEN_UP}; is tried again"
"""Reason in the record of a chunk that was given up, while a later run retries the chunk."""
T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChunkRun:
    """A run over the chunks of ``box``. This object is small, so that it can be sent to every worker."""

    dataset: Dataset
    geometry: Geometry
    box: ChunkBox

    def open_store(self) -> Store:
        return open_store(self.dataset.store, self.dataset.l2cache_id)

    def shards(self) -> Iterator[tuple[int, int]]:
        """Yield the shards of ``box`` as pairs of positions; see the function `shards`."""
        return shards(self.box)

    def chunk_ids(self, first: int, last: int) -> Ids:
        """Return the ids of the chunks at the positions ``first`` to ``last - 1`` in ``box``."""
        return self.geometry.layout.chunk_id_array(self.box.positions(first, last))

    def chunks(self, first: int, last: int) -> list[Chunk]:
        """Return the chunks at the positions ``first`` to ``last - 1`` in ``box``."""
        return [Chunk(*xyz) for xyz in self.box.positions(first, last).tolist()]


@dataclass(frozen=True)
class Ingest(ChunkRun):
    """One run of the batch ingest."""

    meta: Meta
    recompute: bool = False
    retry_missing: bool = False

    def open_source(self) -> ChunkSource:
        return ChunkSource(self.dataset, self.geometry, self.meta.time)

    def pending(self, store: Store, first: int, last: int) -> list[Chunk]:
        """Return the chunks of a shard that must be computed: those that are not done.

        With ``retry_missing``, also those that are done but had missing or empty files. With ``recompute``,
        all chunks of the shard.
        """
        chunks = self.chunks(first, last)
        if self.recompute:
            return chunks
        chunk_ids = self.chunk_ids(first, last)
        wanted = store.chunk_states(chunk_ids) != DONE
        if self.retry_missing:
            wanted |= store.incomplete_chunks(chunk_ids)
        return [chunk for chunk, compute in zip(chunks, wanted.tolist(), strict=True) if compute]


def shards(box: ChunkBox) -> Iterator[tuple[int, int]]:
    """Yield the shards of a box, of at most `SHARD_CHUNKS` chunks each, as pairs (first, end).

    A shard has the chunks at the positions ``first`` to ``end - 1``; see `ChunkBox.positions`.
    """
    for first in range(0, len(box), SHARD_CHUNKS):
        yield first, min(first + SHARD_CHUNKS, len(box))


def prepare(
    dataset: Dataset,
    timestamp: str | None = None,
    create: bool = False,
    choose_box: Callable[[Triple], ChunkBox] = whole_box,
) -> Ingest:
    """Return the ingest of a data set; ``choose_box`` returns the chunks to ingest, given the grid's shape.

    With ``create``, creates the table if it is missing. Raises VolumeError, GraphError or StoreError if
    segmentation, graph or table cannot be opened. Raises ConfigError or StoreError if the options or the data
    set contradict the table, for example if the table has another timestamp.
    """
    check_bigtable(dataset.store)
    check_bigtable(dataset.graph, GraphError)
    with closing(open_store(dataset.store, dataset.l2cache_id)) as store:
        there = _existing_meta(store, dataset, create)
        with closing(open_source(dataset)) as source:
            geometry = read_geometry(dataset, there.geometry if there else None, source)
            if placeholder := source.volume.placeholder():
                logger.warning("%s", placeholder)
        box = choose_box(geometry.grid)
        meta = _settle(dataset, there, timestamp, geometry)
        if there is None and create:
            for warning in likely_saturated(geometry):
                logger.warning("%s", warning)
            store.create(meta)
        elif there != meta:
            store.stamp(meta)
        if not dataset.has_graph:
            start_index(store)
    return Ingest(dataset, geometry, box, meta)


def _existing_meta(store: Store, dataset: Dataset, create: bool) -> Meta | None:
    try:
        return store.meta()
    except TableNotFound as error:
        if create:
            return None
        raise TableNotFound(
            f"data set {dataset.name!r}: table {store.name} is not in {store.url}: create it with --create"
        ) from error


def _settle(dataset: Dataset, there: Meta | None, timestamp: str | None, geometry: Geometry) -> Meta:
    """Return the metadata to store in the table; ``there`` is the stored metadata, if any.

    Raises ConfigError if ``timestamp`` differs from the stored one, or is None for a data set with a graph
    and no stored metadata. Raises StoreError if the stored metadata has another graph or geometry than the
    data set, or, for a data set without a graph, another segmentation.
    """
    where = f"data set {dataset.name!r}: table {dataset.l2cache_id}"
    asked = None if timestamp is None else format_time(time_of_graph(dataset, timestamp))
    if asked and parse_time(asked) > datetime.now(UTC):
        logger.warning("timestamp %s is in the future: edits until then make chunks inconsistent", asked)
    if there is None:
        if asked is None and dataset.has_graph:
            raise ConfigError(f"{where} has no timestamp: expected --timestamp with {EXPECTED_TIME}")
        now = format_time(datetime.now(UTC).replace(microsecond=0))
        return Meta(dataset.graph_id, dataset.cv_path, asked or now, geometry)
    if asked not in (None, format_time(there.time)):
        raise ConfigError(
            f"{where} has timestamp {there.timestamp}, not {asked}: omit --timestamp, or give the table's"
        )
    if there.graph_id != dataset.graph_id:
        raise StoreError(
            f"{where} is of graph {there.graph_id!r}, but the data set has graph {dataset.graph_id!r}"
        )
    if not dataset.has_graph and there.cv_path != dataset.cv_path:
        raise StoreError(f"{where} is of {there.cv_path}, but the data set has cv_path {dataset.cv_path}")
    if there.geometry not in (None, geometry):
        raise StoreError(f"{where} has geometry {there.geometry}, but the data set has {geometry}")
    return replace(there, geometry=geometry)


def time_of_graph(dataset: Dataset, timestamp: str) -> datetime:
    """Parse a timestamp; round it up to the graph's precision. Raises ConfigError if it is invalid."""
    return source_of(dataset.graph_url).readable_time(parse_time(timestamp))


def begin_attempt(store: Store, geometry: Geometry, chunk: Chunk) -> str:
    """Count an attempt at a chunk before it begins; return why the chunk is given up, or "".

    Writing the chunk's record resets the count. A chunk that was given up keeps its count until `begin_anew`.
    """
    [attempts] = store.count_attempts(geometry.chunk_id(chunk))
    return GIVEN_UP if attempts > ATTEMPTS else ""


def save_given_up(store: Store, geometry: Geometry, chunk: Chunk) -> ChunkRecord:
    """Record that a chunk is given up. If Beam retries the bundle, the chunk is not attempted again."""
    record = save_failure(store, geometry, chunk, GIVEN_UP)
    for _ in range(ATTEMPTS):
        store.count_attempts(record.chunk_id)
    return record


def begin_anew(store: Store, chunk_ids: Ids) -> None:
    """Allow new attempts at chunks that were given up, if the run that gave them up has ended.

    A run has ended once each of ``chunk_ids`` has a record, and none still waits for its retry. Until then,
    chunks that were given up stay given up: if chunks that kill their workers were retried, the run might
    never end.
    """
    reasons = store.failures(chunk_ids)
    given_up = [chunk_id for chunk_id, reason in reasons.items() if reason == GIVEN_UP]
    if given_up and AGAIN not in reasons.values() and (store.chunk_states(chunk_ids) != "").all():
        for chunk_id in given_up:
            _put_failure(store, chunk_id, AGAIN)


def clear_attempts(store: Store, geometry: Geometry, chunk: Chunk) -> None:
    """Reset the count of attempts at a chunk that could not be written.

    A failed write does not count: the count is for attempts that kill or hang their process.
    """
    try:
        store.clear_attempts(geometry.chunk_id(chunk))
    except StoreError as error:
        logger.warning("chunk %s: cannot reset the count of attempts: %s", chunk, error)


def in_attempts(do: Callable[[], T], *transient: type[Exception]) -> T:
    """Return the result of ``do``; retry errors of the types ``transient`` with exponential backoff.

    After `ATTEMPTS` attempts, the error is raised.
    """
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential_jitter(initial=0.2, max=10),
        retry=tenacity.retry_if_exception_type(transient),
        reraise=True,
    )
    return retrying(do)


def compute_chunk(source: ChunkSource, chunk: Chunk) -> ChunkFeatures:
    """Return the features of a chunk. VolumeError and GraphError are retried, up to `ATTEMPTS` attempts."""
    return in_attempts(lambda: source.compute(chunk), VolumeError, GraphError)


def save_chunk(store: Store, geometry: Geometry, result: ChunkFeatures, recorded: bool = True) -> ChunkRecord:
    """Write a chunk's rows and then, when they are durable, its record; return the record.

    Without a graph, each computation numbers the nodes anew, so rows left by an earlier computation are
    removed. Without ``recorded``, only rows are written.
    """
    store.write(result.features)
    if recorded and result.segments is not None:
        chunk_id = geometry.chunk_id(result.chunk)
        store.delete(chunk_id + len(result.features) + 1, geometry.layout.last_id(chunk_id))
    record = ChunkRecord(
        geometry.chunk_id(result.chunk),
        FAILED if result.errors else DONE,
        datetime.now(UTC),
        len(result.features),
        result.orphans,
        "; ".join(result.errors)[:MAX_REASON],
        result.files,
        saturated_counts(result.features),
    )
    if recorded:
        store.put_chunk(record, result.segments)
    return record


def failure_text(chunk: Chunk, error: Exception) -> str:
    """Return why a chunk failed; log the traceback of an unexpected error."""
    if isinstance(error, L2FeaturesError):
        return str(error).removeprefix(f"chunk {chunk}: ")
    logger.error("chunk %s: unexpected error", chunk, exc_info=error)
    return typed_message(error)


def save_failure(store: Store, geometry: Geometry, chunk: Chunk, reason: str) -> ChunkRecord:
    """Record why a chunk could not be computed. Keeps the chunk's stored segment ids."""
    return _put_failure(store, geometry.chunk_id(chunk), reason)


def _put_failure(store: Store, chunk_id: int, reason: str) -> ChunkRecord:
    record = ChunkRecord(chunk_id, FAILED, datetime.now(UTC), reason=reason[:MAX_REASON])
    store.put_chunk(record, store.segments(chunk_id))
    return record
