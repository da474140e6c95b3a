"""Read and write a table's notes (named texts) as JSON, among them the result of the last audit."""

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
"""Name of the note with the result of the last audit of the whole grid."""
FORMAT = 1
"""The format of notes that this code writes, and the newest that it reads. A note without a format has 1."""
Note = TypeVar("Note", bound=BaseModel)
T = TypeVar("T")
logger = logging.getLogger(__name__)
_OBJECT = TypeAdapter(dict[str, Any])


class BadNote(StoreError):
    """A note is malformed."""


class NewerNote(BadNote, UnknownFormat):
    """A newer version of l2features wrote the note, which must not be overwritten."""


def put_note(notes: TableNotes, name: str, content: Mapping[str, Any]) -> None:
    """Write a note as JSON, with its format."""
    notes.put_note(name, json.dumps({"format": FORMAT, **content}, separators=(",", ":")))


def note_content(notes: TableNotes, name: str) -> dict[str, Any] | None:
    """Return the JSON object in a note; None if the table has no such note.

    Raises BadNote for malformed text, NewerNote for a newer format, and StoreError if the store fails.
    """
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
    """Return a note, parsed as ``model``; None if the table has no such note.

    Raises BadNote for a malformed note, NewerNote for a newer format, and StoreError if the store fails.
    """
    content = note_content(notes, name)
    try:
        return None if content is None else model.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise _bad_note(notes, name, error) from error


def replaceable_note(notes: TableNotes, name: str, model: type[Note]) -> Note | None:
    """Return a note that the caller will overwrite; if the note is malformed, log a warning and return None.

    Raises NewerNote for a newer format, and StoreError if the store fails.
    """
    try:
        return read_note(notes, name, model)
    except NewerNote:
        raise
    except BadNote as error:
        logger.warning("%s; the note will be replaced", error)
        return None


def note_or_problem(name: str, read: Callable[[], T | None], problems: dict[str, str]) -> T | None:
    """Return the result of ``read``; if it raises BadNote, put the error into ``problems[name]``."""
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
        raise ValueError("expected a time in the years 1970 to 2999")
    return time.astimezone(UTC)


Time = Annotated[AwareDatetime, AfterValidator(_utc)]


def shown(time: datetime) -> str:
    """Return a time as text for messages, converted to UTC."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


class LastAudit(BaseModel):
    """Result of the last audit of the whole grid. An audit compares the graph's nodes with a table's rows."""

    time: Time = Field(description="When the audit ended.")
    complete: bool = Field(
        description="Whether every chunk was audited, every expected node has a row, and the ingest found "
        "files of the segmentation."
    )
    timestamp: str | None = Field(
        description="Time (UTC) at which the expected nodes are valid in the graph; null if all nodes that "
        "the graph ever had are expected."
    )
    repair: bool = Field(description="Whether missing nodes were computed.")
    chunks: int = Field(description="Number of chunks, including chunks that could not be audited.")
    unaudited: int = Field(description="Number of chunks that could not be audited.")
    files_missing: int = Field(
        default=0,
        description="Number of chunks that were ingested while files of the segmentation were missing.",
    )
    nothing_found: bool = Field(
        default=False, description="Whether the ingest found no file of the segmentation at all."
    )
    expected: int = Field(description="Number of nodes that the graph lists; each should have a row.")
    present: int = Field(description="Number of expected nodes with a row.")
    empty: int = Field(description="Number of expected nodes whose row marks them as without features.")
    missing: int = Field(description="Number of expected nodes without a row, before a repair.")
    repaired: int = Field(description="Number of missing nodes that the audit gave a row.")
    superfluous: int = Field(description="Number of rows whose id the graph never had.")


def last_audit(notes: TableNotes) -> LastAudit | None:
    """Return the result of the last audit; None if no audit is recorded. Raises StoreError."""
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
