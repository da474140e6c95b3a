"""Tests of batches with a bounded number of ids, and of a message's verdict from its ids' outcomes."""

from __future__ import annotations

import pytest

from l2features.core.ids import as_ids
from l2features.messages import parts
from l2features.messages.decoding import Reason
from l2features.messages.outcomes import Fate, Outcome, Verdict, settle
from l2features.messages.parts import Member, among, batches

IDS = as_ids([3, 5, (1 << 64) - 1])


# ------------------------------------------------------------------ parts
def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "BATCH_IDS", 10)
    members = [Member(str(n), as_ids(range(n))) for n in (3, 4, 5, 10, 1, 9)]
    found = [[(m.key, len(m.ids)) for m in batch] for batch in batches(members)]
    assert found == [
        [("3", 3), ("4", 4)],
        [("5", 5)],
        [("10", 10)],
        [("1", 1), ("9", 9)],
    ]
    assert list(batches([])) == []


def test_ids_among_others() -> None:
    assert among(IDS, as_ids([0, 5, 6, (1 << 64) - 1])).tolist() == [5, (1 << 64) - 1]
    assert among(IDS, as_ids([])).tolist() == among(as_ids([]), IDS).tolist() == []


# ------------------------------------------------------------------ verdicts
def outcome(fate: Fate, reason: Reason | None = None, detail: str = "") -> Outcome:
    return Outcome(fate, IDS, "a", reason, detail)


@pytest.mark.parametrize(
    ("of", "last", "verdict", "why"),
    [
        ([], True, Verdict.DONE, ""),
        ([outcome(Fate.WRITTEN), outcome(Fate.PRESENT), outcome(Fate.EMPTY)], False, Verdict.DONE, ""),
        ([outcome(Fate.FAILED, detail="down")], True, Verdict.RETRY, "data set a: down"),
        ([outcome(Fate.UNKNOWN)], False, Verdict.RETRY, "data set a: id 3 (and 2 more) is still not"),
        ([outcome(Fate.UNKNOWN)], True, Verdict.DEAD, "data set a: id 3 (and 2 more) is still not"),
        ([Outcome(Fate.UNKNOWN, as_ids([]))], False, Verdict.DONE, ""),
        ([Outcome.refused(Reason.BAD_PICKLE, "no pickle")], False, Verdict.DEAD, "no pickle"),
        (
            [outcome(Fate.REFUSED, Reason.OTHER_LAYER, "strange"), outcome(Fate.FAILED, detail="down")],
            True,
            Verdict.RETRY,
            "data set a: down",
        ),
        (
            [outcome(Fate.REFUSED, Reason.OTHER_LAYER, "strange"), outcome(Fate.UNKNOWN)],
            False,
            Verdict.RETRY,
            "data set a: id 3 (and 2 more)",
        ),
    ],
)
def test_verdicts(of: list[Outcome], last: bool, verdict: Verdict, why: str) -> None:
    settled = settle(of, last)
    assert (settled.verdict, settled.why[: len(why)], bool(settled.why)) == (verdict, why, bool(why))
    assert sum(settled.counts.values()) == sum(len(o.ids) for o in of)
    backwards = settle(of[::-1], last)
    assert (backwards.why, backwards.counts) == (settled.why, settled.counts)


def test_failed_ids_of_an_overdue_message_are_refused() -> None:
    settled = settle([outcome(Fate.FAILED, detail="down"), outcome(Fate.WRITTEN)], last=True, overdue=True)
    assert (settled.verdict, settled.why) == (Verdict.DEAD, "data set a: down")
    assert [(cause.reason, cause.ids.tolist()) for cause in settled.causes] == [
        (Reason.STILL_FAILED, IDS.tolist())
    ]
    assert settled.counts == {Fate.FAILED: 3, Fate.WRITTEN: 3}
