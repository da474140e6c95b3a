"""The labels and values of a dashboard, as text. The page and its script show the same text."""

from __future__ import annotations

from datetime import datetime

from rich.filesize import decimal

from l2features.store.notes import shown
from l2features.updates.freshness import SILENT
from l2features.versions.catalog import VersionSummary

from .board_schemas import BoardInfo, HistoryInfo, Line, ProgressInfo, RequestsInfo, SampleInfo
from .schemas import UpdatesInfo

NO_DATA = "no data"
MOST_SHOWN = 20
"""Maximum number of updaters, and of versions, that a dashboard lists."""


def all_lines(info: BoardInfo, now: datetime) -> dict[str, list[Line]]:
    """Return the labels and values of each section of the dashboard as text, by the section's name."""
    known = info.problem is None
    none_reported, none_recorded = ("none has reported", "none is recorded") if known else ("", "")
    none_reported = info.unreadable.get("updates", none_reported)
    none_recorded = info.unreadable.get("audit", none_recorded)
    return {
        "progress": _progress(info.progress) if info.progress else [_none("Chunks")],
        "updates": _updates(info.updates, now) if info.updates else [_none("Updaters", none_reported)],
        "dead": _dead(info.history, info.unreadable.get("history", "")),
        "audit": _audit(info) if info.audit else [_none("Last audit", none_recorded)],
        "versions": _versions(info.versions.versions) if info.versions else [_none("Versions")],
        "requests": _requests(info.requests) if info.requests else [_none("Requests")],
        "sample": _sample(info.sample) if info.sample else [_none("Nodes")],
    }


def _none(label: str, why: str = "") -> Line:
    return Line(label=label, value=f"{NO_DATA}: {why}" if why else NO_DATA, tone="none")


def _progress(found: ProgressInfo) -> list[Line]:
    covered = found.done + found.failed
    if not covered:
        return [_none("Chunks done", f"the table has no record of any of {found.total:,} chunks")]
    share = 100 * found.done / found.total
    lines = [
        Line(label="Chunks done", value=f"{found.done:,} of {found.total:,} ({share:.4g} %)"),
        Line(label="Chunks failed", value=f"{found.failed:,}", tone="bad" if found.failed else "good"),
        Line(label="Nodes", value=f"{found.nodes:,}"),
    ]
    if found.orphans:
        lines.append(Line(label="Supervoxels without a parent", value=f"{found.orphans:,}", tone="bad"))
    if found.chunks_missing_files:
        lines.append(
            Line(label="Chunks with missing files", value=f"{found.chunks_missing_files:,}", tone="bad")
        )
    if found.chunks_per_minute is not None:
        rate = f"{found.chunks_per_minute:g} chunks/min, {found.nodes_per_second:g} nodes/s"
        lines.append(Line(label="Rate in the ingest's last 10 minutes", value=rate))
    else:
        lines.append(_none("Rate"))
    if found.seconds_left is not None:
        lines.append(Line(label="Time left", value=duration(found.seconds_left)))
    elif covered < found.total:
        lines.append(_none("Time left", "no ingest is running"))
    if found.newest:
        lines.append(Line(label="Newest chunk", value=shown(found.newest)))
    return lines


def _updates(found: UpdatesInfo, now: datetime) -> list[Line]:
    lines = []
    lag_label = "Lag in the updater's last hour"
    if operation := found.newest_operation:
        at = f", published {shown(operation.published)}" if operation.published else ""
        lines.append(Line(label="Newest operation applied", value=f"{operation.operation_id}{at}"))
    if found.newest_message:
        lines.append(Line(label="Newest message applied", value=f"published {shown(found.newest_message)}"))
    for updater in found.updaters[:MOST_SHOWN]:
        silent = now - updater.time > SILENT
        state = f"silent since {shown(updater.time)}" if silent else "alive"
        lines.append(Line(label=f"Updater {updater.name}", value=state, tone="bad" if silent else "good"))
        lag = updater.lag
        if lag:
            value = f"median {lag.median_s:g} s, p99 {lag.p99_s:g} s, max {lag.max_s:g} s"
            lines.append(Line(label=lag_label, value=f"{value} of {lag.messages:,} messages"))
        else:
            lines.append(_none(lag_label, "the updater finished no message"))
        if updater.backlog:
            oldest = updater.backlog.oldest
            since = f", the oldest published {shown(oldest)}" if oldest else ""
            lines.append(Line(label="Backlog", value=f"{updater.backlog.messages:,} messages{since}"))
        else:
            lines.append(_none("Backlog", "the updater does not lease messages itself"))
    return lines


