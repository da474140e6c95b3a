"""A Pub/Sub subscription: pulls messages, extends their leases, acknowledges and nacks them.

Messages are pulled by unary requests instead of a stream, so a process leases only messages that it
requested. If it is killed, Pub/Sub redelivers its messages when their leases expire.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config.datasets import PUBSUB_VARIABLE, emulator_address
from ..core.errors import ConfigError, L2FeaturesError
from .topic import NAME, PROJECT

if TYPE_CHECKING:
    from google.pubsub_v1 import SubscriberClient

LEASE_S = 20
"""Length of a lease: a killed process's messages are redelivered after this time."""
TIMEOUT_S, RETRY_S = 20.0, 5.0
"""Deadline of a call, and how long a failed call is retried."""
MAX_ACK_IDS = 1_000
"""Maximum ack ids of one request, which may have 512 KiB."""
SUBSCRIPTION = re.compile(f"projects/{PROJECT}/subscriptions/{NAME}")


class SubscriptionError(L2FeaturesError):
    """Pub/Sub is unavailable, or a call failed."""


class SubscriptionRefused(SubscriptionError):
    """The subscription is missing, access to it is denied, or the request is invalid."""


class Received(NamedTuple):
    """A leased message.

    ``published`` is the publication time in seconds since 1970. ``attempts`` is the number of earlier
    deliveries; 0 if the subscription does not count deliveries.
    """

    ack_id: str
    message_id: str
    data: bytes
    attributes: dict[str, str]
    published: float
    attempts: int


class Subscription:
    """One subscription, ``projects/…/subscriptions/…``. Thread-safe.

    Opening does no I/O. Raises ConfigError for a malformed path.
    """

    def __init__(self, path: str) -> None:
        if not SUBSCRIPTION.fullmatch(path):
            raise ConfigError(f"subscription {path!r}: expected projects/PROJECT/subscriptions/NAME")
        self.path = path
        self._client: SubscriberClient | None = None
        self._lock = threading.Lock()

    def pull(self, most: int, wait_s: float) -> list[Received]:
        """Wait up to ``wait_s`` for messages; return up to ``most``, leased for `LEASE_S`, or an empty list.

        Raises SubscriptionError if Pub/Sub fails.
        """
        from google.api_core.exceptions import DeadlineExceeded

        with self._errors("pull"):
            try:
                answer = self.client.pull(
                    subscription=self.path, max_messages=most, timeout=wait_s, retry=None
                )
            except DeadlineExceeded:
                return []
        received = [_received(message) for message in answer.received_messages]
        self.lease([message.ack_id for message in received])
        return received

    def acknowledge(self, ack_ids: Iterable[str]) -> None:
        """Acknowledge messages. Raises SubscriptionError if Pub/Sub fails."""
        self._call("acknowledge", "acknowledge", ack_ids)

    def lease(self, ack_ids: Iterable[str], seconds: int = LEASE_S) -> None:
        """Extend leases to ``seconds`` from now; 0 nacks the messages.

        Raises SubscriptionError if Pub/Sub fails.
        """
        self._call("extend leases", "modify_ack_deadline", ack_ids, ack_deadline_seconds=seconds)

    def _call(self, what: str, method: str, ack_ids: Iterable[str], **more: int) -> None:
        from google.api_core.retry import Retry

        listed, retry = list(ack_ids), Retry(timeout=RETRY_S)  # Google's default retries for a minute
        for first in range(0, len(listed), MAX_ACK_IDS):
            part = {"subscription": self.path, "ack_ids": listed[first : first + MAX_ACK_IDS]}
            with self._errors(what):
                getattr(self.client, method)(**part, **more, timeout=TIMEOUT_S, retry=retry)

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.transport.close()
            self._client = None

    @property
    def client(self) -> SubscriberClient:
        """Google's client; it raises Google's errors, not SubscriptionError."""
        with self._lock:
            if self._client is None:
                self._client = _open_client()
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


def _open_client() -> SubscriberClient:
    """Return a client that receives messages of any size, also from the emulator.

    By default, Google's client accepts at most 4 MB in a response of the emulator. A larger message would
    block its subscription for ever. Responses of Pub/Sub itself have no such limit.
    """
    from google.pubsub_v1 import SubscriberClient
    from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

    host = emulator_address(PUBSUB_VARIABLE)
    if not host:
        return SubscriberClient()
    import grpc

    channel = grpc.insecure_channel(host, options=[("grpc.max_receive_message_length", -1)])
    return SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))


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
