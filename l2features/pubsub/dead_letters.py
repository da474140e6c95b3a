"""Dead letters, messages with a permanent error: where they go, and where they are listed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ..core.errors import ConfigError
from .letter import DeadLetter
from .letter_folder import ALL, folder_at
from .letter_topic import LIMIT, LetterQueue, LetterTopic
from .subscription import Subscription
from .topic import TOPIC


class DeadLetters(Protocol):
    """Where dead letters are written: a folder or a topic."""

    def check(self) -> None:
        """Raise DeadLetterError if letters cannot be written."""

    def put(self, letter: DeadLetter) -> None:
        """Write a letter; it is durable when this returns. Raises DeadLetterError."""

    def close(self) -> None:
        """Close connections."""


class LetterBox(Protocol):
    """Where dead letters are listed and removed: a folder or a subscription of a topic."""

    limited: bool
    """Whether the last listing stopped at its limit, so that there may be more letters."""
    unread: list[str]
    """Files and messages that are no letters and were skipped, each with the error."""

    def letters(self, prefixes: Sequence[str] = ALL) -> Iterator[tuple[str, DeadLetter]]:
        """Yield (name, letter) for names with one of the prefixes, each once. Raises L2FeaturesError."""

    def remove(self, name: str) -> None:
        """Remove a listed letter: nothing is left to do. Raises L2FeaturesError."""

    def refused(self, name: str, letter: DeadLetter) -> None:
        """Keep a letter that was refused again. Raises L2FeaturesError."""

    def close(self) -> None:
        """Nack leased letters and close connections."""


def open_dead_letters(where: str) -> DeadLetters:
    """Return a folder, or the topic ``projects/…/topics/…``, without any I/O. Raises ConfigError."""
    if not where.startswith("projects/"):
        return folder_at(where, "projects/PROJECT/topics/NAME")
    if not TOPIC.fullmatch(where):
        raise ConfigError(f"dead letters {where!r}: expected projects/PROJECT/topics/NAME, or a folder")
    return LetterTopic(where)


def open_letter_box(where: str, limit: int | None = None) -> LetterBox:
    """Return a folder, or ``projects/…/subscriptions/…``, without any I/O. Raises ConfigError."""
    if where.startswith("projects/"):
        return LetterQueue(Subscription(where), limit or LIMIT)
    return folder_at(where, "projects/PROJECT/subscriptions/NAME", limit)
