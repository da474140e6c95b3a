"""Prometheus metrics of the server, summed over its processes."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from functools import partial
from typing import NamedTuple

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

REQUEST_SECONDS = "l2cache_request_seconds"
REQUESTS = Histogram(
    REQUEST_SECONDS,
    "Seconds from a request until its response is ready.",
    ["route", "dataset", "status"],
    buckets=SECONDS,
)
IN_FLIGHT = Gauge(
    "l2cache_requests_in_flight",
    "Requests whose response is not yet sent.",
    multiprocess_mode="livesum",
)
IDS = Counter("l2cache_ids_total", "Requested ids by status.", ["dataset", "status"])
ROOTS = Counter("l2cache_roots_total", "Requested summaries of roots by status.", ["dataset", "status"])
STORE_READS = Histogram("l2cache_store_read_seconds", "Seconds per store read.", ["dataset"], buckets=SECONDS)
STORE_IDS = Counter("l2cache_store_ids_total", "Ids read from the store.", ["dataset"])
VERSION_READS = Histogram(
    "l2cache_version_read_seconds", "Seconds per read of a version.", ["dataset"], buckets=SECONDS
)
VERSION_GROUPS = Counter(
    "l2cache_version_row_groups_total", "Row groups read from Parquet files of versions.", ["dataset"]
)
CACHE_LOOKUPS = Counter("l2cache_cache_lookups_total", "Row cache lookups by result.", ["dataset", "result"])
PUBLISHED = Counter("l2cache_published_ids_total", "Missing ids queued for publishing.", ["dataset"])
PUBLISH_FAILURES = Counter("l2cache_publish_failed_ids_total", "Missing ids that could not be published.")
REFUSED = Counter("l2cache_refused_total", "Error responses by error code.", ["code"])
_newest = partial(Gauge, labelnames=["dataset"], multiprocess_mode="mostrecent")
NEWEST_MESSAGE = _newest(
    "l2cache_newest_message_timestamp_seconds", "Publication time of the newest applied message."
)
UPDATER_SEEN = _newest(
    "l2cache_updater_timestamp_seconds",
    "Time of the newest heartbeat of an updater, which sends one every minute.",
)
BACKLOG = _newest(
    "l2cache_update_backlog_messages", "Messages that the updaters have leased but not finished."
)


def show_updates(dataset: str, updates: Updates | None) -> None:
    """Set a data set's gauges of heartbeat, backlog and newest message.

    Does nothing if ``updates`` is None or lists no updater process.
    """
    if updates is None or not updates.updaters:
        return
    seen = max(updater.time for updater in updates.updaters)
    living = [updater for updater in updates.updaters if seen - updater.time <= SILENT]
    UPDATER_SEEN.labels(dataset).set(seen.timestamp())
    BACKLOG.labels(dataset).set(sum(updater.backlog.messages for updater in living if updater.backlog))
    if updates.newest_message:
        NEWEST_MESSAGE.labels(dataset).set(updates.newest_message.timestamp())


class Requests(NamedTuple):
    """Numbers of requests and of failed requests (status 5xx) since the start of the server."""

    total: float = 0
    failed: float = 0


def request_counts(left_out: Collection[str]) -> dict[str, Requests]:
    """Return the numbers of requests by data set, without those for the routes in ``left_out``.

    Sums over all server processes, exited ones included. Without gunicorn, counts only this process.
    """
    counts: dict[str, Requests] = {}
    families = _AllProcesses().collect() if values.ValueClass._multiprocess else REQUESTS.collect()
    for sample in (sample for family in families for sample in family.samples):
        if sample.name != f"{REQUEST_SECONDS}_count" or sample.labels["route"] in left_out:
            continue
        known = counts.get(sample.labels["dataset"], Requests())
        failed = sample.value if sample.labels["status"] >= "500" else 0
        counts[sample.labels["dataset"]] = Requests(known.total + sample.value, known.failed + failed)
    return counts


def exposition() -> tuple[bytes, str]:
    """Return a tuple: all metrics in Prometheus' text format; the content type.

    Sums over all server processes, exited ones included. Without gunicorn, only this process counts.
    """
    if not values.ValueClass._multiprocess:
        return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
    registry = CollectorRegistry()
    registry.register(_AllProcesses())
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _AllProcesses(Collector):
    """Collects the metrics of all processes from their files; skips the empty files of new processes."""

    def collect(self) -> Iterable[Metric]:
        files = MultiProcessCollector(None)
        with os.scandir(files._path) as folder:
            paths = [f.path for f in folder if f.name.endswith(".db") and f.stat().st_size]
        return files.merge(paths)
