"""A dead letter: a message with a permanent error, as it was received, and the reasons."""

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
"""Prefix of the attributes that we add to a message on a topic; they are not the message's own."""
_PAYLOAD = "payload"
FORMAT = 1
"""The format that this code writes, and the newest that it reads; a letter without one is of format 1."""


class DeadLetterError(L2FeaturesError):
    """A dead letter cannot be written, published or read."""


class Refusal(NamedTuple):
    """A reason code, its explanation, and the ids that it concerns.

    There are no ids if the message itself is invalid, or if a value among its ids is not an id. A letter from
    a topic has a single refusal with all reasons, since a topic does not record which ids belong to which
    reason.
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
    """A message as it was received, why it was refused, the number of attempts, and the time of the last one.

    A letter from a topic may lack its payload (``left_out``) and some of its ids (``more_ids``).
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
        """A digest of the payload and the message's own attributes: 32 hexadecimal digits."""
        kept = sorted((key, value) for key, value in self.attributes.items() if not key.startswith(PREFIX))
        return hashlib.sha256(json.dumps([self.payload.sha256, kept]).encode()).hexdigest()[:32]

    @property
    def reasons(self) -> list[str]:
        """The distinct reason codes."""
        return list(dict.fromkeys(reason for r in self.refusals for reason in r.reason.split(",")))

    @property
    def ids(self) -> list[int]:
        """The distinct ids concerned, sorted."""
        return sorted({node for refusal in self.refusals for node in refusal.ids})

    def delivery(self, key: str) -> Delivery:
        """Return the message as a delivery, for another attempt."""
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
        """Return the letter that `to_json` wrote. Raises DeadLetterError for anything else."""
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
    """Raise DeadLetterError for a format that this version does not know."""
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise DeadLetterError(
            f"dead letter of format {version!r:.80}, expected {FORMAT} at most: "
            "a newer version of l2features wrote it and is needed to read it"
        )


def dead_letter(delivery: Delivery, causes: Iterable[Outcome], now: datetime | None = None) -> DeadLetter:
    """Return the dead letter of a message whose latest attempt was refused."""
    refusals = tuple(
        Refusal(str(cause.reason), cause.detail, tuple(cause.ids.tolist()), cause.dataset) for cause in causes
    )
    time = (now or datetime.now(UTC)).replace(microsecond=0)
    return DeadLetter(delivery.data, delivery.attributes, refusals, delivery.attempts + 1, time)


def _refusal(entry: Mapping[str, Any]) -> Refusal:
    ids = as_ids([int(node) for node in entry["l2_ids"]])
    return Refusal(str(entry["reason"]), str(entry["detail"]), tuple(ids.tolist()), str(entry["dataset"]))
