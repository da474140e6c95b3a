"""The audit's result: sums over chunks and a few examples, stored with the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from ..core.errors import StoreUnavailable, TableNotFound
from ..core.geometry import Chunk
from ..core.times import format_time
from ..ingest.found import table_is_empty
from ..ingest.steps import failure_text
from ..store.base import DONE, FAILED, Store
from ..store.notes import AUDIT, note_content, put_note
from .chunk_audit import Audit, AuditSource, ChunkAudit, audit_chunk, recorded_state

EXAMPLES = 20
"""Maximum number of example ids of each kind, and of reasons."""
NOTE, PART_NOTE = AUDIT, "audit_part"
"""Names of the table's notes for the last audit of the whole grid, and of a part of the grid."""
MAX_REASON = 500
MISSING_FILES = "{} chunks were ingested with missing files: ingest --retry-missing computes them again"
NOTHING_FOUND = "no file of the segmentation was ever found: check cv_path, mip and scale"


@dataclass
class AuditSummary:
    """Sums over the audits of chunks.

    Numbers that are not described here count the ids in the arrays of `ChunkAudit` with the same name.

    Attributes:
        chunks: all chunks.
        unaudited: chunks that could not be audited.
        done, failed, unrecorded: chunks by the state of their ingest.
        files_missing: chunks that were ingested with files missing.
        nothing_found: whether there is no graph and the ingest never read a segmentation file.
        present: expected nodes with ``size_nm3``.
        missing_ids, superfluous_ids: up to `EXAMPLES` ids that are still missing, or superfluous, as strings.
        problems: by chunk or node, why it could not be audited or repaired.
    """

    chunks: int = 0
    unaudited: int = 0
    done: int = 0
    failed: int = 0
    unrecorded: int = 0
    files_missing: int = 0
    nothing_found: bool = False
    expected: int = 0
    present: int = 0
    empty: int = 0
    missing: int = 0
    repaired: int = 0
    superfluous: int = 0
    other: int = 0
    missing_ids: list[str] = field(default_factory=list)
    superfluous_ids: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, found: ChunkAudit) -> AuditSummary:
        """Return the summary of one chunk."""
        problems = {f"chunk {found.chunk}": found.problem[:MAX_REASON]} if found.problem else {}
        problems |= {f"node {node}": found.failed[node] for node in sorted(found.failed)[:EXAMPLES]}
        left = np.setdiff1d(found.missing, found.repaired, assume_unique=True)
        names = ("expected", "empty", "missing", "repaired", "superfluous", "other")
        nodes: dict[str, Any] = {name: len(getattr(found, name)) for name in names}
        return cls(
            **_one_chunk(found.recorded),
            **nodes,
            files_missing=int(found.files_missing),
            present=len(found.expected) - len(found.missing),
            missing_ids=[str(node) for node in left[:EXAMPLES].tolist()],
            superfluous_ids=[str(node) for node in found.superfluous[:EXAMPLES].tolist()],
            problems=problems,
        )

    @classmethod
    def of_unaudited(cls, chunk: Chunk, recorded: str, reason: str) -> AuditSummary:
        """Return the summary of an unaudited chunk; ``recorded`` is the state of its ingest."""
        problems = {f"chunk {chunk}": reason[:MAX_REASON]}
        return cls(**_one_chunk(recorded), unaudited=1, problems=problems)

    def add(self, other: AuditSummary) -> None:
        """Add the sums of another summary, and its examples up to `EXAMPLES` of each kind."""
        for name, value in other.__dict__.items():
            mine = getattr(self, name)
            if isinstance(value, bool):
                setattr(self, name, mine or value)
            elif isinstance(value, int):
                setattr(self, name, mine + value)
            elif isinstance(value, list):
                mine.extend(value[: EXAMPLES - len(mine)])
            else:
                mine.update(list(value.items())[: EXAMPLES - len(mine)])

    @property
    def left(self) -> int:
        """Number of nodes that are still missing."""
        return self.missing - self.repaired

    @property
    def complete(self) -> bool:
        """Whether every chunk was audited, every expected node has a row, and ``nothing_found`` is false."""
        return not self.left and not self.unaudited and not self.nothing_found


