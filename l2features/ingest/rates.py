"""Rates of an ingest: chunks and nodes recorded in its last ten minutes.

The record of a chunk has the time at which its computation ended, but not when it began. So the table also
stores when the latest run began. A rate covers the time from then to the newest record, but at most
`RATE_WINDOW`. The time since the first record would leave out how long the first chunks took, so the rate
would be too high.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import BaseModel, Field

from ..store.base import TableNotes
from ..store.chunk_totals import ChunkTotals, interval_of, start_of
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


def rates(totals: ChunkTotals, started: datetime | None) -> tuple[float, float] | None:
    """Return a tuple: chunks per minute; nodes per second. Both are means over the last ten minutes of work.

    Returns None if the records span too short a time.

    Args:
        totals: sums over the table's records; ``totals.recent`` covers `RATE_WINDOW`.
        started: when the latest run began.
    """
    newest, recent = totals.newest, totals.recent
    if newest is None:
        return None
    if started is not None and started < newest:
        begin, shortest = max(started, newest - RATE_WINDOW), SHORTEST_WINDOW
    else:  # no run is known, or the latest one has recorded nothing yet
        begin, shortest = start_of(min(recent)), SHORTEST_SPAN
    if newest - begin < shortest:
        return None
    seconds, first = (newest - begin).total_seconds(), interval_of(begin)
    counted = [work for interval, work in recent.items() if interval > first]
    chunks, nodes = sum(work.chunks for work in counted), sum(work.nodes for work in counted)
    return round(chunks / seconds * 60, 2), round(nodes / seconds, 2)
