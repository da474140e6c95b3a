"""Messages and dead letters to a Pub/Sub topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .deadletters import DeadLetter, DeadLetterError
from .letter_attributes import ROOM_BYTES, topic_message

if TYPE_CHECKING:
    from google.pubsub_v1 import PublisherClient

TIMEOUT_S = 30.0


class BadLetter(DeadLetterError):
    """Pub/Sub will never take this message."""


class Topic:
    """Publishes to one topic, ``projects/…/topics/…``, and waits until Pub/Sub has each message."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._client: PublisherClient | None = None

    def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
        """Publish a message. Raises DeadLetterError, and BadLetter for one that is too large or empty.

        To one that is too large the emulator does not answer, and Google's client would try for ten minutes.
        """
        from google.api_core.exceptions import GoogleAPIError, InvalidArgument
        from google.api_core.retry import Retry
        from google.auth.exceptions import GoogleAuthError
        from google.pubsub_v1 import PublisherClient

        if len(data) > ROOM_BYTES:
            raise BadLetter(f"cannot publish {len(data)} bytes: expected {ROOM_BYTES} at most")
        try:
            self._client = self._client or PublisherClient()
            message: dict[str, Any] = {"data": data, "attributes": dict(attributes)}
            self._client.publish(
                topic=self.path, messages=[message], timeout=TIMEOUT_S, retry=Retry(timeout=TIMEOUT_S)
            )
        except InvalidArgument as error:
            raise BadLetter(f"topic {self.path}: cannot publish: {error}") from error
        except (GoogleAPIError, GoogleAuthError) as error:
            raise DeadLetterError(f"topic {self.path}: cannot publish: {error}") from error

    def put(self, letter: DeadLetter) -> None:
        """Publish a dead letter, without its payload if that is too large. Raises DeadLetterError."""
        self.publish(*topic_message(letter))

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.transport.close()
            self._client = None
