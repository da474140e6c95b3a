"""The audit of a chunk: compare the nodes of the graph with the rows of the store, and repair."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from ..config.datasets import Dataset
from ..config.reach import check_bigtable
from ..core.chunks import ChunkBox, whole_box
from ..core.errors import ConfigError, GraphError, StoreUnavailable, VolumeError
from ..core.geometry import Chunk, Geometry, Triple
from ..core.ids import Ids, as_ids
from ..core.schema import NAMES, SIZE
from ..ingest.agreement import check_geometry
from ..ingest.compute import read_geometry
from ..ingest.node_features import NodeSource
from ..ingest.source import open_dataset_graph, open_source
from ..ingest.steps import ATTEMPTS, GIVEN_UP, ChunkRun, in_attempts, time_of_graph
from ..store.base import Store, open_store

REPAIR = "repair"
"""Name under which the store counts attempts at a chunk's repair."""


@dataclass(frozen=True)
class ChunkAudit:
    """The result of a chunk's audit. All arrays are sorted ids.

    Attributes:
        recorded: state of the chunk's ingest; "" without a record.
        expected: nodes that should have a row, according to the graph.
        present: ids of all rows; a row without ``size_nm3`` does not count, here and below.
        missing: expected nodes without a row.
        superfluous: ids of rows whose node never existed in the graph.
        other: ids of rows whose node exists in the graph, but is not valid at the audited time.
        empty: expected nodes whose row has no features, because they could not be computed.
        repaired: missing nodes that have a row now.
        failed: by missing node, why it could not be repaired.
        problem: why the whole repair failed, or "".
        files_missing: whether the chunk was ingested with files missing.
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
class Audit(ChunkRun):
    """One run of the audit.

    With ``time``, the nodes that are valid at that time are expected; without it, all nodes that ever
    existed. With ``counted``, the store counts the attempts at a chunk's repair, and repairs that keep
    killing their process are given up.
    """

    time: datetime | None = None
    repair: bool = False
    counted: bool = False

    def open_source(self) -> AuditSource:
        return AuditSource(self)


def prepare_audit(
    dataset: Dataset,
    timestamp: str | None = None,
    repair: bool = False,
    choose_box: Callable[[Triple], ChunkBox] = whole_box,
) -> Audit:
    """Return the audit of a data set, after checks that change nothing.

    Before any chunk is read, raises ConfigError if the data set contradicts the options or the table, and
    VolumeError, GraphError or StoreError if segmentation, graph or table cannot be opened.
    """
    if timestamp is not None and not dataset.has_graph:
        raise ConfigError(
            f"--timestamp {timestamp}: data set {dataset.name!r} has no graph: expected no timestamp"
        )
    time = None if timestamp is None else time_of_graph(dataset, timestamp)
    check_bigtable(dataset.store)
    check_bigtable(dataset.graph, GraphError)
    with closing(open_store(dataset.store, dataset.l2cache_id)) as store:
        geometry = store.geometry()
    if geometry is None or repair or dataset.graph_url == dataset.cv_path:
        with closing(open_source(dataset)) as source:
            geometry = geometry or read_geometry(dataset, source=source)
            check_geometry(dataset, source.volume, geometry)
    else:
        with closing(open_dataset_graph(dataset)) as graph:
            graph.check()
    return Audit(dataset, geometry, choose_box(geometry.grid), time, repair)


class AuditSource:
    """Audits chunks of one data set. Opens store and graph once, and the segmentation at the first repair."""

    def __init__(self, audit: Audit) -> None:
        self.audit, self.geometry = audit, audit.geometry
        self.store = audit.open_store()
        self.graph = open_dataset_graph(audit.dataset)
        self._nodes: NodeSource | None = None

    def look(self, chunk: Chunk) -> ChunkAudit:
        """Compare a chunk's nodes in the graph with its rows in the store. Raises GraphError or StoreError.

        Reads the store before the graph. In the other order, the row of a node created between the two reads
        could count as superfluous.
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
        """Compute and write a chunk's missing rows.

        Raises VolumeError, GraphError or StoreError if segmentation, graph or store cannot be used.
        """
        if not len(found.missing):
            return found
        if not self.audit.counted:
            return self._repair(found)
        chunk_id = self.geometry.chunk_id(found.chunk)
        try:
            [attempts] = self.store.count_attempts(chunk_id, [REPAIR])
            return self._repair(found) if attempts <= ATTEMPTS else replace(found, problem=GIVEN_UP)
        finally:  # the process lives, whatever is raised
            self.store.clear_attempts(chunk_id, [REPAIR])

    def _repair(self, found: ChunkAudit) -> ChunkAudit:
        self._nodes = self._nodes or NodeSource(self.audit.dataset, self.geometry)
        result = self._nodes.compute(found.chunk, found.missing)
        self.store.write(result.features)
        unknown = dict.fromkeys(result.unknown.tolist(), "the graph has no supervoxels for it")
        repaired = result.features["label"].copy()
        unsure = dict.fromkeys(result.unsure.tolist(), result.unsure_why)
        return replace(found, repaired=repaired, failed=result.errors | unknown | unsure)

    def close(self) -> None:
        """Close all connections."""
        for source in (self.store, self.graph, self._nodes):
            if source is not None:
                source.close()


def audit_chunk(source: AuditSource, chunk: Chunk) -> ChunkAudit:
    """Audit a chunk; if the audit has ``repair``, also write missing rows.

    The comparison and the repair are each tried up to `ATTEMPTS` times.

    Raises GraphError or StoreError. If segmentation or graph fail during the repair, the reason is in the
    result's ``problem``.
    """
    transient = (VolumeError, GraphError, StoreUnavailable)
    found = in_attempts(lambda: source.look(chunk), *transient)
    if not source.audit.repair:
        return found
    try:
        return in_attempts(lambda: source.repair(found), *transient)
    except (VolumeError, GraphError) as error:
        return replace(found, problem=str(error))


def recorded_state(store: Store, geometry: Geometry, chunk: Chunk) -> str:
    """Return the state of a chunk's ingest; "" without a record."""
    return str(store.chunk_states(as_ids([geometry.chunk_id(chunk)]))[0])


def _without(ids: Ids, others: Ids) -> Ids:
    """Return the ids that are not in ``others``; both are sorted and unique."""
    return np.setdiff1d(ids, others, assume_unique=True)
