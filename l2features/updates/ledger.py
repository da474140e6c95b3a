"""The state of a message whose parts are computed in parallel, and its form in a Beam runner's state.

A part of a message is its nodes in one chunk of one data set. A message is settled when the decoded message,
which lists the parts, and a report of each part have arrived. They may arrive repeatedly and in any order, as
in a stream with at-least-once delivery.

If a streaming job is replaced in place, the new code receives the state that the old code stored. So all
stored values are plain: tuples, dictionaries, strings, bytes and numbers. Fields are only ever added, at the
end of a tuple and with a default.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..core.ids import from_bytes, to_bytes
from ..messages.decoding import Reason
from ..messages.outcomes import Fate, Outcome, Settled, settle
from ..messages.parts import Delivery, Member

UNREPORTED = "the result of a part of the message was lost"
Plain = tuple[Any, ...]
_OPENED, _REPORT = "opened", "report"


@dataclass(frozen=True, eq=False)
class OpenMessage:
    """A decoded message: ``parts`` are its part numbers; ``outcomes`` are errors found before computing."""

    delivery: Delivery
    parts: frozenset[int]
    outcomes: tuple[Outcome, ...] = ()
    datasets: tuple[str, ...] = ()
    operation_id: int | None = None


@dataclass(frozen=True, eq=False)
class Report:
    """The outcomes of the ids in one part of a message."""

    part: int
    outcomes: tuple[Outcome, ...]


Entry = OpenMessage | Report


class Tally(NamedTuple):
    """The expected and the reported parts of a message, as bit sets of part numbers, stored as bytes.

    ``expected`` is None until the decoded message has arrived. A tally must be small: it is read for
    every part.
    """

    expected: bytes | None = None
    reported: bytes = b""
    settled: bool = False

    def add(self, entry: Entry) -> Tally:
        """Return the tally with one more entry; a repeated entry changes nothing."""
        if self.settled or (isinstance(entry, OpenMessage) and self.expected is not None):
            return self
        if isinstance(entry, OpenMessage):
            tally = self._replace(expected=_bits(entry.parts))
        else:
            reported = int.from_bytes(self.reported, "little") | 1 << entry.part
            tally = self._replace(reported=reported.to_bytes((reported.bit_length() + 7) // 8, "little"))
        if tally.expected is None:
            return tally
        missing = int.from_bytes(tally.expected, "little") & ~int.from_bytes(tally.reported, "little")
        return tally._replace(settled=not missing)


def close_account(entries: Iterable[Entry]) -> tuple[OpenMessage, Settled]:
    """Return a tuple: the decoded message; its verdict. ``entries`` are all entries of the message.

    Raises ValueError if an entry is missing.
    """
    opened: OpenMessage | None = None
    reports: dict[int, Report] = {}
    for entry in entries:
        if isinstance(entry, OpenMessage):
            opened = opened or entry
        else:
            reports.setdefault(entry.part, entry)
    if opened is None or not opened.parts <= reports.keys():
        found = f"{len(reports)} of {len(opened.parts)} reports" if opened else f"{len(reports)} reports only"
        raise ValueError(f"cannot settle: expected a message and a report of each of its parts, got {found}")
    outcomes = [*opened.outcomes, *(o for part in sorted(opened.parts) for o in reports[part].outcomes)]
    return opened, settle(outcomes, opened.delivery.last, opened.delivery.overdue)


def unreported(entries: Iterable[Entry]) -> list[Report]:
    """Return, for each part without a report, one that refuses the message, as the part's result was lost."""
    reported = list(entries)
    known = {entry.part for entry in reported if isinstance(entry, Report)}
    missing = sorted({part for e in reported if isinstance(e, OpenMessage) for part in e.parts} - known)
    return [Report(part, (Outcome.refused(Reason.STILL_FAILED, UNREPORTED),)) for part in missing]


def _bits(parts: Iterable[int]) -> bytes:
    return np.packbits(np.bincount(np.fromiter(parts, np.int64)), bitorder="little").tobytes()


# ------------------------------------------------------------------ plain values
def plain_member(member: Member) -> Plain:
    """Return a `Member` as a tuple of built-in types; `member_of` is the inverse."""
    return member.key, to_bytes(member.ids), member.part, member.published


def member_of(plain: Plain) -> Member:
    """Return the `Member` that `plain_member` stored."""
    key, ids, *more = plain
    return Member(key, from_bytes(ids), *more)


def plain_entry(entry: Entry) -> Plain:
    """Return an `OpenMessage` or a `Report` as a tuple of built-in types; `entry_of` is the inverse."""
    outcomes = tuple(map(_plain_outcome, entry.outcomes))
    if isinstance(entry, Report):
        return _REPORT, entry.part, outcomes
    delivery = tuple(entry.delivery._replace(attributes=dict(entry.delivery.attributes)))
    return _OPENED, delivery, tuple(sorted(entry.parts)), outcomes, entry.datasets, entry.operation_id


def entry_of(plain: Plain) -> Entry:
    """Return the entry that `plain_entry` stored."""
    kind, first, *more = plain
    if kind == _REPORT:
        (outcomes,) = more
        return Report(first, tuple(map(_outcome_of, outcomes)))
    parts, outcomes, *more = more
    return OpenMessage(Delivery(*first), frozenset(parts), tuple(map(_outcome_of, outcomes)), *more)


def _plain_outcome(outcome: Outcome) -> Plain:
    reason = None if outcome.reason is None else str(outcome.reason)
    return str(outcome.fate), to_bytes(outcome.ids), outcome.dataset, reason, outcome.detail


def _outcome_of(plain: Plain) -> Outcome:
    fate, ids, dataset, reason, *more = plain
    return Outcome(Fate(fate), from_bytes(ids), dataset, None if reason is None else Reason(reason), *more)
