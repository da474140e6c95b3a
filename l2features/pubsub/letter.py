"""A dead letter: a refused message as it was received, and the reasons for refusing it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..core.errors import L2FeaturesError
from ..core.ids import as_ids
from ..core.times import utc_time
from ..messages.outcomes import Outcome
from ..messages.parts import Delivery

PREFIX = "dead_letter_"
"""Prefix of the attributes that we add to a refused message when we publish it on a topic."""
_PAYLOAD = "payload"
FORMAT = 1
"""The format that this code writes, and the newest format that it reads. A letter without a format has 1."""


class DeadLetterError(L2FeaturesError):
    """A dead letter cannot be written, published or read."""


class Refusal(NamedTuple):
    """A reason code, its explanation, and the ids that were refused for this reason.

    ``ids`` is empty if the message itself is invalid, or if the refused values are not ids. A letter from a
    topic has a single refusal with all reason codes, separated by commas, because a topic does not record the
    ids of each reason.
    """

    reason: str
    detail: str
    ids: tuple[int, ...] = ()
    dataset: str = ""


class LeftOut(NamedTuple):
    """Size in bytes and hexadecimal sha256 of a payload that was too large for a topic."""

    size: int
    sha256: str


@dataclass(frozen=True)
class DeadLetter:
    """A refused message as it was received, the reasons, and the number and time of attempts.

    ``time`` is when the last attempt ended. A letter from a topic may lack its payload, whose size and digest
    are then in ``left_out``. It may also lack some ids; ``more_ids`` is the number of missing ids.
    """

    data: bytes
    attributes: Mapping[str, str]
    refusals: tuple[Refusal, ...]
    attempts: int
    time: datetime
    left_out: LeftOut | None = None
    more_ids: int = 0

    @property
    def payload(self) -> LeftOut:
        """Size and sha256 of the payload as it was received."""
        return self.left_out or LeftOut(len(self.data), hashlib.sha256(self.data).hexdigest())

    @property
    def name(self) -> str:
        """A digest of the payload and of the attributes that the publisher set: 32 hexadecimal digits."""
        kept = sorted((key, value) for key, value in self.attributes.items() if not key.startswith(PREFIX))
        return hashlib.sha256(json.dumps([self.payload.sha256, kept]).encode()).hexdigest()[:32]

    @property
    def reasons(self) -> list[str]:
        """The distinct reason codes."""
        return list(dict.fromkeys(reason for r in self.refusals for reason in r.reason.split(",")))

    @property
    def ids(self) -> list[int]:
        """The distinct ids of all refusals, sorted."""
        return sorted({node for refusal in self.refusals for node in refusal.ids})

    def delivery(self, key: str) -> Delivery:
        """Return the message as a delivery with this key, for another attempt."""
        return Delivery(key, self.data, self.attributes, self.attempts)

    def to_json(self) -> str:
        """Return the letter as JSON, with the payload in base64 and ids as strings."""
        reasons = [
            {"reason": r.reason, "detail": r.detail, "dataset": r.dataset, "l2_ids": list(map(str, r.ids))}
            for r in self.refusals
        ]
        letter = {
            "format": FORMAT,
            "attributes": dict(self.attributes),
            "reasons": reasons,
            "attempts": self.attempts,
            "time": self.time.isoformat(timespec="seconds"),
            _PAYLOAD: base64.b64encode(self.data).decode("ascii"),
        }
        if self.left_out:
            letter["left_out"] = self.left_out._asdict()
        if self.more_ids:
            letter["more_ids"] = self.more_ids
        return json.dumps(letter, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> DeadLetter:
        """Return the letter that `to_json` wrote. Raises DeadLetterError for any other text."""
        try:
            d: dict[str, Any] = json.loads(text)
            check_format(d.get("format", FORMAT))
            attributes = {str(key): str(value) for key, value in d["attributes"].items()}
            data = base64.b64decode(d[_PAYLOAD], validate=True)
            refusals = tuple(map(_refusal, d["reasons"]))
            left_out = d.get("left_out") and LeftOut(int(d["left_out"]["size"]), str(d["left_out"]["sha256"]))
            rest = left_out, int(d.get("more_ids", 0))
            return cls(data, attributes, refusals, int(d["attempts"]), utc_time(d["time"]), *rest)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise DeadLetterError(f"not a dead letter: {type(error).__name__}: {error}") from error


def check_format(version: object) -> None:
    """Raise DeadLetterError if ``version`` is not a dead letter format that this l2features can read."""
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise DeadLetterError(
            f"dead letter of format {version!r:.80}, expected {FORMAT} at most: "
            "a newer version of l2features wrote it and is needed to read it"
        )


def dead_letter(delivery: Delivery, causes: Iterable[Outcome], now: datetime | None = None) -> DeadLetter:
    """Return the dead letter of a message that was refused, with a refusal for each of ``causes``.

    ``now`` is the time of the refusal, by default the current time.
    """
    refusals = tuple(
        Refusal(str(cause.reason), cause.detail, tuple(cause.ids.tolist()), cause.dataset) for cause in causes
    )
    time = (now or datetime.now(UTC)).replace(microsecond=0)
    return DeadLetter(delivery.data, delivery.attributes, refusals, delivery.attempts + 1, time)


def _refusal(entry: Mapping[str, Any]) -> Refusal:
    ids = as_ids([int(node) for node in entry["l2_ids"]])
    return Refusal(str(entry["reason"]), str(entry["detail"]), tuple(ids.tolist()), str(entry["dataset"]))
