"""Sums over the records of a table's chunks, in memory that does not grow with the number of chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from ..core.chunks import NO_FILES, FileCounts

if TYPE_CHECKING:
    from .base import ChunkRecord


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INTERVAL = timedelta(milliseconds=100)
"""Length of the intervals for which `ChunkTotals.recent` has sums."""


class Work(NamedTuple):
    """Numbers of chunks and of their nodes."""

    chunks: int
    nodes: int


_NONE = Work(0, 0)


@dataclass
class ChunkTotals:
    """Sums over the records of chunks.

    Attributes:
        nodes, orphans, files: sums over done chunks.
        uncounted: number of done chunks whose record has no file counts, such as those of older versions.
        chunks_missing_files: number of done chunks with missing or empty files.
        saturated: by attribute, how many nodes of done chunks have the maximum of the stored type.
        n_failed: number of failed chunks.
        failed: pairs (chunk id, reason) of the first ``most_failed`` failed chunks.
        newest: time of the newest record of a done chunk.
        recent: `Work` by interval (see `interval_of`), for the ``window`` that ends with ``newest``.
    """

    window: timedelta
    most_failed: int
    done: int = 0
    nodes: int = 0
    orphans: int = 0
    files: FileCounts = NO_FILES
    uncounted: int = 0
    chunks_missing_files: int = 0
    saturated: Counter[str] = field(default_factory=Counter)
    n_failed: int = 0
    failed: list[tuple[int, str]] = field(default_factory=list)
    newest: datetime | None = None
    recent: dict[int, Work] = field(default_factory=dict)
    _first: int = field(default=0, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._most_recent = 2 * (self.window // INTERVAL + 1)

    def add(self, record: ChunkRecord) -> None:
        """Add the record of one chunk."""
        if record.failed:
            self.add_failed(record.chunk_id, record.reason)
            return
        self.done += 1
        self.nodes += record.nodes
        self.orphans += record.orphans
        self.add_files(record.files, record.saturated)
        self.add_newest(record.time)
        self.add_recent(interval_of(record.time), 1, record.nodes)

    def add_failed(self, chunk_id: int, reason: str) -> None:
        """Count a failed chunk. The first ``most_failed`` chunks are also stored with their reasons."""
        self.n_failed += 1
        if len(self.failed) < self.most_failed:
            self.failed.append((chunk_id, reason))

    def add_files(self, files: FileCounts, saturated: Mapping[str, int], chunks: int = 1) -> None:
        """Add the counts of ``chunks`` done chunks, each with these ``files`` and ``saturated`` nodes."""
        if any(files):
            self.files = self.files.plus(FileCounts(*(count * chunks for count in files)))
        self.uncounted += chunks * (not files.expected)
        self.chunks_missing_files += chunks * (files.background > 0)
        for name, count in saturated.items():
            self.saturated[name] += count * chunks

    def add_newest(self, time: datetime) -> None:
        """Set ``newest`` to the time of a done chunk if this time is later."""
        if self.newest is None or time > self.newest:
            self.newest, self._first = time, first_interval(time, self.window)

    def add_recent(self, interval: int, chunks: int, nodes: int) -> None:
        """Add the chunks done in an interval, unless the interval is before the window.

        If a later ``newest`` moves the window, earlier intervals may stay in ``recent`` until `drop_old`
        is called.
        """
        if interval < self._first:
            return
        before = self.recent.get(interval, _NONE)
        self.recent[interval] = Work(before.chunks + chunks, before.nodes + nodes)
        if len(self.recent) > self._most_recent:
            self.drop_old()

    def drop_old(self) -> None:
        """Drop the intervals in ``recent`` that are before the window."""
        self.recent = {interval: work for interval, work in self.recent.items() if interval >= self._first}


def interval_of(time: datetime) -> int:
    """Return the number of whole intervals of length `INTERVAL` from 1970 to a time."""
    return (time - EPOCH) // INTERVAL


def first_interval(newest: datetime, window: timedelta) -> int:
    """Return the first interval of a window that ends with ``newest``."""
    return interval_of(newest) - window // INTERVAL


def start_of(interval: int) -> datetime:
    """Return the time at which an interval starts, in UTC; see `interval_of`."""
    return EPOCH + interval * INTERVAL


def totals_of(records: Iterable[ChunkRecord], window: timedelta, most_failed: int) -> ChunkTotals:
    """Return the sums over records, which are read once."""
    totals = ChunkTotals(window, most_failed)
    for record in records:
        totals.add(record)
    totals.drop_old()
    return totals
