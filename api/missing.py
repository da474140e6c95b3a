"""Publishing of missing ids, so that their features are computed; a request never waits for Pub/Sub.

``publish`` only remembers and queues; a thread of its own, started with the first id and thus after a
fork, makes the client and sends. What is queued is bounded. Ids that could not be sent are forgotten,
so that the next request for them publishes them.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from google.api_core.exceptions import (
    Aborted,
    DeadlineExceeded,
    InternalServerError,
    ResourceExhausted,
    ServiceUnavailable,
    Unknown,
)
from google.api_core.retry import Retry, if_exception_type
from google.api_core.timeout import ConstantTimeout
from google.pubsub_v1 import PublisherClient

from l2features.core.errors import ConfigError
from l2features.core.ids import Ids, as_ids, sorted_unique
from l2features.messages.decoding import MESSAGE_IDS, message_slices, missing_message

from .recent import RecentIds

PENDING_IDS, PENDING_MESSAGES = 1_000_000, 10_000
"""Most that waits to be sent, or is being sent: 16 MB of ids."""
REQUEST_MESSAGES = 1_000
"""Most of one publish request, which are 4 MB of ids; Pub/Sub takes so many, and 10 MB."""
RETRY_AFTER_S = 5.0
TIMEOUT_S = 30.0
LOG_EVERY_S = 10.0
_PROJECT = r"[A-Za-z0-9][-.:A-Za-z0-9]*"
_NAME = r"(?!goog)[A-Za-z][-_.~+%A-Za-z0-9]{2,254}"
_PATH = re.compile(f"projects/{_PROJECT}/topics/{_NAME}")
_TRANSIENT = if_exception_type(
    Aborted, DeadlineExceeded, InternalServerError, ResourceExhausted, ServiceUnavailable, Unknown
)

logger = logging.getLogger("l2features.api")


def topic_path(exchange: str | None, project: str | None) -> str | None:
    """Full path of the topic that ``$L2CACHE_EXCHANGE`` names, in short or in full; None for none.

    Raises ConfigError for what cannot be a topic, and for a short name without a project.
    """
    if not exchange:
        return None
    if _PATH.fullmatch(exchange):
        return exchange
    if not re.fullmatch(_NAME, exchange):
        raise ConfigError(
            f"L2CACHE_EXCHANGE={exchange!r}: expected projects/PROJECT/topics/NAME, or a NAME of 3 to 255 "
            "letters, digits and -_.~+% that starts with a letter, and not with goog"
        )
    if not re.fullmatch(_PROJECT, project or ""):
        raise ConfigError(
            f"L2CACHE_EXCHANGE={exchange!r} needs a project: expected PROJECT_ID to name one, got {project!r}"
        )
    return f"projects/{project}/topics/{exchange}"


class _Part(NamedTuple):
    """The ids of one message, and the numbers by which they are remembered."""

    table: tuple[str, str]
    ids: Ids
    numbers: npt.NDArray[np.int64]


def _uncounted(count: int) -> None:
    """For those who do not count failures."""


class MissingIds:
    """Asks for the features of ids on a topic, for each id at most once in ``interval_s`` per process.

    With no topic nothing is published. ``on_failure`` is told how many ids were due and could not be sent,
    by the caller's thread or by that which sends; ``clock`` is the interval's. It may be used by several
    threads.
    """

    def __init__(
        self,
        topic: str | None,
        *,
        interval_s: float = 60.0,
        on_failure: Callable[[int], None] = _uncounted,
        clock: Callable[[], float] = time.monotonic,
        timeout_s: float = TIMEOUT_S,
        retry_after_s: float = RETRY_AFTER_S,
    ) -> None:
        self.topic, self._on_failure, self._clock = topic, on_failure, clock
        self._timeout_s, self._retry_after_s = timeout_s, retry_after_s
        self._recent = RecentIds(interval_s)
        self._changed = threading.Condition()
        self._queue: deque[_Part] = deque()
        self._pending_ids = self._pending_parts = 0
        self._thread: threading.Thread | None = None
        self._refusal: str | None = None
        self._retry_at = self._log_at = 0.0
        self._unlogged = 0
        self._closing = self._abandoned = False

    def publish(self, dataset: str, l2cache_id: str, ids: Ids) -> int:
        """Queue those ids that were not published lately; gives their number. It never raises or blocks."""
        if self.topic is None or not len(ids):
            return 0
        table, ids = (dataset, l2cache_id), sorted_unique(as_ids(ids))
        with self._changed:
            now = self._clock()
            due = self._recent.unknown(table, ids, now)
            refusal = self._refuses()
            room = 0 if refusal else self._room()
            taken, refused = due[:room], due[room:]
            numbers = self._recent.add(table, taken, now)
            for part in message_slices(len(taken)):
                self._queue.append(_Part(table, taken[part], numbers[part]))
                self._pending_parts += 1
            if len(taken):
                self._pending_ids += len(taken)
                self._run_thread()
                self._changed.notify_all()
        if len(refused):
            self._report(len(refused), refusal or "too many ids are waiting to be published")
        return len(taken)

    def close(self, timeout_s: float) -> None:
        """Send what is queued, for at most ``timeout_s``; then nothing more is published."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        with self._changed:
            left, self._abandoned = 0 if self._abandoned else self._pending_ids, True
            self._queue.clear()
        if left:
            self._report(left, f"not sent within {timeout_s:g} s of closing")

    def _refuses(self) -> str | None:
        """Why nothing is taken just now, if so."""
        if self._closing:
            return "the publisher is closed"
        return self._refusal if time.monotonic() < self._retry_at else None

    def _room(self) -> int:
        """How many ids may be queued."""
        messages = PENDING_MESSAGES - self._pending_parts
        return min(PENDING_IDS - self._pending_ids, messages * MESSAGE_IDS)

    def _run_thread(self) -> None:
        """Start the thread that sends, also where a fork has left it behind."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._send_all, name="missing-ids", daemon=True)
            self._thread.start()

    def _send_all(self) -> None:
        client: PublisherClient | None = None
        while parts := self._take():
            try:
                client = client or PublisherClient()
                self._send(client, parts)
            # Whatever it is: it is reported, and the thread must go on.
            except Exception as error:
                self._fail(parts, error)
            else:
                self._succeed(parts)
        if client:
            client.transport.close()

    def _take(self) -> list[_Part]:
        """The parts of the next request, as soon as there are any; none at the end."""
        with self._changed:
            while not self._closing:
                pause = self._retry_at - time.monotonic()
                if self._queue and pause <= 0:
                    break
                self._changed.wait(pause if self._queue else None)
            return [self._queue.popleft() for _ in range(min(len(self._queue), REQUEST_MESSAGES))]

    def _send(self, client: PublisherClient, parts: list[_Part]) -> None:
        messages = [missing_message(part.ids, *part.table) for part in parts]
        client.publish(
            topic=self.topic,
            messages=[{"data": m.data, "attributes": dict(m.attributes)} for m in messages],
            retry=Retry(predicate=_TRANSIENT, initial=0.1, maximum=5.0, timeout=self._timeout_s),
            timeout=ConstantTimeout(self._timeout_s / 3),
        )

    def _succeed(self, parts: list[_Part]) -> None:
        with self._changed:
            self._sent(parts)
            recovered, self._refusal = self._refusal is not None, None
            unlogged = self._unlogged if recovered else 0
            self._unlogged -= unlogged
        if recovered:
            fields = {"topic": self.topic, "ids": unlogged}
            logger.info("missing ids are published again; %d more were not", unlogged, extra=fields)

    def _fail(self, parts: list[_Part], error: Exception) -> None:
        """Forget the ids that could not be sent, and take no others for some seconds."""
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        with self._changed:
            if self._abandoned:
                return
            count = self._sent(parts)
            for part in parts:
                self._recent.forget(part.table, part.ids, part.numbers)
            self._refusal, self._retry_at = reason, time.monotonic() + self._retry_after_s
        self._report(count, reason)

    def _sent(self, parts: list[_Part]) -> int:
        """Parts are no longer pending; gives the number of their ids."""
        count = sum(len(part.ids) for part in parts)
        self._pending_ids -= count
        self._pending_parts -= len(parts)
        return count

    def _report(self, count: int, reason: str) -> None:
        """Count ids that were not published, and say so in a line every few seconds."""
        self._on_failure(count)
        with self._changed:
            self._unlogged += count
            if time.monotonic() < self._log_at:
                return
            self._log_at = time.monotonic() + LOG_EVERY_S
            unlogged, self._unlogged = self._unlogged, 0
        fields = {"topic": self.topic, "ids": unlogged, "reason": reason}
        logger.warning("%d missing ids were not published: %s", unlogged, reason, extra=fields)
