"""Notes of a table as JSON, and the last audit among them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError

from ..core.errors import StoreError, UnknownFormat
from .base import TableNotes
from .formats import check_format

AUDIT = "audit"
"""Name of the note of the last audit of the whole grid."""
FORMAT = 1
"""The newest format of a note that this code reads, which it writes; a note without one is of format 1."""
Note = TypeVar("Note", bound=BaseModel)
T = TypeVar("T")
logger = logging.getLogger(__name__)
_OBJECT = TypeAdapter(dict[str, Any])


class BadNote(StoreError):
    """A note is malformed."""


class NewerNote(BadNote, UnknownFormat):
    """A newer version wrote the note; it must not be overwritten."""


def put_note(notes: TableNotes, name: str, content: Mapping[str, Any]) -> None:
    """Write a note as JSON, with its format."""
    notes.put_note(name, json.dumps({"format": FORMAT, **content}, separators=(",", ":")))


def note_content(notes: TableNotes, name: str) -> dict[str, Any] | None:
    """Return a note's JSON object; None if there is none. Raises BadNote and StoreError."""
    try:
        text = notes.note(name)
        content = None if text is None else _OBJECT.validate_json(text)
    except ValueError as error:
        raise _bad_note(notes, name, error) from error
    try:
        check_format(content, FORMAT, f"table {notes.name}: the note {name!r}")
    except UnknownFormat as error:
        raise NewerNote(str(error)) from error
    return content


def read_note(notes: TableNotes, name: str, model: type[Note]) -> Note | None:
    """Return a note as a model; None if there is none. Raises BadNote and StoreError."""
    content = note_content(notes, name)
    try:
        return None if content is None else model.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise _bad_note(notes, name, error) from error


def replaceable_note(notes: TableNotes, name: str, model: type[Note]) -> Note | None:
    """Return a note that the caller will overwrite; if it is malformed, log a warning and return None.

    Raises NewerNote and StoreError.
    """
    try:
        return read_note(notes, name, model)
    except NewerNote:
        raise
    except BadNote as error:
        logger.warning("%s; the note will be replaced", error)
        return None


def note_or_problem(name: str, read: Callable[[], T | None], problems: dict[str, str]) -> T | None:
    """Return a note. If the note is malformed, return None and add the error to ``problems``, by note."""
    try:
        return read()
    except BadNote as error:
        problems[name] = str(error)
        return None


def _bad_note(notes: TableNotes, name: str, error: ValueError) -> BadNote:
    reason = str(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        reason = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    return BadNote(f"table {notes.name}: the note {name!r} cannot be read: {reason}")


def _utc(time: datetime) -> datetime:
    if not 1970 <= time.year < 3000:
        raise ValueError("expected a time since 1970")
    return time.astimezone(UTC)


Time = Annotated[AwareDatetime, AfterValidator(_utc)]


def shown(time: datetime) -> str:
    """Format a time for messages."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


class LastAudit(BaseModel):
    """Result of the last audit of the whole grid, which compares the graph's nodes with the table's rows."""

    time: Time = Field(description="When the audit ended.")
    complete: bool = Field(
        description="Whether every chunk was audited, every expected node has a row, and files were found."
    )
    timestamp: str | None = Field(
        description="Time at which the expected nodes are valid (UTC); null if all nodes ever made are "
        "expected."
    )
    repair: bool = Field(description="Whether missing nodes were computed.")
    chunks: int = Field(description="Number of chunks, including those that could not be audited.")
    unaudited: int = Field(description="Chunks that could not be audited.")
    files_missing: int = Field(
        default=0, description="Chunks that were ingested with files of the segmentation missing."
    )
    nothing_found: bool = Field(
        default=False, description="Whether the ingest found no file of the segmentation at all."
    )
    expected: int = Field(description="Expected nodes: those of the graph.")
    present: int = Field(description="Expected nodes with a row.")
    empty: int = Field(description="Present nodes that are marked as without features.")
    missing: int = Field(description="Expected nodes without a row.")
    repaired: int = Field(description="Missing nodes that have a row since.")
    superfluous: int = Field(description="Rows of ids that the graph never had.")


def last_audit(notes: TableNotes) -> LastAudit | None:
    """Return the result of the last audit; None if there was none. Raises StoreError."""
    return read_note(notes, AUDIT, LastAudit)


def audit_text(audit: LastAudit | None) -> str:
    """Return the result of an audit as one line."""
    if audit is None:
        return "no audit is recorded"
    at = f" valid at {audit.timestamp}" if audit.timestamp else ""
    repaired = f", of which {audit.repaired} were repaired" if audit.repaired else ""
    text = (
        f"last audit at {shown(audit.time)}: {'complete' if audit.complete else 'incomplete'}: "
        f"{audit.expected} nodes{at} expected, {audit.present} present, {audit.missing} missing{repaired}"
    )
    if audit.unaudited:
        text += f"; {audit.unaudited} of {audit.chunks} chunks could not be audited"
    if audit.nothing_found:
        text += "; no file of the segmentation was ever found"
    elif audit.files_missing:
        text += f"; {audit.files_missing} chunks were ingested with missing files"
    return text
