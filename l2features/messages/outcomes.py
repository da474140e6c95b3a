"""Outcomes of a message's ids, and the resulting verdict on the message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from ..core.ids import Ids
from .decoding import Reason

MAX_DETAIL = 2_000


class Fate(StrEnum):
    """The outcome of one node id of a message."""

    WRITTEN = "written"
    """The id's row is durable."""
    EMPTY = "empty"
    """The id has no voxels; the row that marks the id as empty is durable."""
    PRESENT = "present"
    """The id's row existed before."""
    UNKNOWN = "unknown"
    """The id is missing from the graph, perhaps only for now."""
    FAILED = "failed"
    """The id's features could not be computed; a retry may succeed."""
    REFUSED = "refused"
    """The id has a permanent error."""


class Verdict(StrEnum):
    """The outcome of a message."""

    DONE = "done"
    """The message is acknowledged: all rows that it requested are durable."""
    RETRY = "retry"
    """The message is retried."""
    DEAD = "dead"
    """The message becomes a dead letter: it or one of its ids has a permanent error; the rest is durable."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """Ids of a message that have the same fate in a data set.

    ``reason`` is a code and ``detail`` an explanation. If the whole message is refused, ``ids`` may be empty.
    If the message names no known data set, ``dataset`` is empty.
    """

    fate: Fate
    ids: Ids
    dataset: str = ""
    reason: Reason | None = None
    detail: str = ""

    @classmethod
    def refused(cls, reason: Reason, detail: str, ids: Ids | None = None, dataset: str = "") -> Outcome:
        """Return a permanent error's outcome; an empty ``detail`` becomes an id and the reason's meaning."""
        ids = np.zeros(0, np.uint64) if ids is None else ids
        if not detail:
            what = f"id {ids[0]}" if len(ids) == 1 else f"id {ids[0]} (and {len(ids) - 1} more)"
            detail = f"{what} {reason.meaning}"
        return cls(Fate.REFUSED, ids, dataset, reason, detail[:MAX_DETAIL])


@dataclass(frozen=True, eq=False)
class Settled:
    """The verdict on a message, the number of ids by fate, and the outcomes that caused the verdict."""

    verdict: Verdict
    counts: Counter[Fate] = field(default_factory=Counter)
    causes: tuple[Outcome, ...] = ()

    @property
    def why(self) -> str:
        """The explanations of all ``causes``, joined by semicolons."""
        return "; ".join(
            (f"data set {o.dataset}: " if o.dataset else "") + (o.detail or o.fate) for o in self.causes
        )


def settle(outcomes: Iterable[Outcome], last: bool, overdue: bool = False) -> Settled:
    """Return the verdict on a message from the outcomes of all its ids, in any order.

    A message is retried as long as one of its ids may succeed. After the ``last`` attempt, ids that are
    missing from the graph are refused. Failed ids are refused only if the message is ``overdue``, because
    their failure is not the message's fault.
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
    """Sort outcomes, to make their order independent of the order of computation."""
    return tuple(sorted(outcomes, key=lambda o: (o.dataset, o.reason or "", o.detail, o.ids.tolist())))
