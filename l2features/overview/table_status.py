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
from ..store.base import ChunkRecord, Store
from ..store.chunk_totals import ChunkTotals, totals_of
from ..store.notes import LastAudit, last_audit, note_or_problem
from ..updates.freshness import Updates, read_updates

MAX_KEPT = 10_000
"""Failed chunks whose reasons are kept."""


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
    status = _status(store, geometry, store.chunk_totals(RATE_WINDOW, MAX_KEPT))
    status.updates = note_or_problem("updates", lambda: read_updates(store), status.problems)
    status.audit = note_or_problem("audit", lambda: last_audit(store), status.problems)
    return status


def read_progress(
    store: Store, geometry: Geometry, records: Iterable[ChunkRecord], *, most_failed: int = MAX_KEPT
) -> Status:
    """Return the status from these records of chunks, without updates and audit.

    Keeps only those of the last ten minutes, and the reasons of ``most_failed`` chunks.
    """
    return _status(store, geometry, totals_of(records, RATE_WINDOW, most_failed))


def _status(store: Store, geometry: Geometry, totals: ChunkTotals) -> Status:
    status = Status(
        store.name,
        geometry.n_chunks,
        done=totals.done,
        nodes=totals.nodes,
        orphans=totals.orphans,
        files=totals.files,
        uncounted=totals.uncounted,
        chunks_missing_files=totals.missing_files,
        saturated=totals.saturated,
        n_failed=totals.n_failed,
        newest=totals.newest,
    )
    chunks = geometry.layout.chunk_coordinates(as_ids([chunk_id for chunk_id, _ in totals.failed])).tolist()
    reasons = (reason for _, reason in totals.failed)
    status.failed = sorted(zip((Chunk(*xyz) for xyz in chunks), reasons, strict=True))
    started = note_or_problem("ingest", lambda: read_start(store), status.problems)
    if found := rates([Recorded(*entry) for entry in totals.recent], started):
        status.chunks_per_minute, status.nodes_per_second = found
    return status
