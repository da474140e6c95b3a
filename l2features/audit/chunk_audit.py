"""The audit: what the graph says a chunk should have, against what the store has; and its repair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
import tenacity

from ..config.datasets import Dataset
from ..config.reach import check_bigtable
from ..core.chunks import ChunkBox, whole_box
from ..core.errors import ConfigError, GraphError, StoreUnavailable, TableNotFound, VolumeError
from ..core.geometry import Chunk, Geometry, Triple
from ..core.ids import Ids, as_ids
from ..core.schema import NAMES, SIZE
from ..ingest.agreement import check_geometry
from ..ingest.compute import read_geometry
from ..ingest.node_features import NodeSource
from ..ingest.source import open_dataset_graph, open_source
from ..ingest.steps import ATTEMPTS, GIVEN_UP, shards, time_of_graph
from ..store.base import Store, open_store

REPAIR = "repair"
"""The name of attempts at a chunk's repair in its store."""


@dataclass(frozen=True)
class ChunkAudit:
    """What a chunk should have and has; every array is of ids, sorted.

    ``expected`` are the nodes that the graph has, ``present`` all rows of the chunk, ``missing`` the expected
    ones without a row. ``superfluous`` rows are of ids that the graph never had, ``other`` ones of its nodes
    of other times. ``empty`` are expected nodes whose row says "could not compute". ``repaired`` are missing
    ones that now have a row; ``failed`` says of an id why it could not be repaired, ``problem`` why none
    could. ``recorded`` is the state of the chunk's ingest, empty where there is none; ``files_missing`` says
    that it is done, but files of the segmentation were missing.
    """

    chunk: Chunk
    recorded: str
    expected: Ids
    present: Ids
    missing: Ids
    superfluous: Ids
    other: Ids
    empty: Ids
    repaired: Ids = field(default_factory=lambda: as_ids([]))
    failed: dict[int, str] = field(default_factory=dict)
    problem: str = ""
    files_missing: bool = False


@dataclass(frozen=True)
class Audit:
    """One run of the audit, small enough to travel to every worker.

    Without ``time`` every node that was ever made is expected, else those that are valid at that time. Where
    the runner repeats what kills a process, attempts at repairs are ``counted``.
    """

    dataset: Dataset
    geometry: Geometry
    box: ChunkBox
    time: datetime | None = None
    repair: bool = False
    counted: bool = False

    def open_source(self) -> AuditSource:
        return AuditSource(self)

    def open_store(self) -> Store:
        return open_store(self.dataset.store, self.dataset.l2cache_id)

    def shards(self) -> Iterator[tuple[int, int]]:
        """Parts of the order of chunks, as (first, last) positions."""
        return shards(self.box)

    def chunks(self, first: int, last: int) -> list[Chunk]:
        """The chunks of a shard."""
        return [Chunk(*xyz) for xyz in self.box.positions(first, last).tolist()]


def prepare_audit(
    dataset: Dataset,
    timestamp: str | None = None,
    repair: bool = False,
    choose_box: Callable[[Triple], ChunkBox] = whole_box,
) -> Audit:
    """Settle what an audit of a data set looks at. Nothing is changed.

    Raises ConfigError, VolumeError, GraphError or StoreError before any chunk is looked at.
    """
    if timestamp is not None and not dataset.has_graph:
        raise ConfigError(f"data set {dataset.name!r} has no graph: a timestamp means nothing to it")
    time = None if timestamp is None else time_of_graph(dataset, timestamp)
    check_bigtable(dataset.store)
    check_bigtable(dataset.graph, GraphError)
    store = open_store(dataset.store, dataset.l2cache_id)
    try:
        geometry = store.geometry()
    finally:
        store.close()
    if geometry is None or repair or dataset.graph_url == dataset.cv_path:
        with closing(open_source(dataset)) as source:
            geometry = geometry or read_geometry(dataset, source=source)
            check_geometry(dataset, source.volume, geometry)
    else:
        with closing(open_dataset_graph(dataset)) as graph:
            graph.check()
    return Audit(dataset, geometry, choose_box(geometry.grid), time, repair)


