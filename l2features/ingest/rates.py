"""How fast an ingest works: chunks and nodes recorded in its last ten minutes.

A record has the end of its chunk's computation, not its start. So the start of the latest run is kept with
the table: the time before its first record counts too, and bursts of records make no false rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import BaseModel, Field

from ..store.base import TableNotes
from ..store.notes import Time, put_note, read_note

RATE_WINDOW = timedelta(minutes=10)
SHORTEST_WINDOW = timedelta(seconds=1)
SHORTEST_SPAN = timedelta(seconds=60)
"""Minimum span of records of a run with an unknown start; a shorter one may be a burst."""
NOTE = "ingest"
"""The note that keeps the latest run."""


class IngestRun(BaseModel):
    """The latest run of the ingest."""

    started: Time = Field(description="When the run began.")


def record_start(notes: TableNotes, started: datetime) -> None:
    """Note in the table when its latest ingest began."""
    put_note(notes, NOTE, IngestRun(started=started).model_dump(mode="json"))


def read_start(notes: TableNotes) -> datetime | None:
    """Return when the latest run began; None if the time is unknown. Raises BadNote or StoreError."""
    run = read_note(notes, NOTE, IngestRun)
    return run.started if run else None


def rates(recorded: Sequence[tuple[datetime, int]], started: datetime | None) -> tuple[float, float] | None:
    """Return a tuple for the last ten minutes of work: chunks per minute; nodes per second.

    Returns None if the records span too short a time.

    Args:
        recorded: time and number of nodes of each chunk recorded in the ten minutes before the newest one.
        started: when the latest run began.
    """
    if not recorded:
        return None
    newest = max(time for time, _ in recorded)
    if started is not None and started < newest:
        begin, shortest = max(started, newest - RATE_WINDOW), SHORTEST_WINDOW
    else:  # no run is known, or the latest one has recorded nothing yet
        begin, shortest = min(time for time, _ in recorded), SHORTEST_SPAN
    seconds = (newest - begin).total_seconds()
    if seconds < shortest.total_seconds():
        return None
    nodes = [n for time, n in recorded if time > begin]
    return round(len(nodes) / seconds * 60, 2), round(sum(nodes) / seconds, 2)
