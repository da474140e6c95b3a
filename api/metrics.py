"""What the server counts, for Prometheus; right over all its processes."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Histogram(
    "l2cache_request_seconds", "Time to answer.", ["route", "dataset", "status"], buckets=SECONDS
)
IDS = Counter("l2cache_ids_total", "Ids asked for, by what was known of them.", ["dataset", "status"])
STORE_READS = Histogram("l2cache_store_read_seconds", "Time of a read of the store.", ["dataset"], buckets=SECONDS)
STORE_IDS = Counter("l2cache_store_ids_total", "Ids asked of the store.", ["dataset"])
CACHE_LOOKUPS = Counter("l2cache_cache_lookups_total", "Rows looked up in the cache.", ["dataset", "result"])
PUBLISHED = Counter("l2cache_published_ids_total", "Missing ids published for computation.", ["dataset"])
PUBLISH_FAILURES = Counter("l2cache_publish_failed_ids_total", "Missing ids that could not be published.")
REFUSED = Counter("l2cache_refused_total", "Requests refused, by the code of the error.", ["code"])


def exposition() -> tuple[bytes, str]:
    """All metrics in Prometheus' text format, and its content type."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry), CONTENT_TYPE_LATEST
