"""Tests of a stream's stored state: newer code reads what older code stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from apache_beam.coders import FastPrimitivesCoder

from l2features.core.ids import as_ids
from l2features.messages.decoding import Reason
from l2features.messages.outcomes import Fate, Outcome
from l2features.messages.parts import Delivery, Member
from l2features.updates.ledger import (
    Entry,
    OpenMessage,
    Report,
    entry_of,
    member_of,
    plain_entry,
    plain_member,
)

LARGEST = (1 << 64) - 1
DELIVERY = Delivery("project edits/17", b"\x80\x04N.", {"table_id": "minnie"}, 1, True, False, 1.7e9)
OUTCOMES = (
    Outcome(Fate.WRITTEN, as_ids([5, LARGEST]), "minnie"),
    Outcome.refused(Reason.OTHER_LAYER, "", as_ids([7]), "minnie"),
)
OPENED = OpenMessage(DELIVERY, frozenset([2, 0]), OUTCOMES[1:], ("minnie", "other"), 777)
REPORT = Report(3, OUTCOMES)
MEMBER = Member("project edits/17", as_ids([5, LARGEST]), 3, 1.7e9)
KEPT = {
    "OpenMessage": (
        "060604066f70656e65640607041070726f6a6563742065646974732f3137030480044e2e070104087461626c"
        "655f696404066d696e6e69650101090109000241d954fc400000000602010001020601060504077265667573"
        "65640308070000000000000004066d696e6e6965040b6f746865725f6c61796572041669642037206973206e"
        "6f74206f66206c617965722032060204066d696e6e696504056f74686572018906"
    ),
    "Report": (
        "060304067265706f727401030602060504077772697474656e03100500000000000000ffffffffffffffff04"
        "066d696e6e696500040006050407726566757365640308070000000000000004066d696e6e6965040b6f7468"
        "65725f6c61796572041669642037206973206e6f74206f66206c617965722032"
    ),
    "Member": (
        "0604041070726f6a6563742065646974732f313703100500000000000000ffffffffffffffff01030241d954fc40000000"
    ),
}
"""Bytes of Beam's coder; they never change, as they are in the state of running jobs."""


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, (OpenMessage, Report, Outcome)):
        return type(one) is type(other) and same(list(vars(one).values()), list(vars(other).values()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("entry", [OPENED, REPORT])
def test_entries_of_older_code_are_read(entry: Entry) -> None:
    kept = bytes.fromhex(KEPT[type(entry).__name__])
    assert FastPrimitivesCoder().encode(plain_entry(entry)) == kept
    assert same(entry_of(FastPrimitivesCoder().decode(kept)), entry)


def test_members_of_older_code_are_read() -> None:
    kept = bytes.fromhex(KEPT["Member"])
    assert FastPrimitivesCoder().encode(plain_member(MEMBER)) == kept
    assert same(member_of(FastPrimitivesCoder().decode(kept)), MEMBER)


def test_stored_state_names_no_code() -> None:
    for kept in map(bytes.fromhex, KEPT.values()):
        assert not any(name in kept for name in (b"l2features", b"numpy", b"builtins"))
