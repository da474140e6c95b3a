"""A summary of a table's chunk records (progress, map, largest chunk), stored as JSON with the table.

A scan of millions of records takes minutes, so all processes share its result. They use a result for `SHARE`
times the scan's duration, but for at least `LEAST_S` seconds; most processes use it up to 50 % longer.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np
from pydantic import BaseModel, Field

from ..core.errors import StoreError
from ..core.geometry import Geometry
from ..store.base import Store
from ..store.notes import BadNote, NewerNote, Time, put_note, read_note, replaceable_note
from .chunk_map import ChunkMap
from .table_status import read_progress

NOTE = "chunk_scan"
LEAST_S, SHARE = 10.0, 40.0
SPREAD = 16
"""Number of different scan intervals, which are up to 50 % longer than the shortest.

Each process has one of them, so that usually only one process scans.
"""
logger = logging.getLogger(__name__)


class IngestProgress(BaseModel):
    """The progress of an ingest: fields of `TableStatus.as_dict`, but ``failed`` is a count, not a list."""

    total: int = Field(description="Chunks of the grid.")
    done: int
    failed: int
    nodes: int = Field(description="Nodes of the done chunks.")
    orphans: int = Field(description="Supervoxels without a parent.")
    chunks_missing_files: int
    newest: Time | None = Field(description="When a chunk was last recorded as done; null if none was.")
    chunks_per_minute: float | None = Field(
        description="Rate of the last ten minutes of work; null if unknown."
    )
    nodes_per_second: float | None


@dataclass(frozen=True)
class ChunkScan:
    """The result of a scan, when the scan ended, and how long it took."""

    progress: IngestProgress
    map: ChunkMap
    time: datetime
    seconds: float


class PlaneNote(BaseModel):
    """Stored form of a `Projection`: its ``counts`` and ``failed``, as nested lists."""

    counts: list[list[list[int]]]
    failed: list[list[int]]


class ScanNote(BaseModel):
    """The note of the last scan."""

    time: Time = Field(description="When the scan ended.")
    seconds: float = Field(ge=0, description="Duration of the scan.")
    progress: IngestProgress
    most_nodes: int = Field(ge=0, description="Largest number of nodes of a chunk.")
    planes: dict[str, PlaneNote] = Field(description="The map of chunks, by plane.")
    sample: list[int] = Field(description="Ids of random chunks with nodes.")

    def due(self, process: int) -> datetime:
        """Return when a process should scan again; ``process`` is the process's number, from `_process`."""
        patience = 1 + process % SPREAD / SPREAD / 2
        return self.time + patience * timedelta(seconds=max(LEAST_S, SHARE * self.seconds))

    def scan(self, geometry: Geometry) -> ChunkScan | None:
        """Return the stored scan; None if it is malformed or belongs to another grid."""
        found = ChunkMap(geometry, sample=self.sample, most_nodes=self.most_nodes)
        try:
            for name, plane in found.planes.items():
                counts = np.array(self.planes[name].counts)
                failed = np.array(self.planes[name].failed, np.uint64)
                if counts.shape != plane.counts.shape or failed.shape != plane.failed.shape:
                    return None
                plane.counts[:], plane.failed[:] = counts, failed
        except (KeyError, ValueError, OverflowError):
            return None
        return ChunkScan(self.progress, found, self.time, self.seconds)


def shared_scan(store: Store, geometry: Geometry) -> ChunkScan:
    """Return the result of the last scan by any process; scan the table if the next scan is due.

    Raises StoreError.
    """
    try:
        known = replaceable_note(store, NOTE, ScanNote)
    except NewerNote as error:
        logger.warning("%s: this process scans the chunks itself, and leaves the stored scan as it is", error)
        return _scan(store, geometry)
    if known is not None and datetime.now(UTC) < known.due(_process()) and (kept := known.scan(geometry)):
        return kept
    found = _scan(store, geometry)
    try:
        put_note(store, NOTE, _note(found).model_dump(mode="json"))
    except StoreError as error:
        _warn_once(store.name, str(error))
    return found


def kept_scan(store: Store, geometry: Geometry) -> ChunkScan | None:
    """Return the scan stored in the table, however old; None without a valid scan. Raises StoreError."""
    try:
        known = read_note(store, NOTE, ScanNote)
    except BadNote:
        return None
    return known.scan(geometry) if known else None


def _process() -> int:
    """Return a number for this process, from its host name and process id: neither is unique alone."""
    return zlib.crc32(f"{socket.gethostname()} {os.getpid()}".encode())


@lru_cache(100)
def _warn_once(table: str, error: str) -> None:
    logger.warning(
        "table %s: cannot store the chunk scan (note %r), so each process repeats it: %s", table, NOTE, error
    )


def _scan(store: Store, geometry: Geometry) -> ChunkScan:
    start, chunk_map = time.monotonic(), ChunkMap(geometry)
    status = read_progress(store, geometry, chunk_map.counting(store.chunk_records()), most_failed=0)
    progress = IngestProgress(**{**status.as_dict(), "failed": status.totals.n_failed})
    return ChunkScan(progress, chunk_map, datetime.now(UTC), time.monotonic() - start)


def _note(scan: ChunkScan) -> ScanNote:
    return ScanNote(
        time=scan.time,
        seconds=scan.seconds,
        progress=scan.progress,
        most_nodes=scan.map.most_nodes,
        planes={
            name: PlaneNote(counts=plane.counts.tolist(), failed=plane.failed.tolist())
            for name, plane in scan.map.planes.items()
        },
        sample=scan.map.sample,
    )
