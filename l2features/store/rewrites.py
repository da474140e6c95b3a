"""Record when rows of a table are replaced, to invalidate results that were computed from these rows.

A job that may replace rows opens a window of time before it writes, and renews the window while it writes
(`Rewriting`). Each time, the table gets a new generation, a random id. A result that is computed from rows is
stored with the generation that was read before the rows; it is valid only while the table has this
generation. While a window is open, no results are stored. A window ends by itself, so a killed job leaves
nothing to clean up.
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
"""After how many seconds a window is renewed, and after how many it ends if it is not renewed.

The difference leaves time for slow writes and for clocks that disagree.
"""
logger = logging.getLogger(__name__)


class Rewrites(BaseModel):
    """Note with the table's generation, and with the time until which jobs may be replacing rows."""

    generation: UUID = Field(description="Random id that changes whenever rows are replaced.")
    until: Time = Field(description="End of the window in which jobs may be replacing rows.")


def read_generation(notes: TableNotes) -> bytes | None:
    """Return the table's generation, 16 bytes that change whenever rows are replaced; zeros at first.

    Returns None while a job may be replacing rows. Also returns None if the `Rewrites` note is malformed; the
    next job that replaces rows overwrites such a note. Raises StoreError if the store fails, and NewerNote
    for a note of a newer format.
    """
    try:
        note = read_note(notes, NOTE, Rewrites)
    except NewerNote:
        raise
    except BadNote as error:
        logger.warning(
            "%s; until the next job that replaces rows, results computed for roots are not cached", error
        )
        return None
    if note is None:
        return bytes(16)
    return None if datetime.now(UTC) < note.until else note.generation.bytes


def end_rewrites(notes: TableNotes) -> None:
    """End the window in which a table's rows are replaced. Raises StoreError.

    Call this when all processes of a job have ended.
    """
    _put(notes, 0.0)


class Rewriting:
    """The window of time in which one process may replace rows of a table. Threads may share it."""

    def __init__(self, notes: TableNotes) -> None:
        self._notes, self._lock = notes, threading.Lock()
        self._renewed_at = float("-inf")

    @contextmanager
    def open(self) -> Iterator[None]:
        """Open the window, or renew it if due, before and after the block. Raises StoreError."""
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
    """Write the `Rewrites` note: a new generation, and a window that ends in ``seconds``.

    Raises NewerNote if a newer version of l2features wrote the note.
    """
    replaceable_note(notes, NOTE, Rewrites)
    note = Rewrites(generation=uuid4(), until=datetime.now(UTC) + timedelta(seconds=seconds))
    put_note(notes, NOTE, note.model_dump(mode="json"))
