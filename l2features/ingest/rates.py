"""Rates of an ingest: chunks and nodes recorded in its last ten minutes.

The record of a chunk has the time at which its computation ended, but not when it began. So the table also
stores when the latest run began: the time before the run's first record counts too, and a burst of records
does not make the rate too high.
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
"""Minimum time from the first record to the last if the run's start is unknown; less may be a burst."""
NOTE = "ingest"
"""Name of the table's note that stores when the latest run began."""


class IngestRun(BaseModel):
    """The latest run of the ingest."""

    started: Time = Field(description="When the run began.")


def record_start(notes: TableNotes, started: datetime) -> None:
    """Store in a table when its latest ingest began."""
    put_note(notes, NOTE, IngestRun(started=started).model_dump(mode="json"))


def read_start(notes: TableNotes) -> datetime | None:
    """Return when the latest run began; None if the time is unknown.

    Raises BadNote for a malformed note, and StoreError if the table cannot be read.
    """
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
