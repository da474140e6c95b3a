"""What the server counts, for Prometheus; right over all its processes."""

from __future__ import annotations

import os
from collections.abc import Iterable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from l2features.updates.freshness import SILENT, Updates

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Histogram(
    "l2cache_request_seconds",
    "Time until an answer is ready to be sent.",
    ["route", "dataset", "status"],
    buckets=SECONDS,
)
IN_FLIGHT = Gauge(
    "l2cache_requests_in_flight",
    "Requests whose answer has not been sent yet.",
    multiprocess_mode="livesum",
)
IDS = Counter("l2cache_ids_total", "Ids asked for, by what was known of them.", ["dataset", "status"])
STORE_READS = Histogram(
    "l2cache_store_read_seconds", "Time of a read of the store.", ["dataset"], buckets=SECONDS
)
STORE_IDS = Counter("l2cache_store_ids_total", "Ids asked of the store.", ["dataset"])
CACHE_LOOKUPS = Counter("l2cache_cache_lookups_total", "Rows looked up in the cache.", ["dataset", "result"])
PUBLISHED = Counter("l2cache_published_ids_total", "Missing ids published for computation.", ["dataset"])
PUBLISH_FAILURES = Counter("l2cache_publish_failed_ids_total", "Missing ids that could not be published.")
REFUSED = Counter("l2cache_refused_total", "Requests refused, by the code of the error.", ["code"])
NEWEST_MESSAGE = Gauge(
    "l2cache_newest_message_timestamp_seconds",
    "When the newest message was published whose rows are durable.",
    ["dataset"],
    multiprocess_mode="mostrecent",
)
UPDATER_SEEN = Gauge(
    "l2cache_updater_timestamp_seconds",
    "When an updater last wrote to the table how fresh it is: once a minute at least while one lives.",
    ["dataset"],
    multiprocess_mode="mostrecent",
)
BACKLOG = Gauge(
    "l2cache_update_backlog_messages",
    "Messages that the updaters hold, or know of, and have not done.",
    ["dataset"],
    multiprocess_mode="mostrecent",
)


def show_updates(dataset: str, updates: Updates | None) -> None:
    """Show what is kept with a table of its updates."""
    if updates is None or not updates.updaters:
        return
    seen = max(updater.time for updater in updates.updaters)
    living = [updater for updater in updates.updaters if seen - updater.time <= SILENT]
    UPDATER_SEEN.labels(dataset).set(seen.timestamp())
    BACKLOG.labels(dataset).set(sum(updater.backlog.messages for updater in living if updater.backlog))
    if updates.newest_message:
        NEWEST_MESSAGE.labels(dataset).set(updates.newest_message.timestamp())


def exposition() -> tuple[bytes, str]:
    """All metrics in Prometheus' text format, and its content type.

    They are those of all processes of the server, also of those that have ended; or of this process alone
    where it is no server's.
    """
    if not values.ValueClass._multiprocess:
        return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
    registry = CollectorRegistry()
    registry.register(_AllProcesses())
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _AllProcesses(Collector):
    """The library's collector, which cannot read a file that a new process has only just made."""

    def collect(self) -> Iterable[Metric]:
        files = MultiProcessCollector(None)
        folder = os.scandir(files._path)
        with folder:
            paths = [f.path for f in folder if f.name.endswith(".db") and f.stat().st_size]
        return files.merge(paths)
