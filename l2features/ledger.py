"""What is told of a message: that it came, and then of each of its parts what became of the ids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .outcomes import Outcome, Settled, settle
from .parts import Delivery


@dataclass(frozen=True, eq=False)
class Opened:
    """A message and the number of its parts; ``outcomes`` are of what is in none of them."""

    delivery: Delivery
    parts: int
    outcomes: tuple[Outcome, ...] = ()
    datasets: tuple[str, ...] = ()
    operation_id: int | None = None


@dataclass(frozen=True, eq=False)
class Report:
    """What became of the ids of a part."""

    part: int
    outcomes: tuple[Outcome, ...]


Entry = Opened | Report


def close_account(entries: Iterable[Entry]) -> tuple[Opened, Settled]:
    """The verdict on a message, from all that is told of it, in any order; what is told twice counts once."""
    opened: Opened | None = None
    reports: dict[int, tuple[Outcome, ...]] = {}
    for entry in entries:
        if isinstance(entry, Opened):
            opened = entry
        else:
            reports[entry.part] = entry.outcomes
    if opened is None or len(reports) != opened.parts:
        raise ValueError(f"{len(reports)} parts of a message: expected {opened and opened.parts}")
    outcomes = [*opened.outcomes, *(outcome for part in reports.values() for outcome in part)]
    return opened, settle(outcomes, opened.delivery.last, opened.delivery.overdue)
