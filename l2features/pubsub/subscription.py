"""A Pub/Sub subscription: messages pulled, their leases prolonged, acknowledged.

Pulls are unary: what was pulled is known at once, and nothing is in flight when a process is killed but what
it holds, which comes again when its lease ends.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.errors import ConfigError, L2FeaturesError

if TYPE_CHECKING:
    from google.api_core.retry import Retry
    from google.pubsub_v1 import SubscriberClient

LEASE_S = 20
"""For how long messages are held at a time. What a process holds that is killed comes again after it."""
TIMEOUT_S, RETRY_S = 20.0, 5.0
"""Of a call, and for how long one is repeated that failed: what waits for it has other things to do."""
MAX_ACK_IDS = 1_000
"""Of one request, which may have 512 KiB."""
_SUBSCRIPTION = re.compile(
    r"projects/[A-Za-z0-9][-.:A-Za-z0-9]*/subscriptions/(?!goog)[A-Za-z][-_.~+%A-Za-z0-9]{2,254}"
)


class SubscriptionError(L2FeaturesError):
    """Pub/Sub cannot be reached."""


class SubscriptionRefused(SubscriptionError):
    """There is no such subscription, or it is not ours to read."""


class Received(NamedTuple):
    """A message that is held; ``published`` is when it was sent (seconds since 1970), ``attempts`` how often
    it came before where the subscription counts."""

    ack_id: str
    message_id: str
    data: bytes
    attributes: dict[str, str]
    published: float
    attempts: int


class Subscription:
    """One subscription, ``projects/…/subscriptions/…``; opening touches nothing. Raises ConfigError.

    Several threads may use it.
    """

    def __init__(self, path: str) -> None:
        if not _SUBSCRIPTION.fullmatch(path):
            raise ConfigError(f"subscription {path!r}: expected projects/PROJECT/subscriptions/NAME")
        self.path = path
        self._client: SubscriberClient | None = None
        self._lock = threading.Lock()

    def pull(self, most: int, wait_s: float) -> list[Received]:
        """Messages, as soon as there are any, held for `LEASE_S`; none if none come in ``wait_s``.

        Raises SubscriptionError.
        """
        from google.api_core.exceptions import DeadlineExceeded

        with self._errors("pull"):
            try:
                answer = self._open().pull(
                    subscription=self.path, max_messages=most, timeout=wait_s, retry=None
                )
            except DeadlineExceeded:
                return []
        received = [_received(message) for message in answer.received_messages]
        self.hold([message.ack_id for message in received])
        return received

    def acknowledge(self, ack_ids: Iterable[str]) -> None:
        """Messages are done, and do not come again. Raises SubscriptionError."""
        for part in _parts(ack_ids):
            with self._errors("acknowledge"):
                self._open().acknowledge(
                    subscription=self.path, ack_ids=part, timeout=TIMEOUT_S, retry=_retry()
                )

    def hold(self, ack_ids: Iterable[str], seconds: int = LEASE_S) -> None:
        """Messages do not come again for so long; with 0, they come again now. Raises SubscriptionError."""
        for part in _parts(ack_ids):
            with self._errors("hold"):
                self._open().modify_ack_deadline(
                    subscription=self.path,
                    ack_ids=part,
                    ack_deadline_seconds=seconds,
                    timeout=TIMEOUT_S,
                    retry=_retry(),
                )

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.transport.close()
            self._client = None

    def _open(self) -> SubscriberClient:
        from .clients import open_subscriber

        with self._lock:
            if self._client is None:
                self._client = open_subscriber()
            return self._client

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        from google.api_core.exceptions import GoogleAPIError, InvalidArgument, NotFound, PermissionDenied
        from google.auth.exceptions import GoogleAuthError

        try:
            yield
        except (InvalidArgument, NotFound, PermissionDenied) as error:
            raise SubscriptionRefused(f"{self.path}: cannot {what}: {error}") from error
        except (GoogleAPIError, GoogleAuthError) as error:
            raise SubscriptionError(f"{self.path}: cannot {what}: {error}") from error


def _received(message: Any) -> Received:
    inner = message.message
    return Received(
        message.ack_id,
        inner.message_id,
        inner.data,
        dict(inner.attributes),
        inner.publish_time.timestamp() if inner.publish_time else 0.0,
        max(message.delivery_attempt - 1, 0),
    )


def _retry() -> Retry:
    """How a call is repeated; Google's own goes on for a minute."""
    from google.api_core.retry import Retry

    return Retry(timeout=RETRY_S)


def _parts(ack_ids: Iterable[str]) -> Iterator[list[str]]:
    listed = list(ack_ids)
    for first in range(0, len(listed), MAX_ACK_IDS):
        yield listed[first : first + MAX_ACK_IDS]
