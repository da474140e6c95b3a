"""The Pub/Sub client that sends missing ids in batches. Only servers with a topic import it: it is large."""

from __future__ import annotations

from google.api_core.exceptions import Aborted, ServerError, TooManyRequests
from google.api_core.retry import Retry, if_exception_type
from google.cloud.pubsub_v1 import PublisherClient
from google.cloud.pubsub_v1.types import BatchSettings, PublisherOptions

BATCH = BatchSettings(max_messages=1_000, max_bytes=5 << 20, max_latency=0.5)
"""Limits of one publish request. Messages are collected for 0.5 s, so that there are few requests: during an
outage, each request blocks a thread."""
_TRANSIENT = if_exception_type(Aborted, ServerError, TooManyRequests)


def make_publisher(timeout_s: float) -> PublisherClient:
    """Return a client that retries transient errors for ``timeout_s``."""
    retry = Retry(predicate=_TRANSIENT, initial=0.1, maximum=5.0, timeout=timeout_s)
    return PublisherClient(BATCH, PublisherOptions(retry=retry, timeout=timeout_s / 3))
