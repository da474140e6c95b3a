"""Dead letters, messages with a permanent error: where they go, and where they are listed."""

from __future__ import annotations

from ..core.errors import ConfigError
from .letter_folder import LetterFolder, folder_at
from .letter_topic import LIMIT, LetterQueue, LetterTopic
from .subscription import Subscription
from .topic import TOPIC

DeadLetters = LetterFolder | LetterTopic
"""Folder or topic to which dead letters are written, with the methods `check`, `put` and `close`."""
LetterBox = LetterFolder | LetterQueue
"""Folder or subscription whose dead letters are listed and removed.

It has the methods `letters`, `remove`, `refused` and `close`. ``limited`` says whether the last listing
stopped at its limit, so that there may be more letters. ``unread`` has the errors of the files or messages
that were skipped because they are not dead letters.
"""


def open_dead_letters(where: str) -> DeadLetters:
    """Open the folder or topic (``projects/…/topics/…``) that receives dead letters, without I/O.

    Raises ConfigError for any other address.
    """
    if not where.startswith("projects/"):
        return folder_at(where, "projects/PROJECT/topics/NAME")
    if not TOPIC.fullmatch(where):
        raise ConfigError(f"dead letters {where!r}: expected projects/PROJECT/topics/NAME, or a folder")
    return LetterTopic(where)


def open_letter_box(where: str, limit: int | None = None) -> LetterBox:
    """Open the folder or subscription (``projects/…/subscriptions/…``) that has dead letters, without I/O.

    A listing stops after ``limit`` letters. Without ``limit``, the listing of a folder is complete, and that
    of a subscription stops after `LIMIT`. Raises ConfigError for any other address.
    """
    if where.startswith("projects/"):
        return LetterQueue(Subscription(where), limit or LIMIT)
    return folder_at(where, "projects/PROJECT/subscriptions/NAME", limit)
