"""Publishes missing ids, so that their features are computed. No request waits for Pub/Sub.

`MissingIds.publish` queues ids, and remembers them so that they are not published again soon. A thread
creates the Pub/Sub client, which sends in batches. Each server process starts its thread after the fork, when
it queues its first ids. Ids that could not be sent are forgotten, so that the next request for them
publishes them.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING

from l2features.config.datasets import Dataset
from l2features.core.errors import ConfigError, typed_message
from l2features.core.ids import Ids, as_ids, sorted_unique
from l2features.messages.decoding import MESSAGE_IDS, missing_message
from l2features.pubsub.topic import NAME, PROJECT, TOPIC

from . import metrics
from .recent import RecentIds

if TYPE_CHECKING:
    from google.cloud.pubsub_v1 import PublisherClient

PENDING_IDS, PENDING_MESSAGES = 1_000_000, 10_000
"""Maximum number of ids (8 bytes each), and of messages, that are queued or in flight."""
RETRY_AFTER_S, TIMEOUT_S, LOG_EVERY_S = 5.0, 30.0, 10.0
Table = tuple[str, str]
logger = logging.getLogger("l2features.api")


def topic_path(exchange: str | None, project: str | None) -> str | None:
    """Return the full name, projects/PROJECT/topics/NAME, of a topic; None without a topic.

    ``exchange`` is the topic's full or short name. Raises ConfigError for an invalid name, and for a short
    name without a valid project.
    """
    if not exchange or TOPIC.fullmatch(exchange):
        return exchange or None
    if not re.fullmatch(NAME, exchange):
        raise ConfigError(
            f"L2CACHE_EXCHANGE={exchange!r}: expected projects/PROJECT/topics/NAME, or a NAME of 3 to 255 "
            "letters, digits and -_.~+% that starts with a letter, and not with goog"
        )
    if not re.fullmatch(PROJECT, project or ""):
        raise ConfigError(
            f"PROJECT_ID={project or ''!r}: expected the Google Cloud project of the topic "
            f"L2CACHE_EXCHANGE={exchange!r}, or a full topic name projects/PROJECT/topics/{exchange}"
        )
    return f"projects/{project}/topics/{exchange}"


class MissingIds:
    """Publishes missing ids on a topic, each at most once per ``interval_s`` and process. Thread-safe.

    Without a topic, nothing is published. ``on_failure`` is called in any thread, with the number of ids that
    could not be sent. ``clock`` returns seconds; it measures ``interval_s``.
    """

    def __init__(
        self,
        topic: str | None,
        *,
        interval_s: float = 60.0,
        on_failure: Callable[[int], object] = lambda count: None,
        clock: Callable[[], float] = time.monotonic,
        timeout_s: float = TIMEOUT_S,
        retry_after_s: float = RETRY_AFTER_S,
    ) -> None:
        self.topic, self._on_failure, self._clock = topic, on_failure, clock
        self._timeout_s, self._retry_after_s = timeout_s, retry_after_s
        self._recent = RecentIds(interval_s)
        self._changed = threading.Condition()
        self._thread = ThreadPoolExecutor(1, "missing-ids")
        self._ids = self._messages = self._unlogged = 0
        self._refusal: str | None = None
        self._retry_at = self._log_at = 0.0
        self._closed = self._abandoned = False
        if topic:
            import_module("api.publisher")  # before the fork, so that the processes share its code

    def publish(self, dataset: str, l2cache_id: str, ids: Ids) -> int:
        """Queue the ids that were not published recently; return the number of queued ids.

        ``on_failure`` receives the number of ids that the queue cannot take. Never raises or blocks.
        """
        if self.topic is None or not len(ids):
            return 0
        table, ids = (dataset, l2cache_id), sorted_unique(as_ids(ids))
        with self._changed:
            now = self._clock()
            due = self._recent.unknown(table, ids, now)
            refusal = "the publisher is closed" if self._closed else self._refusal
            if not self._closed and time.monotonic() >= self._retry_at:
                refusal = None
            room = min(PENDING_IDS - self._ids, (PENDING_MESSAGES - self._messages) * MESSAGE_IDS)
            taken = due[: 0 if refusal else room]
            self._recent.add(table, taken, now)
            self._ids += len(taken)
            for first in range(0, len(taken), MESSAGE_IDS):
                self._messages += 1
                self._thread.submit(self._send, table, taken[first : first + MESSAGE_IDS], now)
        if len(due) > len(taken):
            self._report(len(due) - len(taken), refusal or "too many ids are waiting to be published")
        return len(taken)

    def publish_for(self, entry: Dataset, ids: Ids) -> None:
        """Queue the missing ids of a data set, and count the queued ids in the metrics."""
        if len(ids):
            metrics.PUBLISHED.labels(entry.name).inc(self.publish(entry.name, entry.l2cache_id, ids))

    def close(self, timeout_s: float) -> None:
        """Refuse new ids, and send the queued ids. Ids not sent within ``timeout_s`` count as failed."""
        with self._changed:
            if not self._closed and self._ids:
                self._thread.submit(lambda: self._client.stop())  # noqa: PLW0108 (made in the thread)
            self._closed = True
            self._thread.shutdown(wait=False)
            self._changed.wait_for(lambda: not self._ids, timeout_s)
            left, self._ids, self._abandoned = self._ids, 0, True
        if left:
            self._report(left, f"not sent within {timeout_s:g} s of closing")

    @cached_property
    def _client(self) -> PublisherClient:
        from .publisher import make_publisher

        return make_publisher(self._timeout_s)

    def _send(self, table: Table, ids: Ids, added: float) -> None:
        try:
            message = missing_message(ids, *table)
            future = self._client.publish(self.topic, message.data, **message.attributes)
        except Exception as error:  # whatever it is, it is counted and reported
            self._settle(table, ids, added, error)
        else:
            future.add_done_callback(lambda sent: self._settle(table, ids, added, sent.exception()))

    def _settle(self, table: Table, ids: Ids, added: float, error: BaseException | None) -> None:
        """Subtract the ids of a sent or failed message from the number of queued ids.

        After a failure, forget the ids, so that they can be queued again, and refuse all ids for
        ``retry_after_s``, or until another message is sent.
        """
        with self._changed:
            if self._abandoned:
                return
            self._ids -= len(ids)
            self._messages -= 1
            self._changed.notify_all()
            recovered, self._refusal = self._refusal is not None, None
            if error:
                self._recent.forget(table, ids, added)
                self._refusal = reason = typed_message(error)
                self._retry_at = time.monotonic() + self._retry_after_s
            elif recovered:
                fields = {"topic": self.topic, "ids": self._unlogged}
                message = "publishing recovered; %d ids were not sent since the last log line"
                logger.info(message, self._unlogged, extra=fields)
                self._unlogged = 0
        if error:
            self._report(len(ids), reason)

    def _report(self, count: int, reason: str) -> None:
        """Count ids that were not published; log their number at most every `LOG_EVERY_S`."""
        self._on_failure(count)
        with self._changed:
            self._unlogged += count
            if time.monotonic() < self._log_at:
                return
            self._log_at = time.monotonic() + LOG_EVERY_S
            unlogged, self._unlogged = self._unlogged, 0
        fields = {"topic": self.topic, "ids": unlogged, "reason": reason}
        logger.warning("%d missing ids were not published: %s", unlogged, reason, extra=fields)
