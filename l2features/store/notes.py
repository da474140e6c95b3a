"""What is kept with a table as a note, read as what it should be; and the last audit among it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, ValidationError

from ..core.errors import StoreError, UnknownFormat
from .base import Store
from .formats import check_format

AUDIT = "audit"
"""Under what a table keeps the last audit of the whole grid."""
FORMAT = 1
"""The newest format of a note that this code reads, which it writes; a note that says none is of format 1."""
Note = TypeVar("Note", bound=BaseModel)


class BadNote(StoreError):
    """What is kept under the name of a note is something else."""


class NewerNote(BadNote, UnknownFormat):
    """A newer version wrote the note; it must not be overwritten."""


def put_note(store: Store, name: str, content: Mapping[str, Any]) -> None:
    """Keep a note that is JSON, with its format."""
    store.put_note(name, json.dumps({"format": FORMAT, **content}, separators=(",", ":")))


def note_content(store: Store, name: str) -> dict[str, Any] | None:
    """Return a note's JSON object; None where there is none. Raises BadNote, and StoreError as the store."""
    what = f"table {store.name}: the note {name!r}"
    try:
        text = store.note(name)
        if text is None:
            return None
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is no text" if isinstance(error, UnicodeDecodeError) else "it is no JSON"
        raise BadNote(f"{what} cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise BadNote(f"{what} cannot be read: it is no JSON object")
    try:
        check_format(content, FORMAT, what)
    except UnknownFormat as error:
        raise NewerNote(str(error)) from error
    return content


def read_note(store: Store, name: str, model: type[Note]) -> Note | None:
    """A note that is JSON; None where there is none. Raises BadNote, and StoreError as the store."""
    content = note_content(store, name)
    try:
        return None if content is None else model.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise BadNote(f"table {store.name}: the note {name!r} cannot be read: {_reason(error)}") from error


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))


def _utc(time: datetime) -> datetime:
    if not 1970 <= time.year < 3000:
        raise ValueError("expected a time since 1970")
    return time.astimezone(UTC)


Time = Annotated[AwareDatetime, AfterValidator(_utc)]


def shown(time: datetime) -> str:
    """A time for reading."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


class LastAudit(BaseModel):
    """What the last audit of the whole grid found: the nodes of the graph against the rows of the table."""

    time: Time = Field(description="When it ended.")
    complete: bool = Field(
        description="Whether every chunk was audited, every expected node has a row, and files were found."
    )
    timestamp: str | None = Field(
        description="Expected are the nodes valid at this time (UTC); null: all ever made."
    )
    repair: bool = Field(description="Whether missing nodes were computed.")
    chunks: int = Field(description="Chunks that were looked at.")
    unaudited: int = Field(description="Those of them that could not be audited.")
    files_missing: int = Field(
        default=0, description="Those of them that were ingested with files of the segmentation missing."
    )
    nothing_found: bool = Field(
        default=False, description="Whether the ingest found no file of the segmentation at all."
    )
    expected: int = Field(description="Nodes of the graph.")
    present: int = Field(description="Those of them that had a row.")
    empty: int = Field(description="Those of the present that are marked as without features.")
    missing: int = Field(description="Those of the expected that had no row.")
    repaired: int = Field(description="Those of the missing that have a row since.")
    superfluous: int = Field(description="Rows of ids that the graph never had.")


def last_audit(store: Store) -> LastAudit | None:
    """What the last audit found; None where there was none. Raises StoreError."""
    return read_note(store, AUDIT, LastAudit)


def _files(audit: LastAudit) -> str:
    if audit.nothing_found:
        return "; no file of the segmentation was ever found"
    return f"; {audit.files_missing} chunks were ingested with missing files" if audit.files_missing else ""


def audit_text(audit: LastAudit | None) -> str:
    """A line for reading."""
    if audit is None:
        return "no audit is recorded"
    at = f" valid at {audit.timestamp}" if audit.timestamp else ""
    repaired = f", of which {audit.repaired} were repaired" if audit.repaired else ""
    unaudited = (
        f"; {audit.unaudited} of {audit.chunks} chunks could not be audited" if audit.unaudited else ""
    )
    return (
        f"last audit at {shown(audit.time)}: {'complete' if audit.complete else 'incomplete'}: "
        f"{audit.expected} nodes{at} expected, {audit.present} present, {audit.missing} missing"
        f"{repaired}{unaudited}{_files(audit)}"
    )