class AuditSource:
    """Audits chunks of one data set; opens its store and graph once, its volume for the first repair."""

    def __init__(self, audit: Audit) -> None:
        self.audit, self.geometry = audit, audit.geometry
        self.store = audit.open_store()
        self.graph = open_dataset_graph(audit.dataset)
        self._nodes: NodeSource | None = None

    def look(self, chunk: Chunk) -> ChunkAudit:
        """Compare the graph with the store. Raises GraphError or StoreError.

        The store is read first: what it has of nodes that are made meanwhile is not taken for superfluous.
        """
        chunk_id, time = self.geometry.chunk_id(chunk), self.audit.time
        rows = self.store.scan_chunk(chunk_id, self.geometry.layout.last_id(chunk_id), [SIZE])
        rows = rows.take(np.flatnonzero(rows.present[:, NAMES.index(SIZE)]))
        expected = self.graph.nodes(self.geometry, chunk, time)
        unexpected = _without(rows.ids, expected)
        known = as_ids([])
        if time is not None and len(unexpected):
            known = self.graph.nodes(self.geometry, chunk)
        superfluous = _without(unexpected, known)
        return ChunkAudit(
            chunk,
            recorded_state(self.store, self.geometry, chunk),
            expected,
            rows.ids,
            _without(expected, rows.ids),
            superfluous,
            _without(unexpected, superfluous),
            _without(rows.ids[rows.not_computed], unexpected),
            files_missing=bool(self.store.incomplete_chunks(as_ids([chunk_id]))[0]),
        )

    def repair(self, found: ChunkAudit) -> ChunkAudit:
        """Compute and write what is missing. Raises VolumeError, GraphError or StoreError."""
        if not len(found.missing):
            return found
        if not self.audit.counted:
            return self._repair(found)
        chunk_id = self.geometry.chunk_id(found.chunk)
        try:
            [attempts] = self.store.count_attempts(chunk_id, [REPAIR])
            return self._repair(found) if attempts <= ATTEMPTS else replace(found, problem=GIVEN_UP)
        finally:  # whatever is raised, the process lives
            self.store.clear_attempts(chunk_id, [REPAIR])

    def _repair(self, found: ChunkAudit) -> ChunkAudit:
        if self._nodes is None:
            self._nodes = NodeSource(self.audit.dataset, self.geometry)
        result = self._nodes.compute(found.chunk, found.missing)
        self.store.write(result.features)
        unknown = dict.fromkeys(result.unknown.tolist(), "the graph does not say its supervoxels")
        repaired = result.features["label"].copy()
        unsure = dict.fromkeys(result.unsure.tolist(), result.unsure_why)
        return replace(found, repaired=repaired, failed=result.errors | unknown | unsure)

    def close(self) -> None:
        """Let go of connections."""
        for source in (self.store, self.graph, self._nodes):
            if source is not None:
                source.close()


def audit_chunk(source: AuditSource, chunk: Chunk) -> ChunkAudit:
    """The audit of a chunk and, in a run of repair, its repair; each in up to `ATTEMPTS` attempts.

    Raises GraphError or StoreError. Where only the repair fails, the result says why.
    """
    found = _in_attempts(lambda: source.look(chunk))
    if not source.audit.repair:
        return found
    try:
        return _in_attempts(lambda: source.repair(found))
    except (VolumeError, GraphError) as error:
        return replace(found, problem=str(error))


def _in_attempts(do: Callable[[], ChunkAudit]) -> ChunkAudit:
    for attempt in tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential_jitter(initial=0.2, max=10),
        retry=tenacity.retry_if_exception_type((VolumeError, GraphError, StoreUnavailable)),
        reraise=True,
    ):
        with attempt:
            return do()
    raise AssertionError("unreachable")


def recorded_state(store: Store, geometry: Geometry, chunk: Chunk) -> str:
    """The state of a chunk's ingest; empty where there is none."""
    return str(store.chunk_states(as_ids([geometry.chunk_id(chunk)]))[0])


def is_of_chunk(error: Exception) -> bool:
    """Whether only the chunk that caused an error cannot be audited, and not the store as a whole."""
    return not isinstance(error, (StoreUnavailable, TableNotFound))


def _without(ids: Ids, others: Ids) -> Ids:
    """The ids that are not among others; both are sorted and unique."""
    return np.setdiff1d(ids, others, assume_unique=True)
