"""Dead letters on a topic: publish them with the reasons as attributes, and read them from a subscription."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from ..core.times import utc_time
from ..messages.decoding import Message
from .letter import FORMAT, PREFIX, DeadLetter, DeadLetterError, LeftOut, Refusal, check_format
from .letter_folder import ALL
from .subscription import Subscription, SubscriptionError
from .topic import ROOM_BYTES, PublishError, Topic

MAX_ATTRIBUTES, MAX_KEY_BYTES, MAX_VALUE_BYTES = 100, 256, 1_024
"""Pub/Sub's limits for attributes. Keys must not start with ``goog``."""
LIMIT = 1_000
"""Default maximum number of letters in one listing of a subscription. All may be leased at the same time."""
PULL = 10
"""Letters of a subscription that are in memory at once; a letter may have 10 MB."""
QUIET_S = 5.0
"""A subscription counts as empty after this long without a new letter."""
LEASE_S, RENEW_S = 600, 200.0
"""Length of a letter's lease (Pub/Sub's maximum), and the interval at which leases are extended."""
_NUMBER, _SHA256 = re.compile("[0-9]{1,9}"), re.compile("[0-9a-f]{64}")
_ID = re.compile("[0-9]{1,20}")


class LetterTopic(Topic):
    """Publishes dead letters to a topic, ``projects/…/topics/…``."""

    def check(self) -> None:
        """Raise DeadLetterError if the topic is missing, but nothing if it cannot be checked."""
        try:
            super().check()
        except PublishError as error:
            raise DeadLetterError(f"dead letters: {error}") from error

    def put(self, letter: DeadLetter) -> None:
        """Publish a letter; a payload that is too large is left out. Raises DeadLetterError if this fails."""
        try:
            self.publish(*topic_message(letter))
        except PublishError as error:
            raise DeadLetterError(str(error)) from error


class LetterQueue:
    """A subscription to dead letters, which are listed in the order of delivery.

    Listed letters stay leased. `remove` acknowledges a letter; `close` and the next listing nack the others.
    After a ``kill -9``, the leases expire and the letters are redelivered. If a message is retried and
    refused again, its letter stays unchanged.
    """

    def __init__(self, subscription: Subscription, limit: int = LIMIT) -> None:
        self.subscription, self.limit = subscription, limit
        self.limited = False
        self.unread: list[str] = []
        self._leased: dict[str, dict[str, str]] = {}  # by name: ack id by message id
        self._removed: set[str] = set()
        self._renewed = 0.0

    def letters(self, prefixes: Sequence[str] = ALL) -> Iterator[tuple[str, DeadLetter]]:
        """Yield pairs (name, letter) for the letters whose names begin with one of ``prefixes``, each once.

        Stops after ``self.limit`` letters have been received, including those with other names. Raises
        SubscriptionError if Pub/Sub fails.
        """
        self._nack()
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
        """Lease more letters; return the letters that were not leased before.

        Further copies of a removed letter are acknowledged. An empty list does not mean that the subscription
        is empty.
        """
        if time.monotonic() - self._renewed > RENEW_S:
            self.subscription.lease(self._ack_ids(), LEASE_S)
            self._renewed = time.monotonic()
        received = self.subscription.pull(min(PULL, most), QUIET_S)
        if not received:
            time.sleep(0.1)
        letters = []
        for message in received:
            try:
                letter = letter_of(message.data, message.attributes, message.published)
            except DeadLetterError as error:
                name = f"message {message.message_id}"  # that no letter has: its lease is kept
                self._leased.setdefault(name, {})[message.message_id] = message.ack_id
                if (problem := f"{name}: {error}") not in self.unread:
                    self.unread.append(problem)
                continue
            messages = self._leased.setdefault(letter.name, {})
            if message.message_id not in messages:
                letters.append(letter)
            messages[message.message_id] = message.ack_id
        self.subscription.lease([message.ack_id for message in received], LEASE_S)
        for name in self._removed & self._leased.keys():
            self.remove(name)
        return letters

    def remove(self, name: str) -> None:
        """Acknowledge a listed letter. Raises SubscriptionError if Pub/Sub fails."""
        self.subscription.acknowledge(self._leased.pop(name, {}).values())
        self._removed.add(name)

    def refused(self, name: str, letter: DeadLetter) -> None:
        """Do nothing: the letter stays in the subscription."""

    def close(self) -> None:
        """Nack the leased letters and close the connection."""
        with suppress(SubscriptionError):  # then the leases expire
            self._nack()
        self.subscription.close()

    def _nack(self) -> None:
        self.subscription.lease(self._ack_ids(), 0)
        self._leased = {}

    def _ack_ids(self) -> list[str]:
        return [ack_id for messages in self._leased.values() for ack_id in messages.values()]


