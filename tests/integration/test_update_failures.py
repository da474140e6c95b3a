"""Tests of message outcomes when graphs, volumes or stores fail."""

from __future__ import annotations

from typing import Any

import pytest

from l2features.core.errors import GraphError, StoreUnavailable, VolumeError
from l2features.core.geometry import Chunk
from l2features.core.ids import Ids
from l2features.core.rows import Rows
from l2features.ingest.node_features import NodeFeatures
from l2features.messages.outcomes import Verdict, settle
from l2features.messages.parts import Delivery
from l2features.testing.stores import forget, lose
from l2features.updates import updater as updater_module
from l2features.updates.apply import apply_messages
from l2features.updates.updater import Updater
from tests.support.updates import EDIT, edit, fates, faulty, rows_of, updater

__all__ = ["updater"]


def test_an_error_is_retried(updater: Updater) -> None:
    ids = lose(updater.store("sample"), Chunk(0, 0, 0), 2)
    errors: list[Exception] = [VolumeError("away")]

    def before(_: Ids) -> None:
        if errors:
            raise errors.pop()

    source = faulty(updater, before)
    found = apply_messages(updater, [Delivery("a", edit(*ids), EDIT)])
    assert fates(found["a"]) == {"written": ids.tolist()}
    assert len(source.asked) == 2


def test_ids_missing_from_a_lagging_graph_are_retried(updater: Updater) -> None:
    whole = rows_of(updater, Chunk(0, 0, 0)).features.tobytes()
    ids = lose(updater.store("sample"), Chunk(0, 0, 0), 3)

    def before(wanted: Ids) -> NodeFeatures | None:
        if len(source.asked) > 1:
            return None
        result = source.source.compute(Chunk(0, 0, 0), wanted[1:])
        result.unknown = wanted[:1]
        return result

    source = faulty(updater, before)
    found = apply_messages(updater, [Delivery("a", edit(*ids), EDIT)])
    assert fates(found["a"]) == {"written": ids.tolist()}
    assert source.asked == [ids.tolist(), ids[:1].tolist()]
    assert rows_of(updater, Chunk(0, 0, 0)).features.tobytes() == whole


@pytest.mark.parametrize("error", [GraphError("no answer"), RuntimeError("a defect")])
def test_one_message_does_not_spoil_the_others_of_its_chunk(updater: Updater, error: Exception) -> None:
    ids = lose(updater.store("sample"), Chunk(0, 0, 0), 3)

    def before(wanted: Ids) -> None:
        if ids[1] in wanted:
            raise error

    faulty(updater, before)
    found = apply_messages(updater, [Delivery(str(n), edit(node), EDIT) for n, node in enumerate(ids)])
    assert [fates(found[key]) for key in "012"] == [
        {"written": [ids[0]]},
        {"failed": [ids[1]]},
        {"written": [ids[2]]},
    ]
    assert str(error) in found["1"][0].detail
    assert settle(found["1"], last=True).verdict is Verdict.RETRY


def test_an_unreadable_chunk_is_not_retried_for_each_message(updater: Updater) -> None:
    ids = lose(updater.store("sample"), Chunk(0, 0, 0), 3)

    def before(_: Ids) -> None:
        raise VolumeError("chunk 0,0,0: away")

    source = faulty(updater, before)
    found = apply_messages(updater, [Delivery(str(n), edit(node), EDIT) for n, node in enumerate(ids)])
    assert [o.detail for key in "012" for o in found[key]] == ["chunk 0,0,0: away"] * 3
    assert len(source.asked) == 2


def test_rows_that_cannot_be_written_are_failed(updater: Updater, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(updater, Chunk(0, 0, 0)).ids
    forget(updater.store("sample"), rows[:1])

    def write(_: Any) -> None:
        raise StoreUnavailable("the store is away")

    monkeypatch.setattr(updater.store("sample"), "write", write)
    found = apply_messages(updater, [Delivery("a", edit(*rows[:2]), EDIT)])
    assert fates(found["a"]) == {"failed": rows[:1].tolist(), "present": rows[1:2].tolist()}
    monkeypatch.undo()
    updater._retries._away.clear()
    assert fates(apply_messages(updater, [Delivery("a", edit(*rows[:2]), EDIT)])["a"])["written"] == [rows[0]]


def test_an_unreachable_store_rests(updater: Updater, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def read(ids: Ids, names: Any) -> Rows:
        asked.append(ids.tolist())
        raise StoreUnavailable("the store is away")

    ids = [int(rows_of(updater, Chunk(x, 0, 0)).ids[0]) for x in range(3)]
    monkeypatch.setattr(updater.store("sample"), "read", read)
    found = apply_messages(updater, [Delivery(str(n), edit(node), EDIT) for n, node in enumerate(ids)])
    assert [(fates(found[key]), found[key][0].detail[-17:]) for key in "012"] == [
        ({"failed": [node]}, "the store is away") for node in ids
    ]
    assert asked == [ids[:1], ids[:1]]
    monkeypatch.undo()
    updater._retries._away.clear()
    assert fates(apply_messages(updater, [Delivery("a", edit(*ids), EDIT)])["a"]) == {"present": ids}


def test_messages_of_a_chunk_are_retried_alone_for_a_limited_time(
    updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = lose(updater.store("sample"), Chunk(0, 0, 0), 3)

    def before(_: Ids) -> None:
        raise GraphError("no answer")

    monkeypatch.setattr(updater_module, "MEMBERS_S", -1.0)
    source = faulty(updater, before)
    found = apply_messages(updater, [Delivery(str(n), edit(node), EDIT) for n, node in enumerate(ids)])
    assert [fates(found[key]) for key in "012"] == [{"failed": [node]} for node in ids]
    assert source.asked == [ids.tolist()] * 2
