"""The status of a table: the progress of its ingest, how fresh its updates are, and the last audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..core.chunks import NO_FILES, FileCounts
from ..core.geometry import Chunk, Geometry
from ..core.ids import as_ids
from ..ingest.rates import RATE_WINDOW, Recorded, rates, read_start
from ..store.base import FAILED, ChunkRecord, Store
from ..store.notes import LastAudit, last_audit, note_or_problem
from ..updates.freshness import Updates, read_updates

MAX_KEPT, MAX_RECENT = 10_000, 100_000
"""Failed chunks whose reasons are kept, and recent ones that are kept before older ones are dropped."""


@dataclass
class Status:
    """Status of an ingest, and the notes stored with its table.

    Rates are over the last ten minutes of work, None if unknown. ``files`` sums the files of done chunks, of
    which ``uncounted`` have a record without counts, from an older version, and ``chunks_missing_files`` had
    missing or empty files. ``saturated`` counts nodes by attribute. ``failed`` lists the first failed chunks
    with reasons, ``n_failed`` counts all. ``problems`` has the errors of unreadable notes, by note.
    """

    table: str
    total: int
    done: int = 0
    nodes: int = 0
    orphans: int = 0
    files: FileCounts = NO_FILES
    uncounted: int = 0
    chunks_missing_files: int = 0
    saturated: Counter[str] = field(default_factory=Counter)
    n_failed: int = 0
    failed: list[tuple[Chunk, str]] = field(default_factory=list)
    newest: datetime | None = None
    chunks_per_minute: float | None = None
    nodes_per_second: float | None = None
    updates: Updates | None = None
    audit: LastAudit | None = None
    problems: dict[str, str] = field(default_factory=dict)

    def add_done(self, record: ChunkRecord) -> None:
        """Add the record of a done chunk."""
        self.done += 1
        self.nodes += record.nodes
        self.orphans += record.orphans
        if any(record.files):
            self.files = self.files.plus(record.files)
        self.uncounted += not record.files.expected
        self.chunks_missing_files += record.files.background > 0
        if record.saturated:
            self.saturated.update(record.saturated)

    def as_dict(self) -> dict[str, Any]:
        """Return the status for JSON, without ``problems``."""
        shown = {name: value for name, value in self.__dict__.items() if name != "problems"}
        return {
            **shown,
            "files": self.files._asdict(),
            "failed": [{"chunk": str(chunk), "reason": reason} for chunk, reason in self.failed],
            "newest": self.newest.isoformat() if self.newest else None,
            "updates": self.updates.model_dump(mode="json") if self.updates else None,
            "audit": self.audit.model_dump(mode="json") if self.audit else None,
        }


def read_status(store: Store, geometry: Geometry) -> Status:
    """Return the status of a table, from its chunk records and its notes."""
    status = read_progress(store, geometry, store.chunk_records())
    status.updates = note_or_problem("updates", lambda: read_updates(store), status.problems)
    status.audit = note_or_problem("audit", lambda: last_audit(store), status.problems)
    return status


def read_progress(
    store: Store, geometry: Geometry, records: Iterable[ChunkRecord], *, most_failed: int = MAX_KEPT
) -> Status:
    """Return the status from these records of chunks, without updates and audit.

    Keeps only those of the last ten minutes, and the reasons of ``most_failed`` chunks.
    """
    status = Status(store.name, geometry.n_chunks)
    recent: list[Recorded] = []
    most = MAX_RECENT
    for record in records:
        if record.state == FAILED:
            status.n_failed += 1
            if len(status.failed) < most_failed:
                (xyz,) = geometry.layout.chunk_coordinates(as_ids([record.chunk_id])).tolist()
                status.failed.append((Chunk(*xyz), record.reason))
            continue
        status.add_done(record)
        if status.newest is None or record.time > status.newest:
            status.newest = record.time
            if len(recent) > most:  # doubled, so that each record is looked at a few times
                recent = [entry for entry in recent if record.time - entry.time <= RATE_WINDOW]
                most = max(MAX_RECENT, 2 * len(recent))
        if status.newest - record.time <= RATE_WINDOW:
            recent.append(Recorded(record.time, record.nodes))
    status.failed.sort()
    started = note_or_problem("ingest", lambda: read_start(store), status.problems)
    window = [entry for entry in recent if status.newest and status.newest - entry.time <= RATE_WINDOW]
    if found := rates(window, started):
        status.chunks_per_minute, status.nodes_per_second = found
    return status