def _one_chunk(recorded: str) -> dict[str, Any]:
    done, failed = recorded == DONE, recorded == FAILED
    return {"chunks": 1, "done": int(done), "failed": int(failed), "unrecorded": int(not done and not failed)}


def audit_or_fail(source: AuditSource, chunk: Chunk) -> AuditSummary:
    """Audit a chunk. Raises StoreUnavailable or TableNotFound; the summary reports any other error."""
    try:
        return AuditSummary.of(audit_chunk(source, chunk))
    except (StoreUnavailable, TableNotFound):
        raise
    except Exception as error:
        return give_up(source.audit, source.store, chunk, failure_text(chunk, error))


def open_audit(audit: Audit) -> Callable[[Chunk], AuditSummary]:
    """Open the store and the graph once; return the function that audits a chunk."""
    return partial(audit_or_fail, audit.open_source())


def give_up(audit: Audit, store: Store, chunk: Chunk, reason: str) -> AuditSummary:
    """Return the summary of a chunk that could not be audited."""
    return AuditSummary.of_unaudited(chunk, recorded_state(store, audit.geometry, chunk), reason)


def settle(store: Store, audit: Audit, summary: AuditSummary) -> AuditSummary:
    """Return the summary of an audit, with ``nothing_found`` determined.

    Without a graph, the ingest defines the expected nodes. So if the ingest found no file, no node is
    expected, and the table would seem complete.
    """
    in_doubt = not audit.dataset.has_graph and summary.files_missing and not summary.expected
    return replace(summary, nothing_found=bool(in_doubt) and table_is_empty(store))


def save_audit(store: Store, audit: Audit, summary: AuditSummary, run: str) -> None:
    """Store a summary and the run's id in the table's note `NOTE`; for a part of the grid, in `PART_NOTE`."""
    kept = {
        "run": run,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "box": str(audit.box),
        "timestamp": format_time(audit.time) if audit.time else None,
        "repair": audit.repair,
        "complete": summary.complete,
        **asdict(summary),
    }
    put_note(store, _note_of(audit), kept)


def read_audit(store: Store, name: str = NOTE) -> dict[str, Any] | None:
    """Return the audit that `save_audit` stored in the table's note ``name``; None without such a note."""
    return note_content(store, name)


def read_run(store: Store, audit: Audit, run: str) -> AuditSummary | None:
    """Return the stored summary of a run; None if the run stored none, or a later run replaced it."""
    kept = read_audit(store, _note_of(audit)) or {}
    if kept.get("run") != run:
        return None
    return AuditSummary(**{name: kept[name] for name in AuditSummary.__dataclass_fields__ if name in kept})


def _note_of(audit: Audit) -> str:
    return NOTE if len(audit.box) == audit.geometry.n_chunks else PART_NOTE


def summary_text(summary: AuditSummary) -> str:
    """Return the summary as lines of text; the last line is ``complete`` or ``incomplete``."""
    s = summary
    unaudited = f", {s.unaudited} could not be audited" if s.unaudited else ""
    repaired = f", of which {s.repaired} are repaired" if s.repaired else ""
    other = f", {s.other} rows of nodes not valid at the timestamp" if s.other else ""
    lines = [
        f"{s.chunks} chunks{unaudited}; "
        f"their ingest: {s.done} done, {s.failed} failed, {s.unrecorded} not recorded",
        *(MISSING_FILES.format(s.files_missing) for _ in range(s.files_missing > 0)),
        *(NOTHING_FOUND for _ in range(s.nothing_found)),
        f"{s.expected} nodes expected: {s.present} present ({s.empty} of them marked empty), "
        f"{s.missing} missing{repaired}",
        f"{s.superfluous} superfluous rows{other}",
        *_listed("missing", s.left, s.missing_ids),
        *_listed("superfluous", s.superfluous, s.superfluous_ids),
        "complete" if s.complete else "incomplete",
    ]
    return "\n".join(lines)


def _listed(what: str, count: int, examples: list[str]) -> list[str]:
    more = f" and {count - len(examples)} more" if count > len(examples) else ""
    return [f"{what}: {' '.join(examples)}{more}"] if count else []
