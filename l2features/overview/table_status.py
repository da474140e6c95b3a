"""The status of a table: the progress of its ingest, how fresh its updates are, and the last audit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..core.geometry import Chunk, Geometry
from ..core.ids import as_ids
from ..ingest.rates import RATE_WINDOW, rates, read_start
from ..store.base import ChunkRecord, Store
from ..store.chunk_totals import ChunkTotals, totals_of
from ..store.notes import LastAudit, last_audit, note_or_problem
from ..updates.freshness import Updates, read_updates

MAX_KEPT = 10_000
"""Maximum number of failed chunks that a status lists with their reasons."""
SUMS = ["done", "nodes", "orphans", "files", "uncounted", "chunks_missing_files", "saturated", "n_failed"]
"""The fields of `ChunkTotals` that `TableStatus.as_dict` returns."""


@dataclass
class TableStatus:
    """Status of an ingest, and the notes stored with its table.

    Rates are over the last ten minutes of work, None if unknown. ``failed`` lists failed chunks with their
    reasons, sorted by chunk; it may be cut short, but ``totals.n_failed`` counts all. ``problems`` maps
    unreadable notes to their errors.
    """

    table: str
    total: int
    totals: ChunkTotals
    failed: list[tuple[Chunk, str]]
    chunks_per_minute: float | None = None
    nodes_per_second: float | None = None
    updates: Updates | None = None
    audit: LastAudit | None = None
    problems: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the status for JSON, without ``problems``."""
        newest = self.totals.newest
        return {
            "table": self.table,
            "total": self.total,
            **{name: getattr(self.totals, name) for name in SUMS},
            "files": self.totals.files._asdict(),
            "failed": [{"chunk": str(chunk), "reason": reason} for chunk, reason in self.failed],
            "newest": newest.isoformat() if newest else None,
            "chunks_per_minute": self.chunks_per_minute,
            "nodes_per_second": self.nodes_per_second,
            "updates": self.updates.model_dump(mode="json") if self.updates else None,
            "audit": self.audit.model_dump(mode="json") if self.audit else None,
        }


def read_status(store: Store, geometry: Geometry) -> TableStatus:
    """Return the status of a table, from its chunk records and its notes."""
    status = _status(store, geometry, store.chunk_totals(RATE_WINDOW, MAX_KEPT))
    status.updates = note_or_problem("updates", lambda: read_updates(store), status.problems)
    status.audit = note_or_problem("audit", lambda: last_audit(store), status.problems)
    return status


def read_progress(
    store: Store, geometry: Geometry, records: Iterable[ChunkRecord], *, most_failed: int = MAX_KEPT
) -> TableStatus:
    """Return the status from these chunk records, without updates and audit.

    Records are not kept in memory, only their sums and the reasons of ``most_failed`` chunks.
    """
    return _status(store, geometry, totals_of(records, RATE_WINDOW, most_failed))


def _status(store: Store, geometry: Geometry, totals: ChunkTotals) -> TableStatus:
    chunks = geometry.layout.chunk_coordinates(as_ids([chunk_id for chunk_id, _ in totals.failed])).tolist()
    reasons = (reason for _, reason in totals.failed)
    failed = sorted(zip((Chunk(*xyz) for xyz in chunks), reasons, strict=True))
    status = TableStatus(store.name, geometry.n_chunks, totals, failed)
    started = note_or_problem("ingest", lambda: read_start(store), status.problems)
    if found := rates(totals, started):
        status.chunks_per_minute, status.nodes_per_second = found
    return status
