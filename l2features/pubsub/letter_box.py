"""Dead letters where they lie, in a folder or a subscription of their topic: looked at, and taken out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Protocol

from .letter import DeadLetter, DeadLetterError
from .letter_attributes import letter_of
from .letter_folder import SUFFIX, Folder, folder_at, read_letter
from .subscription import Subscription, SubscriptionError

ALL = ("",)
LIMIT = 1_000
"""Letters of a subscription that are looked at, where nothing else is said: each is held meanwhile."""
PULL = 10
"""Letters of a subscription that are in memory together; one has up to 10 MB."""
QUIET_S = 5.0
"""A subscription has no more when nothing new came for so long."""
HOLD_S, RENEW_S = 600, 200.0
"""For how long letters are held, as long as Pub/Sub allows, and after which time again."""


class LetterBox(Protocol):
    """Where dead letters lie."""

    limited: bool
    """Whether the last look ended because it had seen enough, so that there may be more."""
    unread: list[str]
    """Of what lies there and is no letter: where, and why; it is passed over."""

    def letters(self, prefixes: Sequence[str] = ALL) -> Iterator[tuple[str, DeadLetter]]:
        """The letters whose names begin so, with their names, each name once. Raises L2FeaturesError."""

    def remove(self, name: str) -> None:
        """Take a letter out that `letters` gave: nothing is left to do. Raises L2FeaturesError."""

    def refused(self, name: str, letter: DeadLetter) -> None:
        """A letter has died again. Raises L2FeaturesError."""

    def close(self) -> None:
        """Let go of the letters that are still there."""


def open_letter_box(where: str, limit: int | None = None) -> LetterBox:
    """A folder, or ``projects/…/subscriptions/…``; opening touches neither. Raises ConfigError."""
    if where.startswith("projects/"):
        return LetterQueue(Subscription(where), limit or LIMIT)
    return LetterFolder(folder_at(where, "projects/PROJECT/subscriptions/NAME"), limit)


class LetterFolder:
    """A folder of dead letters, sorted by name; one that dies again has one attempt more."""

    def __init__(self, folder: Folder, limit: int | None = None) -> None:
        self.folder, self.limit = folder, limit
        self.limited = False
        self.unread: list[str] = []

    def letters(self, prefixes: Sequence[str] = ALL) -> Iterator[tuple[str, DeadLetter]]:
        count = 0
        self.limited = False
        for file in self.folder.files():
            if not file.stem.startswith(tuple(prefixes)):
                continue
            if count == self.limit:
                self.limited = True
                return
            try:
                letter = read_letter(file)
            except DeadLetterError as error:
                if str(error) not in self.unread:
                    self.unread.append(str(error))
                continue
            count += 1
            yield file.stem, letter

    def remove(self, name: str) -> None:
        file = self.folder.path / f"{name}{SUFFIX}"
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise DeadLetterError(f"{file}: cannot be removed: {error.strerror}") from error

    def refused(self, name: str, letter: DeadLetter) -> None:
        self.folder.put(letter)
        if name != letter.name:
            self.remove(name)

    def close(self) -> None:
        """There is nothing to let go of."""


class LetterQueue:
    """A subscription of dead letters, in the order in which they come.

    What was seen is held, so that it does not come again at once, until it is removed, which acknowledges
    it, or let go. Where the process is killed, the letters come again when they are no longer held. A letter
    that dies again stays as it is.
    """

    def __init__(self, subscription: Subscription, limit: int = LIMIT) -> None:
        self.subscription, self.limit = subscription, limit
        self.limited = False
        self.unread: list[str] = []
        self._held: dict[str, dict[str, str]] = {}  # by name: ack id by message id
        self._removed: set[str] = set()
        self._renewed = 0.0

    def letters(self, prefixes: Sequence[str] = ALL) -> Iterator[tuple[str, DeadLetter]]:
        self._let_go()
        names: set[str] = set()
        self.limited = False
        self._renewed = quiet = time.monotonic()
        while time.monotonic() - quiet < QUIET_S and not names.issuperset(prefixes):
            if len(names) >= self.limit:
                self.limited = True
                return
            for letter in self._pull(self.limit - len(names)):
                if letter.name not in names:
                    names.add(letter.name)
                    if letter.name.startswith(tuple(prefixes)):
                        yield letter.name, letter
                quiet = time.monotonic()

    def _pull(self, most: int) -> list[DeadLetter]:
        """Letters that are not held yet; then they are. One that was removed and is there twice goes too.

        The service may answer at once that it has none, and have some later.
        """
        if time.monotonic() - self._renewed > RENEW_S:
            self.subscription.hold(self._ack_ids(), HOLD_S)
            self._renewed = time.monotonic()
        received = self.subscription.pull(min(PULL, most), QUIET_S)
        if not received:
            time.sleep(0.1)
        letters = []
        for message in received:
            try:
                letter = letter_of(message.data, message.attributes, message.published)
            except DeadLetterError as error:
                self._pass_over(message.message_id, message.ack_id, error)
                continue
            messages = self._held.setdefault(letter.name, {})
            if message.message_id not in messages:
                letters.append(letter)
            messages[message.message_id] = message.ack_id
        self.subscription.hold([message.ack_id for message in received], HOLD_S)
        for name in self._removed & self._held.keys():
            self.remove(name)
        return letters

    def _pass_over(self, message_id: str, ack_id: str, error: DeadLetterError) -> None:
        """Keep the lease of a message that cannot be read, under a name that no letter has."""
        self._held.setdefault(f"message {message_id}", {})[message_id] = ack_id
        problem = f"message {message_id}: {error}"
        if problem not in self.unread:
            self.unread.append(problem)

    def remove(self, name: str) -> None:
        self.subscription.acknowledge(self._held.pop(name, {}).values())
        self._removed.add(name)

    def refused(self, name: str, letter: DeadLetter) -> None:
        """It stays, and is let go in the end."""

    def close(self) -> None:
        with suppress(SubscriptionError):  # then it is let go when it is no longer held
            self._let_go()
        self.subscription.close()

    def _let_go(self) -> None:
        self.subscription.hold(self._ack_ids(), 0)
        self._held = {}

    def _ack_ids(self) -> list[str]:
        return [ack_id for messages in self._held.values() for ack_id in messages.values()]