def _dead(found: HistoryInfo | None, why: str) -> list[Line]:
    if found is None or found.dead_since is None:
        return [_none("Dead letters", why)]
    since = f"since {shown(datetime.fromtimestamp(60 * found.dead_since, tz=found.as_of.tzinfo))}"
    if not found.dead:
        return [Line(label=f"Dead letters {since}", value="0", tone="good")]
    total = [Line(label=f"Dead letters by reason, {since}", value=f"{len(found.dead)} reasons", tone="bad")]
    return [*total, *(Line(label=reason, value=f"{n:,}", tone="bad") for reason, n in found.dead.items())]


def _audit(info: BoardInfo) -> list[Line]:
    audit = info.audit
    assert audit
    result, tone = ("complete", "good") if audit.complete else ("incomplete", "bad")
    lines = [
        Line(label="Last audit", value=f"{result}, {shown(audit.time)}", tone=tone),  # type: ignore[arg-type]
        Line(label="Nodes expected", value=f"{audit.expected:,}"),
        Line(label="Nodes present", value=f"{audit.present:,}"),
        Line(label="Nodes missing", value=f"{audit.missing:,}", tone="bad" if audit.missing else "good"),
    ]
    for label, number in (
        ("Missing nodes repaired", audit.repaired),
        ("Nodes marked empty", audit.empty),
        ("Superfluous rows", audit.superfluous),
        ("Chunks that could not be audited", audit.unaudited),
        ("Chunks with missing files", audit.files_missing),
    ):
        if number:
            lines.append(Line(label=label, value=f"{number:,}"))
    return lines


def _versions(found: list[VersionSummary]) -> list[Line]:
    if not found:
        return [_none("Versions", "none is frozen")]
    return [_version(version) for version in reversed(found[-MOST_SHOWN:])]


def _version(version: VersionSummary) -> Line:
    label = f"Version {version.number}"
    if version.problem is not None:
        return Line(label=label, value=version.problem, tone="bad")
    at = shown(version.timestamp) if version.timestamp else NO_DATA
    value = f"valid at {at}: {version.nodes or 0:,} nodes, {version.roots or 0:,} roots"
    return Line(label=label, value=f"{value}, {decimal(version.bytes or 0)}")


def _requests(found: RequestsInfo) -> list[Line]:
    lines = [
        Line(label="Requests since the server started", value=f"{found.total:,}"),
        Line(label="Requests failed", value=f"{found.failed:,}", tone="bad" if found.failed else "good"),
    ]
    if found.per_second is None:
        return [*lines, _none("Rate", "known after the second read of the metrics")]
    label = f"Rate in the last {duration(found.window_s or 0)}"
    value = f"{found.per_second:g} requests/s, {found.failed_per_second:g} errors/s"
    return [*lines, Line(label=label, value=value, tone="bad" if found.failed_per_second else "")]


def _sample(found: SampleInfo) -> list[Line]:
    if not found.nodes:
        return [_none("Nodes", "no sampled chunk has a node with features")]
    chunks = "1 random chunk" if found.chunks == 1 else f"{found.chunks:,} random chunks"
    value = f"{found.nodes:,} nodes of {chunks}, including superseded nodes"
    return [Line(label="Sample", value=value)]


def duration(seconds: float) -> str:
    """Return a time span as text, rounded to its one or two largest units.

    >>> duration(5400)
    '1 h 30 min'
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
