"""Output of the command line: rows of features, and the status of an ingest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import orjson
from rich.console import Console
from rich.table import Table

from ..core.chunks import NO_FILES, FileCounts
from ..core.geometry import Chunk, Geometry
from ..core.ids import as_ids
from ..core.rows import Rows
from ..core.saturation import saturated_text
from ..core.schema import BY_NAME, NAMES
from ..ingest.rates import RATE_WINDOW, Recorded, rates, read_start
from ..query.answers import json_parts
from ..store.base import FAILED, ChunkRecord, Store
from ..store.notes import BadNote, LastAudit, audit_text, last_audit
from ..updates.freshness import Updates, read_updates, updates_text

T = TypeVar("T")
MAX_LISTED, MAX_KEPT = 20, 10_000


def served_rows(rows: Rows, geometry: Geometry, names: Sequence[str] = NAMES) -> dict[str, dict[str, Any]]:
    """Return each row as clients receive it, by id, in numeric order."""
    served: dict[str, dict[str, Any]] = orjson.loads(b"".join(json_parts(rows, geometry, names)))
    return served


def json_text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def features_table(rows: Rows, geometry: Geometry, names: Sequence[str] = NAMES) -> str:
    """Return a text table of these attributes, one line per row."""
    attributes = [BY_NAME[name] for name in names]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("L2 id", justify="right", no_wrap=True)
    for attribute in attributes:
        table.add_column(attribute.name, justify="right" if not attribute.shape else "left", no_wrap=True)
    served, found = served_rows(rows, geometry, names), dict(zip(rows.ids.tolist(), rows.found, strict=True))
    for label, known in found.items():
        cells = [cell_text(served[str(label)].get(name)) for name in names]
        table.add_row(str(label), *(cells if known else ["not in the table", *cells[1:]]))
    return rendered(table)


def rendered(table: Table) -> str:
    """Return a table as text."""
    console = Console(width=400, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def cell_text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list) and value:
        return (" | " if isinstance(value[0], list) else " ").join(map(cell_text, value))
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else f"{value:.6g}"
    return str(value)


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
        self.files = self.files.plus(record.files)
        self.uncounted += not record.files.expected
        self.chunks_missing_files += record.files.background > 0
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
    """Return the status of a table from its chunk records. Keeps only those of the last ten minutes."""
    status = Status(store.name, geometry.n_chunks)
    recent: list[Recorded] = []
    for record in store.chunk_records():
        if record.state == FAILED:
            status.n_failed += 1
            if len(status.failed) < MAX_KEPT:
                (xyz,) = geometry.layout.chunk_coordinates(as_ids([record.chunk_id])).tolist()
                status.failed.append((Chunk(*xyz), record.reason))
            continue
        status.add_done(record)
        if status.newest is None or record.time > status.newest:
            status.newest = record.time
            if len(recent) > 100_000:
                recent = [entry for entry in recent if record.time - entry.time <= RATE_WINDOW]
        if status.newest - record.time <= RATE_WINDOW:
            recent.append(Recorded(record.time, record.nodes))
    status.failed.sort()
    started = _read_note(status, "ingest", lambda: read_start(store))
    window = [entry for entry in recent if status.newest and status.newest - entry.time <= RATE_WINDOW]
    if found := rates(window, started):
        status.chunks_per_minute, status.nodes_per_second = found
    status.updates = _read_note(status, "updates", lambda: read_updates(store))
    status.audit = _read_note(status, "audit", lambda: last_audit(store))
    return status


def _read_note(status: Status, name: str, read: Callable[[], T]) -> T | None:
    """Return a note; record why it is unreadable."""
    try:
        return read()
    except BadNote as error:
        status.problems[name] = str(error)
        return None


def status_text(status: Status) -> str:
    """Return the status as text; it starts with ``<done>/<total>``."""
    lines = [f"{status.done}/{status.total} chunks done in table {status.table}: {status.nodes} nodes"]
    if status.orphans:
        lines.append(f"{status.orphans} supervoxels had no parent")
    if status.newest:
        rate = ""
        if status.chunks_per_minute is not None:
            rates = f"{status.chunks_per_minute} chunks/min and {status.nodes_per_second} nodes/s"
            rate = f", {rates} in its last 10 minutes"
        lines.append(f"newest chunk at {status.newest:%Y-%m-%d %H:%M:%S} UTC{rate}")
    lines += _files_lines(status)
    if status.saturated:
        lines.append(f"saturated: {saturated_text(status.saturated)}")
    lines.append(f"{status.n_failed} chunks failed" + (":" if status.failed else ""))
    lines += [f"  chunk {chunk}: {reason}" for chunk, reason in status.failed[:MAX_LISTED]]
    if status.n_failed > MAX_LISTED:
        lines.append(f"  and {status.n_failed - MAX_LISTED} more: --json lists up to {MAX_KEPT}")
    lines.append(status.problems.get("updates") or updates_text(status.updates))
    lines.append(status.problems.get("audit") or audit_text(status.audit))
    if "ingest" in status.problems:
        lines.append(status.problems["ingest"])
    return "\n".join(lines)


def _files_lines(status: Status) -> list[str]:
    if not status.files.expected:
        return []
    unknown = f"; {status.uncounted} chunks count none" if status.uncounted else ""
    lines = [f"files: {status.files}{unknown}"]
    if status.chunks_missing_files:
        lines.append(
            f"{status.chunks_missing_files} chunks have missing or empty files: ingest --retry-missing "
            "computes them again"
        )
    if not status.files.read and not status.uncounted:
        lines.append("no file of the segmentation was found: check cv_path, mip and scale")
    return lines
