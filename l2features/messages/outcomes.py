"""What became of the ids of a message, and of the message itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from ..core.ids import Ids
from .decoding import Reason

MAX_DETAIL = 2_000


class Fate(StrEnum):
    """What became of an id."""

    WRITTEN = "written"
    """Its row is durable."""
    EMPTY = "empty"
    """It has no voxels; the mark that says so is durable."""
    PRESENT = "present"
    """Its row was there already."""
    UNKNOWN = "unknown"
    """The graph does not know it, or not yet."""
    FAILED = "failed"
    """Something did not work that may work later."""
    REFUSED = "refused"
    """It can never succeed."""


class Verdict(StrEnum):
    """What is to be done with a message."""

    DONE = "done"
    """Nothing: all that it asked for is durable."""
    RETRY = "retry"
    """It is tried again."""
    DEAD = "dead"
    """Something of it can never succeed, and all else is durable."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """Ids of a message that have the same fate in a data set, and why, as a reason and in words.

    A message that is refused as a whole may have no ids; of one that names no data set there is none.
    """

    fate: Fate
    ids: Ids
    dataset: str = ""
    reason: Reason | None = None
    detail: str = ""

    @classmethod
    def refused(cls, reason: Reason, detail: str, ids: Ids | None = None, dataset: str = "") -> Outcome:
        """Of ids, or of a message, that can never succeed; without a detail the reason's meaning is told."""
        ids = np.zeros(0, np.uint64) if ids is None else ids
        if not detail:
            what = f"id {ids[0]}" if len(ids) == 1 else f"{len(ids)} ids, the first {ids[0]}:"
            detail = f"{what} {reason.meaning}"
        return cls(Fate.REFUSED, ids, dataset, reason, detail[:MAX_DETAIL])

    def of(self, ids: Ids) -> Outcome:
        """The same, of other ids."""
        return replace(self, ids=ids)


@dataclass(frozen=True, eq=False)
class Settled:
    """The verdict on a message, the number of its ids by fate, and the outcomes that are the cause."""

    verdict: Verdict
    counts: Counter[Fate] = field(default_factory=Counter)
    causes: tuple[Outcome, ...] = ()

    @property
    def why(self) -> str:
        """The causes in words."""
        return "; ".join(
            (f"data set {o.dataset}: " if o.dataset else "") + (o.detail or o.fate) for o in self.causes
        )


def settle(outcomes: Iterable[Outcome], last: bool, overdue: bool = False) -> Settled:
    """What is to be done with a message, given the outcomes of all its ids, in any order.

    As long as something may succeed, it is to be tried again. After the ``last`` attempt, ids that the graph
    does not know are refused; what failed is not, as it is not the message's fault, unless it is ``overdue``.
    """
    counts: Counter[Fate] = Counter()
    failed: list[Outcome] = []
    refused: list[Outcome] = []
    for outcome in outcomes:
        fate = outcome.fate
        if fate is Fate.UNKNOWN:
            if not len(outcome.ids):
                continue
            outcome = Outcome.refused(Reason.UNKNOWN_NODE, "", outcome.ids, outcome.dataset)
        counts[fate] += len(outcome.ids)
        if fate is Fate.FAILED and overdue:
            refused.append(Outcome.refused(Reason.STILL_FAILED, outcome.detail, outcome.ids, outcome.dataset))
        elif fate is Fate.FAILED or (fate is Fate.UNKNOWN and not last):
            failed.append(outcome)
        elif fate in {Fate.REFUSED, Fate.UNKNOWN}:
            refused.append(outcome)
    if failed:
        return Settled(Verdict.RETRY, counts, _ordered(failed))
    if refused:
        return Settled(Verdict.DEAD, counts, _ordered(refused))
    return Settled(Verdict.DONE, counts)


def _ordered(outcomes: list[Outcome]) -> tuple[Outcome, ...]:
    """In an order that does not depend on how they came about."""
    return tuple(sorted(outcomes, key=lambda o: (o.dataset, o.reason or "", o.detail, o.ids.tolist())))
