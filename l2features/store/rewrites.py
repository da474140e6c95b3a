"""When rows of a table are replaced, so that results which depend on them are computed again.

A job that may replace rows opens a window before it writes, and renews it while it writes (`Rewriting`).
Every renewal gives the table a new generation. A result of rows is stored with the generation that was
read before the rows, and is used only while the generation is the same. Nothing is kept while a
window is open. A window ends by itself, so a killed job leaves nothing to clean up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from pydantic import BaseModel, Field

from .base import TableNotes
from .notes import BadNote, NewerNote, Time, put_note, read_note, replaceable_note

NOTE = "rewrites"
RENEW_S, OPEN_S = 60.0, 300.0
"""A window is renewed after the first, and ends after the second: the difference is for slow writes and for
clocks that disagree."""
logger = logging.getLogger(__name__)


class Rewrites(BaseModel):
    """A note in a table: until when jobs may be replacing its rows, and the rows' generation."""

    generation: UUID = Field(description="Changes whenever rows are replaced.")
    until: Time = Field(description="When the window ends.")


def read_generation(notes: TableNotes) -> bytes | None:
    """Return the generation of a table's rows, 16 bytes; None while rows are being replaced.

    Raises StoreError. A malformed note counts as an open window; the next job replaces it.
    """
    try:
        note = read_note(notes, NOTE, Rewrites)
    except NewerNote:
        raise
    except BadNote as error:
        logger.warning("%s; results of roots are not kept until a job replaces the note", error)
        return None
    if note is None:
        return bytes(16)
    return None if datetime.now(UTC) < note.until else note.generation.bytes


def end_rewrites(notes: TableNotes) -> None:
    """End a table's window. Call this when all processes of a job have ended. Raises StoreError."""
    _put(notes, 0.0)


class Rewriting:
    """The window in which one process may replace rows of a table. Threads may share it."""

    def __init__(self, notes: TableNotes) -> None:
        self._notes, self._lock = notes, threading.Lock()
        self._renewed_at = float("-inf")

    @contextmanager
    def open(self) -> Iterator[None]:
        """Keep the window open while the block writes rows. Raises StoreError."""
        self._renew()
        yield
        self._renew()

    def _renew(self) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._renewed_at >= RENEW_S:
                _put(self._notes, OPEN_S)
                self._renewed_at = now


def _put(notes: TableNotes, seconds: float) -> None:
    """Write a new generation, whose window ends in ``seconds``. Raises NewerNote."""
    replaceable_note(notes, NOTE, Rewrites)
    note = Rewrites(generation=uuid4(), until=datetime.now(UTC) + timedelta(seconds=seconds))
    put_note(notes, NOTE, note.model_dump(mode="json"))
