"""Dead letters, messages that can never succeed: kept in a folder, or sent to a topic."""

from __future__ import annotations

import re
from typing import Protocol

from ..core.errors import ConfigError
from .letter import DeadLetter, DeadLetterError, LeftOut, Refusal, dead_letter
from .letter_attributes import topic_message
from .letter_folder import Folder, folder_at
from .topic import PublishError, Topic

__all__ = [
    "DeadLetter",
    "DeadLetterError",
    "DeadLetters",
    "Folder",
    "LeftOut",
    "LetterTopic",
    "Refusal",
    "dead_letter",
    "open_dead_letters",
]
TOPIC = re.compile(r"projects/[A-Za-z0-9][-.:A-Za-z0-9]*/topics/(?!goog)[A-Za-z][-_.~+%A-Za-z0-9]{2,254}")


class DeadLetters(Protocol):
    """Where dead letters go."""

    def check(self) -> None:
        """See whether letters can be kept there. Raises DeadLetterError."""

    def put(self, letter: DeadLetter) -> None:
        """Keep a letter; it is durable when this returns. Raises DeadLetterError."""

    def close(self) -> None:
        """Let go of connections."""


class LetterTopic:
    """Dead letters sent to a topic, ``projects/…/topics/…``."""

    def __init__(self, path: str) -> None:
        self._topic = Topic(path)

    def check(self) -> None:
        """See whether there is such a topic, where that may be asked. Raises DeadLetterError."""
        try:
            self._topic.check()
        except PublishError as error:
            raise DeadLetterError(f"dead letters: {error}") from error

    def put(self, letter: DeadLetter) -> None:
        """Publish a letter, without its payload if that is too large. Raises DeadLetterError."""
        try:
            self._topic.publish(*topic_message(letter))
        except PublishError as error:
            raise DeadLetterError(str(error)) from error

    def close(self) -> None:
        """Let go of the connection."""
        self._topic.close()


def open_dead_letters(where: str) -> DeadLetters:
    """A folder, or the topic ``projects/…/topics/…``; opening touches neither. Raises ConfigError."""
    if not where.startswith("projects/"):
        return folder_at(where, "projects/PROJECT/topics/NAME")
    if not TOPIC.fullmatch(where):
        raise ConfigError(f"dead letters {where!r}: expected projects/PROJECT/topics/NAME, or a folder")
    return LetterTopic(where)