# ------------------------------------------------------------------ letters as messages
def topic_message(letter: DeadLetter) -> Message:
    """Return the message that represents a dead letter, within Pub/Sub's limits.

    Attributes that Pub/Sub does not accept, or that do not fit, are left out. If the payload and the refused
    message's attributes are too large together, the size and sha256 of the payload replace it. The attribute
    ``dead_letter_ids`` has as many of the refused ids as fit, sorted; ``dead_letter_id_count`` is the number
    of all refused ids.
    """
    theirs = {key: value for key, value in letter.attributes.items() if not key.startswith(PREFIX)}
    theirs = {key: value for key, value in theirs.items() if _is_accepted(key, value)}
    data, left_out = letter.data, letter.left_out
    if len(data) + _size(theirs) > ROOM_BYTES:
        data, left_out = b"", letter.payload
    ours = _ours(letter, left_out)
    attributes = dict(list(theirs.items())[: MAX_ATTRIBUTES - len(ours)])
    room = ROOM_BYTES - len(data) - _size(attributes)
    for key, value in ours.items():
        size = _size({key: value})
        if size <= room:
            attributes[key] = value
            room -= size
    return Message(data, attributes)


def _ours(letter: DeadLetter, left_out: LeftOut | None) -> dict[str, str]:
    ids = letter.ids
    fields = {
        "format": str(FORMAT),
        "reasons": _joined(letter.reasons),
        "attempts": str(letter.attempts),
        "time": letter.time.isoformat(timespec="seconds"),
        "id_count": str(len(ids) + letter.more_ids),
        "ids": _joined(map(str, ids)),
        "detail": _cut("; ".join(refusal.detail for refusal in letter.refusals if refusal.detail)),
    }
    if left_out:
        fields |= {"payload_bytes": str(left_out.size), "payload_sha256": left_out.sha256}
    return {PREFIX + name: value for name, value in fields.items() if value}


def letter_of(data: bytes, attributes: Mapping[str, str], published: float) -> DeadLetter:
    """Return the dead letter that a message represents.

    A missing time is replaced by ``published`` (seconds since 1970), and a missing number of attempts by 1.
    Raises DeadLetterError for a format that `check_format` refuses.
    """
    fields = {key.removeprefix(PREFIX): value for key, value in attributes.items() if key.startswith(PREFIX)}
    if (version := fields.get("format")) is not None:
        check_format(int(version) if _NUMBER.fullmatch(version) else version)
    size, sha256 = fields.get("payload_bytes", ""), fields.get("payload_sha256", "")
    left_out = not data and _NUMBER.fullmatch(size) and _SHA256.fullmatch(sha256)
    words = fields.get("ids", "").split(",")
    ids = tuple(sorted({int(word) for word in words if _ID.fullmatch(word) and int(word) < 1 << 64}))
    reasons, detail = fields.get("reasons", ""), fields.get("detail", "")
    return DeadLetter(
        data=data,
        attributes={key: value for key, value in attributes.items() if not key.startswith(PREFIX)},
        refusals=(Refusal(reasons, detail, ids),) if reasons or detail or ids else (),
        attempts=_number(fields.get("attempts", ""), 1),
        time=_time(fields.get("time", ""), published),
        left_out=LeftOut(int(size), sha256) if left_out else None,
        more_ids=max(0, _number(fields.get("id_count", ""), 0) - len(ids)),
    )


def _time(text: str, published: float) -> datetime:
    try:
        return utc_time(text)
    except ValueError:
        return datetime.fromtimestamp(published, UTC).replace(microsecond=0)


def _number(text: str, otherwise: int) -> int:
    return int(text) if _NUMBER.fullmatch(text) else otherwise


def _is_accepted(key: str, value: str) -> bool:
    try:
        sizes = len(key.encode()), len(value.encode())
    except UnicodeEncodeError:  # a lone surrogate, which JSON allows
        return False
    return 0 < sizes[0] <= MAX_KEY_BYTES and sizes[1] <= MAX_VALUE_BYTES and not key.startswith("goog")


def _size(attributes: Mapping[str, str]) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in attributes.items())


def _joined(words: Iterable[str]) -> str:
    """Return as many words, separated by commas, as fit into the value of an attribute."""
    text = ""
    for word in words:
        longer = f"{text},{_cut(word)}" if text else _cut(word)
        if len(longer.encode()) > MAX_VALUE_BYTES:
            break
        text = longer
    return text


def _cut(text: str) -> str:
    return text.encode("utf-8", "replace")[:MAX_VALUE_BYTES].decode("utf-8", "ignore")
