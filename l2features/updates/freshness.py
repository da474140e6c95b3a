"""Freshness of a table: its newest applied operation, and the lag and backlog of its updaters.

Each updater writes these figures to `updates`, a note (named text) of the table.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, Field, FiniteFloat

from ..store.base import Store
from ..store.notes import Time, read_note, shown

NOTE = "updates"
"""Name of the note that stores `Updates` as JSON."""
SILENT = timedelta(minutes=3)
"""Time without a record after which an updater is reported as silent."""


class Operation(BaseModel):
    """An operation of the graph, and when its message was published."""

    operation_id: int = Field(description="Number of the operation.")
    published: Time | None = Field(description="When the operation's message was published, if known.")


class Lag(BaseModel):
    """Time from a message's publication until its rows are durable, over the last hour."""

    messages: int = Field(description="Number of messages; at most the latest 1,000.")
    median_s: FiniteFloat = Field(description="Median in seconds.")
    p99_s: FiniteFloat = Field(description="99th percentile in seconds.")
    max_s: FiniteFloat = Field(description="Maximum in seconds.")


class Backlog(BaseModel):
    """Messages that an updater has leased but not finished, for all of its data sets."""

    messages: int = Field(description="Number of messages.")
    oldest: Time | None = Field(description="When the oldest message was published, if known.")


class UpdaterRecord(BaseModel):
    """A process that applies messages to the table."""

    name: str = Field(description="Host, process id and a random part.")
    since: Time = Field(description="When the updater started.")
    time: Time = Field(
        description="When the updater wrote this record; at least once a minute while it runs."
    )
    messages: int = Field(description="Messages for this table that the updater has finished.")
    lag: Lag | None = Field(description="Lag of messages; null if none was finished in the last hour.")
    backlog: Backlog | None = Field(
        description="Leased messages; null if the updater leases none itself, as on Dataflow."
    )


class Updates(BaseModel):
    """Freshness of a table, as its updaters record it."""

    newest_operation: Operation | None = Field(
        description="The operation with the newest message, of all operations with durable rows."
    )
    newest_message: Time | None = Field(
        description="When the newest message with durable rows was published."
    )
    updaters: list[UpdaterRecord]


def read_updates(store: Store) -> Updates | None:
    """Return the freshness that the updaters recorded; None if they recorded nothing. Raises StoreError."""
    return read_note(store, NOTE, Updates)


def updates_text(updates: Updates | None, now: datetime | None = None) -> str:
    """Return the freshness as lines of text."""
    if updates is None:
        return "no updates are recorded"
    now = now or datetime.now(UTC)
    lines = []
    if operation := updates.newest_operation:
        lines.append(f"newest operation applied: {operation.operation_id}, {_published(operation.published)}")
    if updates.newest_message:
        lines.append(f"newest message applied: {_published(updates.newest_message)}")
    return "\n".join([*lines, *(_updater_text(updater, now) for updater in updates.updaters)])


def _updater_text(updater: UpdaterRecord, now: datetime) -> str:
    silent = f", silent since {shown(updater.time)}" if now - updater.time > SILENT else ""
    lag, backlog = updater.lag, updater.backlog
    parts = [f"updater {updater.name}{silent}: {updater.messages} messages since {shown(updater.since)}"]
    if lag:
        figures = f"median {lag.median_s:g} s, p99 {lag.p99_s:g} s, max {lag.max_s:g} s"
        parts.append(f"  lag of the last {lag.messages}: {figures}")
    if backlog:
        oldest = f", the oldest {_published(backlog.oldest)}" if backlog.oldest else ""
        parts.append(f"  backlog: {backlog.messages} messages{oldest}")
    return "\n".join(parts)


def _published(time_: datetime | None) -> str:
    return f"published {shown(time_)}" if time_ else "published at an unknown time"
