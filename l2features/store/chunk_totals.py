"""Sums over the records of a table's chunks, in memory that does not grow with the number of chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ..core.chunks import NO_FILES, FileCounts

if TYPE_CHECKING:
    from .base import ChunkRecord

MAX_RECENT = 100_000
"""Number of recent chunks in memory from which on chunks that left the window are dropped."""


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
        recent: pairs (time, number of nodes) of the chunks done in the ``window`` that ends at ``newest``.
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
    recent: list[tuple[datetime, int]] = field(default_factory=list)
    _most_recent: int = field(default=MAX_RECENT, init=False, compare=False, repr=False)

    def add(self, record: ChunkRecord) -> None:
        """Add the record of one chunk."""
        if record.failed:
            self.add_failed(record.chunk_id, record.reason)
            return
        self.done += 1
        self.nodes += record.nodes
        self.orphans += record.orphans
        self.add_files(record.files, record.saturated)
        self.add_recent(record.time, record.nodes)

    def add_failed(self, chunk_id: int, reason: str) -> None:
        """Count a failed chunk, and store its reason if it is among the first ``most_failed``."""
        self.n_failed += 1
        if len(self.failed) < self.most_failed:
            self.failed.append((chunk_id, reason))

    def add_files(self, files: FileCounts, saturated: Mapping[str, int], chunks: int = 1) -> None:
        """Add counts of files and of saturated nodes for ``chunks`` done chunks, each of which has these."""
        if any(files):
            self.files = self.files.plus(FileCounts(*(count * chunks for count in files)))
        self.uncounted += chunks * (not files.expected)
        self.chunks_missing_files += chunks * (files.background > 0)
        for name, count in saturated.items():
            self.saturated[name] += count * chunks

    def add_recent(self, time: datetime, nodes: int) -> None:
        """Add a done chunk to ``recent`` if its time is in the window. `in_window` drops older chunks."""
        if self.newest is None or time > self.newest:
            self.newest = time
            if len(self.recent) > self._most_recent:  # doubled, so that each one is looked at a few times
                self.recent = self.in_window()
                self._most_recent = max(MAX_RECENT, 2 * len(self.recent))
        if self.newest - time <= self.window:
            self.recent.append((time, nodes))

    def in_window(self) -> list[tuple[datetime, int]]:
        """Return the pairs of ``recent`` whose time is in the ``window`` that ends at ``newest``."""
        return [(time, n) for time, n in self.recent if self.newest and self.newest - time <= self.window]


def totals_of(records: Iterable[ChunkRecord], window: timedelta, most_failed: int) -> ChunkTotals:
    """Return the sums over records, which are read once."""
    totals = ChunkTotals(window, most_failed)
    for record in records:
        totals.add(record)
    totals.recent = totals.in_window()
    return totals
