"""Messages and dead letters to a Pub/Sub topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .deadletters import DeadLetter, DeadLetterError

if TYPE_CHECKING:
    from google.pubsub_v1 import PublisherClient

TIMEOUT_S = 30.0
MAX_ATTRIBUTES, MAX_KEY_BYTES, MAX_VALUE_BYTES = 100, 256, 1_024
MAX_MESSAGE_BYTES = 10_000_000
"""Pub/Sub's limits of a message; keys of attributes must not begin with ``goog``."""
PREFIX = "dead_letter_"
"""Of the attributes that say why a message is a dead letter."""


class Topic:
    """Publishes to one topic, ``projects/…/topics/…``, and waits until Pub/Sub has each message."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._client: PublisherClient | None = None

    def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
        """Publish a message. Raises DeadLetterError."""
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from google.pubsub_v1 import PublisherClient

        try:
            self._client = self._client or PublisherClient()
            message: dict[str, Any] = {"data": data, "attributes": dict(attributes)}
            self._client.publish(topic=self.path, messages=[message], timeout=TIMEOUT_S)
        except (GoogleAPIError, GoogleAuthError) as error:
            raise DeadLetterError(f"topic {self.path}: cannot publish: {error}") from error

    def put(self, letter: DeadLetter) -> None:
        """Publish a dead letter. Raises DeadLetterError."""
        self.publish(letter.data, topic_attributes(letter))

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.transport.close()
            self._client = None


def topic_attributes(letter: DeadLetter) -> dict[str, str]:
    """A dead letter's own attributes, and why it is one, as far as Pub/Sub's limits allow.

    Of the ids, sorted, as many as fit are told; ``dead_letter_id_count`` is how many there are. An attribute
    that the limits do not allow, or for which there is no room, is left out.
    """
    ids = letter.ids
    told = {
        "reasons": _listed(letter.reasons),
        "attempts": str(letter.attempts),
        "time": letter.time.isoformat(timespec="seconds"),
        "id_count": str(len(ids)),
        "ids": _listed(map(str, ids)),
        "detail": _cut("; ".join(refusal.detail for refusal in letter.refusals)),
    }
    if not ids:
        del told["ids"]
    ours = {PREFIX + name: value for name, value in told.items() if value}
    theirs = {key: value for key, value in letter.attributes.items() if not key.startswith(PREFIX)}
    attributes: dict[str, str] = {}
    room = MAX_MESSAGE_BYTES - len(letter.data)
    for key, value in [*list(theirs.items())[: MAX_ATTRIBUTES - len(ours)], *ours.items()]:
        size = len(key.encode()) + len(value.encode())
        allowed = 0 < len(key.encode()) <= MAX_KEY_BYTES and len(value.encode()) <= MAX_VALUE_BYTES
        if allowed and not key.startswith("goog") and size <= room:
            attributes[key] = value
            room -= size
    return attributes


def _listed(words: Any) -> str:
    """As many words, with commas, as fit into an attribute."""
    text = ""
    for word in words:
        longer = f"{text},{word}" if text else str(word)
        if len(longer.encode()) > MAX_VALUE_BYTES:
            break
        text = longer
    return text


def _cut(text: str) -> str:
    """The beginning of a text that fits into an attribute."""
    return text.encode("utf-8", "replace")[:MAX_VALUE_BYTES].decode("utf-8", "ignore")
