"""The last hours of a table's updates, with one entry per minute.

The entries are in `update_history`, a note (named text) of the table. Each updater adds its figures of the
last minute. If several updaters write in the same minute, their messages and backlogs are summed, and the
lag is that of the slowest updater. If two updaters write at the same moment, the figures of one may be lost.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, model_validator

from ..store.base import Store
from ..store.notes import read_note

NOTE = "update_history"
MINUTE_S = 60
MOST_MINUTES = 12 * 60
"""Maximum number of entries; at about 25 bytes each, the note stays below 20 kB."""
COLUMNS = ("minutes", "messages", "median_s", "p99_s", "backlog")
"""Names of the parallel lists, in the order of an entry's values."""
LAG_MESSAGES = 1000
"""A minute's lag is computed from its last messages, at most this number."""


class UpdateHistory(BaseModel):
    """Figures per minute of the last hours, as parallel lists, oldest first."""

    minutes: list[int] = Field(default_factory=list, description="Minutes since 1970 (UTC).")
    messages: list[int] = Field(default_factory=list, description="Messages done since the previous entry.")
    median_s: list[FiniteFloat | None] = Field(
        default_factory=list, description="Median lag in seconds; null without messages."
    )
    p99_s: list[FiniteFloat | None] = Field(
        default_factory=list, description="99th percentile of the lag in seconds."
    )
    backlog: list[int | None] = Field(
        default_factory=list, description="Leased messages; null if the updaters lease none themselves."
    )
    dead: dict[str, int] = Field(
        default_factory=dict,
        description="Dead letters by reason since `dead_since`. A letter with several reasons counts for "
        "each; a letter that names no table counts in every table of its updater.",
    )
    dead_since: int | None = Field(None, description="When counting began, in minutes since 1970.")

    @model_validator(mode="after")
    def _in_step(self) -> Self:
        lengths = {len(getattr(self, name)) for name in COLUMNS}
        if len(lengths) > 1:
            raise ValueError(f"lists {', '.join(COLUMNS)}: expected equal lengths, got {sorted(lengths)}")
        return self


class Pending:
    """Figures of one updater since its last entry. The argument is that entry's time (seconds since 1970)."""

    def __init__(self, written: float = 0.0) -> None:
        self.written = int(written // MINUTE_S)
        """The minute of the last entry."""
        self.messages = 0
        self.lags: deque[float] = deque(maxlen=LAG_MESSAGES)
        self.dead: Counter[str] = Counter()

    def add(self, lag_s: float | None) -> None:
        """Count a message, and add its lag if known."""
        self.messages += 1
        if lag_s is not None:
            self.lags.append(lag_s)

    def refuse(self, reasons: Iterable[str]) -> None:
        """Count a dead letter under each of its reasons."""
        self.dead.update(reasons)

    def take_back(self, unwritten: Pending) -> None:
        """Add back the figures of an entry that could not be written."""
        self.written = unwritten.written
        self.messages += unwritten.messages
        self.lags.extendleft(reversed(unwritten.lags))
        self.dead += unwritten.dead

    def due(self, now: float) -> bool:
        """Return whether a new minute has begun since the last entry."""
        return int(now // MINUTE_S) != self.written

    def added_to(self, kept: UpdateHistory | None, backlog: int | None, now: float) -> UpdateHistory:
        """Return ``kept`` with one more entry, for the current minute: these figures and ``backlog``.

        If ``kept`` already has an entry for this minute, the two are combined. If ``kept`` is None, a new
        history begins.
        """
        kept = kept or UpdateHistory()
        minute = int(now // MINUTE_S)
        median = p99 = None
        if self.lags:
            median, p99 = np.percentile(list(self.lags), [50, 99]).round(3).tolist()
        entry = [minute, self.messages, median, p99, backlog]
        columns = [list[Any](getattr(kept, name)) for name in COLUMNS]
        if kept.minutes and kept.minutes[-1] == minute:
            _, *others = (column.pop() for column in columns)
            for at, other in enumerate(others, 1):
                known = [value for value in (other, entry[at]) if value is not None]
                entry[at] = (max(known) if at in (2, 3) else sum(known)) if known else None
        for column, value in zip(columns, entry, strict=True):
            column.append(value)
        return UpdateHistory(
            **{name: column[-MOST_MINUTES:] for name, column in zip(COLUMNS, columns, strict=True)},
            dead=dict(sorted((Counter(kept.dead) + self.dead).items())),
            dead_since=kept.dead_since or minute,
        )


def read_history(store: Store) -> UpdateHistory | None:
    """Return a table's history; None if no updater has written it. Raises StoreError."""
    return read_note(store, NOTE, UpdateHistory)
