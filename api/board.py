"""A data set's state for its dashboard. Background threads read it; slow parts are read less often."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

import numpy as np
from isal import isal_zlib

from l2features.core.errors import GraphError, StoreError, TableNotFound
from l2features.core.geometry import Chunk
from l2features.core.ids import as_ids
from l2features.overview.chunk_scan import kept_scan
from l2features.overview.node_sample import ROOTS_TRIED, NodeSample, example_root, sample_nodes
from l2features.store.notes import last_audit, note_or_problem
from l2features.updates.freshness import read_updates
from l2features.updates.lag_history import read_history

from .background import BackgroundCache
from .board_parts import Notes, map_info, progress_info, sample_info
from .board_schemas import AuditInfo, BoardInfo, CellInfo, FailedChunk, HistoryInfo, SampleInfo, VersionsInfo
from .board_text import all_lines
from .error_responses import ApiError
from .first_commands import Example
from .operations import problem_text
from .request_rates import RequestRates
from .schemas import UpdatesInfo
from .served_datasets import ServedDataset

FIRST_S, LATER_S = 2.0, 0.3
"""Time that a request waits for the first value of a part of the state, and for a newer value."""
NOTES_EVERY_S, STATE_EVERY_S = 5.0, 2.0
"""Age at which the table's notes on updates and audits are read again, and at which a state is made again."""
LOOKED_UP, LISTED = 4096, 20
"""Maximum number of chunks of a cell whose failures are looked up, and of failures that are returned."""
log = logging.getLogger("l2features.api")
T = TypeVar("T")


class Kept(NamedTuple):
    """The state of a data set, its JSON body (plain and gzipped), and the body's ETag."""

    info: BoardInfo
    body: bytes
    zipped: bytes
    etag: str


