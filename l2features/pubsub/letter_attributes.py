"""A dead letter as a message of Pub/Sub, and back: why it is one is said in attributes of the message."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from ..messages.decoding import Message
from .letter import FORMAT, PREFIX, DeadLetter, LeftOut, Refusal, check_format, parse_time
from .topic import ROOM_BYTES

MAX_ATTRIBUTES, MAX_KEY_BYTES, MAX_VALUE_BYTES = 100, 256, 1_024
"""Pub/Sub's limits of attributes, whose keys must not begin with ``goog``."""
_NUMBER, _SHA256 = re.compile("[0-9]{1,9}"), re.compile("[0-9a-f]{64}")
_ID = re.compile("[0-9]{1,20}")


def topic_message(letter: DeadLetter) -> Message:
    """A dead letter with its own attributes, and why it is one, as far as Pub/Sub's limits allow.

    Of the ids, sorted, as many as fit are told; ``dead_letter_id_count`` is how many there are. An attribute
    that the limits do not allow, or for which there is no room, is left out; so is the payload, if it leaves
    no room for the message's own attributes: then its bytes and their sha256 are told.
    """
    theirs = {key: value for key, value in letter.attributes.items() if not key.startswith(PREFIX)}
    theirs = {key: value for key, value in theirs.items() if _allowed(key, value)}
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
    told = {
        "format": str(FORMAT),
        "reasons": _listed(letter.reasons),
        "attempts": str(letter.attempts),
        "time": letter.time.isoformat(timespec="seconds"),
        "id_count": str(len(ids) + letter.more_ids),
        "ids": _listed(map(str, ids)),
        "detail": _cut("; ".join(refusal.detail for refusal in letter.refusals if refusal.detail)),
    }
    if left_out:
        told |= {"payload_bytes": str(left_out.size), "payload_sha256": left_out.sha256}
    return {PREFIX + name: value for name, value in told.items() if value}


def letter_of(data: bytes, attributes: Mapping[str, str], published: float) -> DeadLetter:
    """Return the dead letter that a message is, as far as it says; anything of a known format makes one.

    ``published`` (seconds since 1970) stands for a time that it does not say, one attempt for their number.
    Raises DeadLetterError for a letter of a newer format.
    """
    told = {key.removeprefix(PREFIX): value for key, value in attributes.items() if key.startswith(PREFIX)}
    if (version := told.get("format")) is not None:
        check_format(int(version) if _NUMBER.fullmatch(version) else version)
    words = told.get("ids", "").split(",")
    ids = tuple(sorted({int(word) for word in words if _ID.fullmatch(word) and int(word) < 1 << 64}))
    reasons, detail = told.get("reasons", ""), told.get("detail", "")
    return DeadLetter(
        data=data,
        attributes={key: value for key, value in attributes.items() if not key.startswith(PREFIX)},
        refusals=(Refusal(reasons, detail, ids),) if reasons or detail or ids else (),
        attempts=_number(told.get("attempts", ""), 1),
        time=_time(told.get("time", ""), published),
        left_out=None if data else _left_out(told),
        more_ids=max(0, _number(told.get("id_count", ""), 0) - len(ids)),
    )


def _left_out(told: Mapping[str, str]) -> LeftOut | None:
    size, sha256 = told.get("payload_bytes", ""), told.get("payload_sha256", "")
    if not _NUMBER.fullmatch(size) or not _SHA256.fullmatch(sha256):
        return None
    return LeftOut(int(size), sha256)


def _time(text: str, published: float) -> datetime:
    try:
        return parse_time(text)
    except ValueError:
        return datetime.fromtimestamp(published, UTC).replace(microsecond=0)


def _number(text: str, otherwise: int) -> int:
    return int(text) if _NUMBER.fullmatch(text) else otherwise


def _allowed(key: str, value: str) -> bool:
    """Whether Pub/Sub takes an attribute."""
    try:
        sizes = len(key.encode()), len(value.encode())
    except UnicodeEncodeError:  # half a character, which JSON allows
        return False
    return 0 < sizes[0] <= MAX_KEY_BYTES and sizes[1] <= MAX_VALUE_BYTES and not key.startswith("goog")


def _size(attributes: Mapping[str, str]) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in attributes.items())


def _listed(words: Iterable[str]) -> str:
    """As many words, with commas, as fit into an attribute."""
    text = ""
    for word in words:
        longer = f"{text},{_cut(word)}" if text else _cut(word)
        if len(longer.encode()) > MAX_VALUE_BYTES:
            break
        text = longer
    return text


def _cut(text: str) -> str:
    """The beginning of a text that fits into an attribute."""
    return text.encode("utf-8", "replace")[:MAX_VALUE_BYTES].decode("utf-8", "ignore")
