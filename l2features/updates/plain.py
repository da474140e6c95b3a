"""Parts of messages, and what is told of messages, as plain values, which outlive the code that made them.

A runner whose job is replaced in place hands what the old code made to the new. So these values name no class
and no module: they are tuples, dictionaries, strings, bytes and numbers. Fields are only ever added, at the
end of a tuple and with a default.
"""

from __future__ import annotations

from typing import Any

from ..core.ids import from_bytes, to_bytes
from ..messages.decoding import Reason
from ..messages.outcomes import Fate, Outcome
from ..messages.parts import Delivery, Member
from .ledger import Entry, Opened, Report

Plain = tuple[Any, ...]
_OPENED, _REPORT = "opened", "report"


def plain_member(member: Member) -> Plain:
    """A `Member` as a plain value; `member_of` is the inverse."""
    return member.key, to_bytes(member.ids), member.part, member.published


def member_of(plain: Plain) -> Member:
    key, ids, *more = plain
    return Member(key, from_bytes(ids), *more)


def plain_entry(entry: Entry) -> Plain:
    """An `Opened` or a `Report` as a plain value; `entry_of` is the inverse."""
    outcomes = tuple(map(_plain_outcome, entry.outcomes))
    if isinstance(entry, Report):
        return _REPORT, entry.part, outcomes
    delivery = tuple(entry.delivery._replace(attributes=dict(entry.delivery.attributes)))
    return _OPENED, delivery, tuple(sorted(entry.parts)), outcomes, entry.datasets, entry.operation_id


def entry_of(plain: Plain) -> Entry:
    kind, first, *more = plain
    if kind == _REPORT:
        (outcomes,) = more
        return Report(first, tuple(map(_outcome_of, outcomes)))
    parts, outcomes, *more = more
    return Opened(Delivery(*first), frozenset(parts), tuple(map(_outcome_of, outcomes)), *more)


def _plain_outcome(outcome: Outcome) -> Plain:
    reason = None if outcome.reason is None else str(outcome.reason)
    return str(outcome.fate), to_bytes(outcome.ids), outcome.dataset, reason, outcome.detail


def _outcome_of(plain: Plain) -> Outcome:
    fate, ids, dataset, reason, *more = plain
    return Outcome(Fate(fate), from_bytes(ids), dataset, None if reason is None else Reason(reason), *more)
