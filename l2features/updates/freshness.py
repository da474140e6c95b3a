"""How fresh a table is: the newest operation applied, the lag of the updates, and their backlog.

A table keeps these figures as the note `updates`, which every updater's `l2features.updates.recorder` writes.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, Field, FiniteFloat

from ..store.base import Store
from ..store.notes import Time, read_note, shown

NOTE = "updates"
"""Under what a table keeps them: the JSON of `Updates`."""
SILENT = timedelta(minutes=3)
"""An updater that has not written for so long is called silent."""


class Operation(BaseModel):
    """An operation of the graph, and when its message was published: messages have no other time."""

    operation_id: int = Field(description="Operation of the graph.")
    published: Time | None = Field(description="When its message was published, where known.")


class Lag(BaseModel):
    """Time from publication of a message until its rows were durable, over those of the last hour."""

    messages: int = Field(description="Messages that the figures are of: the last 1,000 at most.")
    median_s: FiniteFloat = Field(description="Seconds.")
    p99_s: FiniteFloat = Field(description="Seconds.")
    max_s: FiniteFloat = Field(description="Seconds.")


class Backlog(BaseModel):
    """What an updater holds, or knows of, and has not done; of all its data sets."""

    messages: int = Field(description="Messages.")
    oldest: Time | None = Field(description="When the oldest of them was published, where known.")


class Updater(BaseModel):
    """A process that applies messages to the table."""

    name: str = Field(description="Host, process, and a random part.")
    since: Time = Field(description="When it began.")
    time: Time = Field(description="When it wrote this: once a minute at least while it lives.")
    messages: int = Field(description="Messages for this table that it has done.")
    lag: Lag | None = Field(description="Null where no message was done in the last hour.")
    backlog: Backlog | None = Field(description="Null where messages wait elsewhere, as on Dataflow.")


class Updates(BaseModel):
    """How fresh a table is, by the updaters that write it."""

    newest_operation: Operation | None = Field(
        description="Operation, of those whose rows are durable, whose message was published last."
    )
    newest_message: Time | None = Field(
        description="When the newest message was published whose rows are durable."
    )
    updaters: list[Updater]


def read_updates(store: Store) -> Updates | None:
    """What the updaters keep with the table; None where there is none. Raises StoreError."""
    return read_note(store, NOTE, Updates)


def updates_text(updates: Updates | None, now: datetime | None = None) -> str:
    """Lines for reading."""
    if updates is None:
        return "no updates are recorded"
    now = now or datetime.now(UTC)
    lines = []
    if operation := updates.newest_operation:
        lines.append(f"newest operation applied: {operation.operation_id}, {_published(operation.published)}")
    if updates.newest_message:
        lines.append(f"newest message applied: {_published(updates.newest_message)}")
    return "\n".join([*lines, *(_updater_text(updater, now) for updater in updates.updaters)])


def _updater_text(updater: Updater, now: datetime) -> str:
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
    return f"published {shown(time_)}" if time_ else "published at a time that is not known"