class Board:
    """Reads and caches the state of one data set."""

    def __init__(self, served: ServedDataset, requests: RequestRates) -> None:
        self.served, self._requests = served, requests
        self.problem: str | None = None
        self._scanned = self._cache(served.scan, age_s=10.0, share=40.0)
        self._noted = self._cache(self._read_notes, age_s=NOTES_EVERY_S)
        self._sampled = self._cache(self._sample, age_s=120.0)
        self._found = self._cache(self._find_example, age_s=120.0)
        self._versioned = self._cache(self._versions, age_s=15.0)
        self._kept = BackgroundCache(
            self._keep, age_s=STATE_EVERY_S, share=10.0, first_s=2 * FIRST_S, later_s=LATER_S
        )

    def _cache(
        self, read: Callable[[], T | None], age_s: float, share: float = 20.0
    ) -> BackgroundCache[T | None]:
        kept = partial(self._unless_gone, read)
        return BackgroundCache(kept, age_s=age_s, share=share, first_s=FIRST_S, later_s=LATER_S)

    def kept(self) -> Kept:
        """Return the cached state. Raises ApiError 503 before the first state is read."""
        if (kept := self._kept.get()) is None:
            message = f"the state of data set {self.served.name!r} is not known yet: try again later"
            raise ApiError(503, "metadata_unavailable", message, retry_after=2)
        return kept

    def begin(self) -> Future[Example | None] | None:
        """Start a search for an example node if one is due; return the running search's future, or None."""
        return self._found.refresh()

    def example(self) -> Example | None:
        """Return a node with features and, if known, its root; None until a node is known. Never waits."""
        return self._found.peek()

    def cell(self, plane: str, column: int, row: int) -> CellInfo:
        """Return a cell of the chunk map: chunk counts by state, and up to 20 failed chunks with reasons.

        Raises ApiError 404 for a cell outside the map, ApiError 503 before the chunks are counted, and
        StoreError.
        """
        scan = self._scanned.get()
        if scan is None:
            message = f"the chunks of data set {self.served.name!r} are not counted yet: try again later"
            raise ApiError(503, "metadata_unavailable", message, retry_after=2)
        try:
            box = scan.map.box(plane, column, row)
        except IndexError as error:
            raise ApiError(404, "unknown_cell", str(error), field="column", value=column) from error
        projection, layout = scan.map.planes[plane], scan.map.geometry.layout
        example = projection.failed[column, row : row + 1]
        ids = np.concatenate([example, layout.chunk_id_array(box.positions(0, LOOKED_UP))])
        found = self.served.store.failures(np.unique(ids[ids > 0]))
        chunks = layout.chunk_coordinates(as_ids(list(found))).tolist()
        listed = sorted(zip((Chunk(*xyz) for xyz in chunks), found.values(), strict=True))[:LISTED]
        done, failed, empty = projection.counts[:, column, row].tolist()
        return CellInfo(
            chunks=str(box),
            total=len(box),
            done=done,
            failed=failed,
            empty=empty,
            failures=[FailedChunk(chunk=str(chunk), reason=reason) for chunk, reason in listed],
        )

    # ------------------------------------------------------------------ reads
    def _unless_gone(self, read: Callable[[], T | None]) -> T | None:
        """Return the result of ``read``; None if the table is missing or its metadata is not known."""
        try:
            return read()
        except (TableNotFound, ApiError):
            return None

    def _read_notes(self) -> Notes:
        """Read the table's notes on updates and audits; set ``problem`` to the error, None on success."""
        store, now = self.served.store, datetime.now(UTC)
        try:
            store.ping()
            unreadable = dict[str, str]()
            updates = note_or_problem("updates", partial(read_updates, store), unreadable)
            history = note_or_problem("history", partial(read_history, store), unreadable)
            audit = note_or_problem("audit", partial(last_audit, store), unreadable)
            self.served.opened()
        except (StoreError, ApiError) as error:
            self.problem = problem_text(error)
            raise
        self.problem = None
        return Notes(updates, history, audit, unreadable, now)

    def _sample(self) -> SampleInfo:
        """Sample nodes from the chunks that are known to have nodes; from any chunks if none is known."""
        scan, geometry = self._scanned.get(), self.served.opened().reader.geometry
        nodes = sample_nodes(self.served.store, geometry, scan.map.sample if scan else [])
        return sample_info(nodes, self._example(nodes))

    def _find_example(self) -> Example | None:
        """Return a node with features, and its root if known. Does not wait for a scan of chunk records."""
        store, geometry = self.served.store, self.served.opened().reader.geometry
        scan = kept_scan(store, geometry)
        return self._example(sample_nodes(store, geometry, scan.map.sample if scan else [], most=ROOTS_TRIED))

    def _example(self, nodes: NodeSample) -> Example | None:
        """Return a node of the sample, and its root if the graph knows one; None for an empty sample."""
        if not len(nodes.ids):
            return None
        try:
            neurons = self.served.neurons()
            found = example_root(neurons.source, neurons.reader.geometry, nodes.ids, datetime.now(UTC))
        except (ApiError, GraphError) as error:
            log.info("cannot find an example root", extra={"dataset": self.served.name, "error": str(error)})
            found = None
        return Example(*found) if found else Example(int(nodes.ids[0]), None)

    def _versions(self) -> VersionsInfo:
        catalog = self.served.catalog_or_none()
        return VersionsInfo(as_of=datetime.now(UTC), versions=catalog.list() if catalog else [])

    # ------------------------------------------------------------------ the answer
    def _keep(self) -> Kept:
        info = self._info()
        info.lines = all_lines(info, datetime.now(UTC))
        body = info.model_dump_json().encode() + b"\n"
        packer = isal_zlib.compressobj(level=1, wbits=31)
        zipped = packer.compress(body) + packer.flush()
        return Kept(info, body, zipped, blake2b(body, digest_size=16).hexdigest())

    def _info(self) -> BoardInfo:
        parts: list[BackgroundCache[Any]] = [self._scanned, self._noted, self._sampled, self._versioned]
        wait(
            [begun for part in parts if (begun := part.refresh())],
            FIRST_S if self._noted.peek() is None else LATER_S,
        )
        scan, notes = self._scanned.peek(), self._noted.peek()
        sampled, versions = self._sampled.peek(), self._versioned.peek()
        updates = history = audit = None
        if notes:
            as_of = notes.time
            updates = notes.updates and UpdatesInfo(**dict(notes.updates), as_of=as_of.isoformat())
            history = notes.history and HistoryInfo(**dict(notes.history), as_of=as_of)
            audit = notes.audit and AuditInfo(**dict(notes.audit), as_of=as_of)
        return BoardInfo(
            dataset=self.served.name,
            problem=self.problem,
            progress=scan and progress_info(scan),
            map=scan and map_info(scan),
            updates=updates,
            history=history,
            audit=audit,
            versions=versions,
            requests=self._requests.of(self.served.name),
            sample=sampled,
            unreadable=notes.unreadable if notes else {},
            lines={},
        )
