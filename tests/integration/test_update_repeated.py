"""Tests of the errors that an update raises so that its runner repeats the call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2features.config.datasets import load_datasets
from l2features.core.errors import (
    GraphError,
    GraphUnavailable,
    StoreError,
    StoreUnavailable,
    TableNotFound,
    VolumeError,
    VolumeUnavailable,
)
from l2features.core.geometry import Chunk
from l2features.core.ids import Ids, as_ids
from l2features.core.schema import FEATURES
from l2features.ingest.node_features import NodeFeatures
from l2features.messages.decoding import Reason
from l2features.messages.outcomes import Verdict, settle
from l2features.messages.parts import DatasetChunk, Delivery, Member
from l2features.testing.stores import lose
from l2features.updates import opened
from l2features.updates.apply import apply_messages
from l2features.updates.opened import read_geometries
from l2features.updates.updater import Update, Updater
from tests.support.updates import EDIT, edit, faulty

PLACE = DatasetChunk("sample", 0, 0, 0)
TRANSIENT = [GraphUnavailable("away"), StoreUnavailable("away"), VolumeUnavailable("away: 403")]
PERMANENT = [
    GraphError("no such table"),
    TableNotFound("no table"),
    StoreError("bad"),
    VolumeError("cut off"),
]


@pytest.fixture
def repeating(config: Path) -> Iterator[Updater]:
    """Yield an updater that raises transient errors until a message is 100 seconds old."""
    datasets = tuple(load_datasets(config).values())
    updater = Update(datasets, attempts=2, pause_s=0.01, repeat_s=100).open()
    yield updater
    updater.close()


def fail_for(updater: Updater, node: int, error: Exception) -> None:
    def before(wanted: Ids) -> None:
        if node in wanted:
            raise error

    faulty(updater, before)


def members_of(ids: Ids, published: float) -> list[Member]:
    return [Member(str(n), ids[n : n + 1], published=published) for n in range(len(ids))]


@pytest.mark.parametrize("error", TRANSIENT)
def test_a_transient_error_is_raised_before_anything_is_yielded(repeating: Updater, error: Exception) -> None:
    """Only after a graph error is each message computed alone. Then all but the failing one are stored."""
    ids = lose(repeating.store("sample"), Chunk(0, 0, 0), 3)
    fail_for(repeating, int(ids[1]), error)
    found: list[Any] = []
    with pytest.raises(type(error), match=str(error)):
        found.extend(repeating.compute(PLACE, members_of(ids, time.time())))
    assert found == []
    kept = repeating.store("sample").read(ids).found.tolist()
    assert kept == ([True, False, True] if isinstance(error, GraphError) else [False] * 3)


@pytest.mark.parametrize(("forbidden", "age_s"), [(1, 0.0), (1, 200.0), (0, 0.0)])
def test_nodes_with_denied_files_are_repeated(repeating: Updater, forbidden: int, age_s: float) -> None:
    """A 403 may be transient, or mean a missing file. It is retried while the message is new."""
    ids = lose(repeating.store("sample"), Chunk(0, 0, 0), 1)

    def hollow(wanted: Ids) -> NodeFeatures:
        rows, none = np.zeros(0, FEATURES), as_ids([])
        return NodeFeatures(Chunk(0, 0, 0), rows, none, unsure=wanted, unsure_why="x", forbidden=forbidden)

    faulty(repeating, hollow)
    message = Delivery("a", edit(ids[0]), EDIT, overdue=True, published=time.time() - age_s)
    if forbidden and not age_s:
        with pytest.raises(VolumeUnavailable, match="x: 403 Forbidden"):
            apply_messages(repeating, [message])
        return
    settled = settle(apply_messages(repeating, [message])["a"], last=True, overdue=True)
    assert [cause.reason for cause in settled.causes] == [Reason.STILL_FAILED]


@pytest.mark.parametrize("error", [*TRANSIENT, *PERMANENT])
@pytest.mark.parametrize("age_s", [0.0, 200.0])
def test_permanent_errors_and_old_messages_are_refused(
    repeating: Updater, error: Exception, age_s: float
) -> None:
    """``age_s`` is the age of the message, not of the process."""
    if error in TRANSIENT and not age_s:
        return
    ids = lose(repeating.store("sample"), Chunk(0, 0, 0), 2)
    fail_for(repeating, int(ids[0]), error)
    message = Delivery("a", edit(ids[0]), EDIT, overdue=True, published=time.time() - age_s)
    settled = settle(apply_messages(repeating, [message])["a"], last=True, overdue=True)
    assert [cause.reason for cause in settled.causes] == [Reason.STILL_FAILED]
    assert str(error) in settled.why


def test_a_transient_error_of_a_write_is_raised(repeating: Updater, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = lose(repeating.store("sample"), Chunk(0, 0, 0), 2)

    def write(_: Any) -> None:
        raise StoreUnavailable("away")

    [computed] = repeating.compute(PLACE, members_of(ids, time.time()))
    monkeypatch.setattr(repeating.store("sample"), "write", write)
    with pytest.raises(StoreUnavailable):
        list(repeating.write(computed))


# ------------------------------------------------------------------ geometries of the launcher
def test_a_message_is_decoded_without_a_store(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = tuple(load_datasets(config).values())
    update = Update(datasets, repeat_s=100, geometries=read_geometries(datasets))
    assert hash(update) == hash(replace(update))

    def no_store(*_: Any) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(opened, "open_store", no_store)
    updater = update.open()
    first = updater.geometry("sample").chunk_id(Chunk(0, 0, 0))
    _, parts = updater.plan(Delivery("a", edit(first + 1), EDIT, published=time.time()))
    assert [place for place, _ in parts] == [PLACE]


def test_planning_raises_nothing_if_a_geometry_is_unknown(
    config: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_store(*_: Any) -> None:
        raise StoreUnavailable("away")

    datasets = tuple(load_datasets(config).values())
    monkeypatch.setattr(opened, "open_store", no_store)
    assert read_geometries(datasets) == ()
    assert "data set sample: cannot read its geometry yet: away" in caplog.text
    updater = Update(datasets, attempts=1, repeat_s=100).open()
    message, _ = updater.plan(Delivery("a", edit(5), EDIT, published=time.time()))
    assert settle(message.outcomes, last=False).verdict is Verdict.RETRY
