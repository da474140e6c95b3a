"""A Pub/Sub topic: publishes one message at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..core.errors import L2FeaturesError

if TYPE_CHECKING:
    from google.pubsub_v1 import PublisherClient

PROJECT, NAME = r"[A-Za-z0-9][-.:A-Za-z0-9]*", r"(?!goog)[A-Za-z][-_.~+%A-Za-z0-9]{2,254}"
"""Patterns of the name of a project, and of the name of a topic or subscription."""
TOPIC = re.compile(f"projects/{PROJECT}/topics/{NAME}")
TIMEOUT_S, CHECK_S = 30.0, 10.0
"""Time limits, in seconds, for publishing a message and for checking that the topic exists."""
MAX_REQUEST_BYTES = 10_000_000
"""Pub/Sub's limit for a publish request."""
ROOM_BYTES = MAX_REQUEST_BYTES - 4_000
"""Maximum bytes of a message's payload and attributes; a request also has framing and the topic's name."""


class PublishError(L2FeaturesError):
    """A message cannot be published."""


class Unpublishable(PublishError):
    """Pub/Sub never accepts this message."""


class Topic:
    """Publishes to one topic, ``projects/…/topics/…``, and waits until Pub/Sub has stored each message."""

    def __init__(self, path: str) -> None:
        self.path = path

    def check(self) -> None:
        """Raise PublishError if the topic is missing.

        Raises nothing if the topic cannot be checked: without permission, or while Pub/Sub is unavailable.
        """
        from google.api_core.exceptions import GoogleAPIError, InvalidArgument, NotFound
        from google.api_core.retry import Retry
        from google.auth.exceptions import GoogleAuthError

        try:
            self.client.get_topic(topic=self.path, timeout=CHECK_S, retry=Retry(timeout=CHECK_S))
        except (InvalidArgument, NotFound) as error:
            raise PublishError(f"topic {self.path}: cannot publish: {error}") from error
        except (GoogleAPIError, GoogleAuthError):
            pass

    def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
        """Publish a message.

        The size is checked here, because the emulator does not answer a request that is too large.

        Raises:
            Unpublishable: the message is too large or empty.
            PublishError: Pub/Sub is unavailable, or the topic is missing.
        """
        from google.api_core.exceptions import GoogleAPIError, InvalidArgument
        from google.api_core.retry import Retry
        from google.auth.exceptions import GoogleAuthError

        if len(data) > ROOM_BYTES:
            raise Unpublishable(
                f"topic {self.path}: cannot publish {len(data)} bytes: expected {ROOM_BYTES} at most"
            )
        try:
            message: dict[str, Any] = {"data": data, "attributes": dict(attributes)}
            self.client.publish(
                topic=self.path, messages=[message], timeout=TIMEOUT_S, retry=Retry(timeout=TIMEOUT_S)
            )
        except InvalidArgument as error:
            raise Unpublishable(f"topic {self.path}: cannot publish: {error}") from error
        except (GoogleAPIError, GoogleAuthError) as error:
            raise PublishError(f"topic {self.path}: cannot publish: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        if client := self.__dict__.pop("client", None):
            client.transport.close()

    @cached_property
    def client(self) -> PublisherClient:
        """Google's client; it raises Google's errors, not PublishError."""
        from google.pubsub_v1 import PublisherClient

        return PublisherClient()
