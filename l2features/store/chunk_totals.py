"""Sums over the records of a table's chunks, in memory that does not grow with the number of chunks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from ..core.chunks import NO_FILES, FileCounts

if TYPE_CHECKING:
    from .base import ChunkRecord


class Work(NamedTuple):
    """Numbers of chunks and of their nodes."""

    chunks: int
    nodes: int


@dataclass
class ChunkTotals:
    """Sums over the records of chunks.

    Attributes:
        nodes, orphans, files: sums over done chunks.
        uncounted: number of done chunks whose record has no file counts, from an older version.
        chunks_missing_files: number of done chunks with missing or empty files.
        saturated: by attribute, the nodes of done chunks whose value is the maximum of the stored type.
        n_failed: number of failed chunks.
        failed: pairs (chunk id, reason) of the first ``most_failed`` failed chunks.
        newest: time of the newest record of a done chunk.
        recent: by second since 1970, the `Work` done in the ``window`` that ends with ``newest``.
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
        self.add_recent(second_of(record.time), Work(1, record.nodes))

    def add_failed(self, chunk_id: int, reason: str) -> None:
        """Count a failed chunk. The first ``most_failed`` chunks are also stored with their reasons."""
        self.n_failed += 1
        if len(self.failed) < self.most_failed:
            self.failed.append((chunk_id, reason))

    def add_files(self, files: FileCounts, saturated: Mapping[str, int], chunks: int = 1) -> None:
        """Add one done chunk's counts of files and of saturated nodes, ``chunks`` times."""
        if any(files):
            self.files = self.files.plus(FileCounts(*(count * chunks for count in files)))
        self.uncounted += chunks * (not files.expected)
        self.chunks_missing_files += chunks * (files.background > 0)
        for name, count in saturated.items():
            self.saturated[name] += count * chunks

    def add_newest(self, time: datetime) -> None:
        """Set ``newest`` to the time of a done chunk if this time is later."""
        self.newest = max(time, self.newest or time)

    def add_recent(self, second: int, work: Work) -> None:
        """Add the chunks done in a second, unless the second is before the window.

        A later ``newest`` moves the window; `drop_old` then drops the seconds before it.
        """
        if second < self.oldest_second:
            return
        chunks, nodes = self.recent.get(second, (0, 0))
        self.recent[second] = Work(chunks + work.chunks, nodes + work.nodes)
        if len(self.recent) > 2 * (self.window.total_seconds() + 1):
            self.drop_old()

    def drop_old(self) -> None:
        """Drop the seconds in ``recent`` that are before the window."""
        oldest = self.oldest_second
        self.recent = {second: work for second, work in self.recent.items() if second >= oldest}

    @property
    def oldest_second(self) -> int:
        """The first second of the window, since 1970; 0 without a done chunk."""
        return second_of(self.newest) - int(self.window.total_seconds()) if self.newest else 0


def second_of(time: datetime) -> int:
    """Return the second in which a time falls, since 1970."""
    return math.floor(time.timestamp())


def totals_of(records: Iterable[ChunkRecord], window: timedelta, most_failed: int) -> ChunkTotals:
    """Return the sums over records, which are read once."""
    totals = ChunkTotals(window, most_failed)
    for record in records:
        totals.add(record)
    totals.drop_old()
    return totals
