"""Sum chunk records in SQL, ten times as fast as with a Python object for each record."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from ...core.chunks import FileCounts
from ..base import DONE, FAILED
from ..chunk_totals import ChunkTotals, Work, first_interval, interval_of, start_of
from .tables import TableFormats

ROWS = 50_000
"""Maximum records of a page."""
NO_COUNTS = "{}\t{}"
"""The line (see `Page`) of a record without counts of files and of saturated nodes."""


class Page(NamedTuple):
    """The sums of a page of records.

    Each chunk has a line, the text of its counts: a JSON object for the files, a tab, and a JSON object for
    the saturated nodes.

    Attributes:
        last: key of the last record in the page; None for an empty page.
        alike: number of done chunks whose line equals the argument ``line`` of `read_page`.
        others: lines of the other done chunks, separated by line feeds.
    """

    last: int | None
    done: int
    nodes: int
    orphans: int
    alike: int
    others: str

    def add_to(self, totals: ChunkTotals, line: str) -> str:
        """Add the sums to the totals; return the page's most frequent line.

        ``line`` is the line that `read_page` received. Raises ValueError for a malformed line.
        """
        totals.done += self.done
        totals.nodes += self.nodes
        totals.orphans += self.orphans
        lines = Counter(self.others.split("\n") if self.done > self.alike else ())
        lines[line] += self.alike
        for some, chunks in lines.items():
            totals.add_files(*_files_of(some), chunks)
        return max(lines, key=lines.__getitem__)


def read_page(db: sqlite3.Connection, name: str, formats: TableFormats, first: int, line: str) -> Page:
    """Return the sums of up to `ROWS` records from the key ``first`` on.

    Nearly all done chunks have the same line (see `Page`). Pass it as ``line``, so that SQL counts these
    chunks instead of returning a line for each. The query has a range of keys instead of LIMIT; for
    LIMIT, SQLite would copy all columns of the page.
    """
    chunks = f'FROM "{name}.chunks" WHERE id >= :first'
    keys = f"(SELECT id {chunks} ORDER BY id LIMIT 1 OFFSET {ROWS - 1}), (SELECT MAX(id) {chunks})"
    ((last,),) = db.execute(f"SELECT COALESCE({keys})", {"first": first})
    files, saturated = ("files", "saturated") if formats.chunks > 1 else ("'{}'", "'{}'")
    line_of = f"{files} || char(9) || {saturated}"
    alike = f"{files} = :files AND {saturated} = :saturated"
    sums = (
        "COUNT(*)",
        "COALESCE(SUM(nodes), 0)",
        "COALESCE(SUM(orphans), 0)",
        f"COUNT(*) FILTER (WHERE {alike})",
        f"COALESCE(group_concat({line_of}, char(10)) FILTER (WHERE NOT ({alike})), '')",
    )
    values = dict(zip(("files", "saturated"), line.split("\t"), strict=True), first=first, last=last)
    query = f'SELECT {", ".join(sums)} FROM "{name}.chunks" WHERE id BETWEEN :first AND :last'
    query += f" AND +state = '{DONE}'"  # with "+", SQLite does not look up the page's rows by their state
    return Page(last, *db.execute(query, values).fetchone())


def read_failed(db: sqlite3.Connection, name: str, most: int) -> tuple[int, list[tuple[int, str]]]:
    """Return a tuple: the number of failed chunks; pairs (chunk id, reason) of the first ``most`` of them.

    The pairs are sorted by chunk id as a signed integer.
    """
    chunks = f"FROM \"{name}.chunks\" WHERE state = '{FAILED}'"
    ((count,),) = db.execute(f"SELECT COUNT(*) {chunks}")
    first = db.execute(f"SELECT id, reason {chunks} ORDER BY id LIMIT ?", (most,))
    return count, [(key % (1 << 64), reason) for key, reason in first]


def read_recent(
    db: sqlite3.Connection, name: str, window: timedelta
) -> tuple[datetime | None, dict[int, Work]]:
    """Return a tuple: the time of the newest done chunk; `ChunkTotals.recent` for the window that ends then.

    Each interval (see `chunk_totals.INTERVAL`) with chunks takes two queries, which use the SQL index of
    times. A single query with GROUP BY would make SQLite sort all chunks.
    """
    chunks = f"FROM \"{name}.chunks\" WHERE state = '{DONE}'"
    ((time,),) = db.execute(f"SELECT MAX(time) {chunks}")
    if time is None:
        return None, {}
    newest, recent = datetime.fromisoformat(time), dict[int, Work]()
    first, sums = f"SELECT MIN(time) {chunks} AND time >= ?", f"SELECT COUNT(*), SUM(nodes) {chunks}"
    ((time,),) = db.execute(first, (_text(first_interval(newest, window)),))
    while time is not None:
        interval = interval_of(datetime.fromisoformat(time))
        (found,) = db.execute(f"{sums} AND time >= ? AND time < ?", (time, _text(interval + 1)))
        recent[interval] = Work(*found)
        ((time,),) = db.execute(first, (_text(interval + 1),))
    return newest, recent


def _text(interval: int) -> str:
    """Return text that sorts before the stored times in an interval, and after all earlier ones."""
    start = start_of(interval)
    tenth = start.microsecond // 100_000
    return f"{start:%Y-%m-%dT%H:%M:%S}" + (f".{tenth}" if tenth else "")


@lru_cache(10_000)
def _files_of(line: str) -> tuple[FileCounts, dict[str, int]]:
    files, saturated = map(json.loads, line.split("\t"))
    try:
        return FileCounts(**files), {str(name): int(count) for name, count in saturated.items()}
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"{line!r:.200}: expected two JSON objects, the first with a chunk's numbers of files "
            f"({', '.join(FileCounts._fields)}), the second with the number of nodes per saturated "
            f"attribute: {error}"
        ) from error
