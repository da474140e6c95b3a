"""Tests of messages that kill their process. An exception stands for the death."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from l2features.config.datasets import load_datasets
from l2features.core.errors import GraphUnavailable
from l2features.core.geometry import Chunk
from l2features.core.ids import Ids
from l2features.ingest.steps import ATTEMPTS, GIVEN_UP
from l2features.messages.decoding import Reason
from l2features.messages.outcomes import Outcome
from l2features.messages.parts import DatasetChunk, Member
from l2features.testing.stores import lose
from l2features.updates.message_attempts import Attempts
from l2features.updates.updater import Update, Updater
from tests.support.updates import fates, faulty

PLACE = DatasetChunk("sample", 0, 0, 0)


class Killed(BaseException):
    """Stands for the death of a process."""


@pytest.fixture
def counting(config: Path) -> Iterator[Updater]:
    datasets = tuple(load_datasets(config).values())
    updater = Update(datasets, attempts=1, repeat_s=100, counted=True).open()
    yield updater
    updater.close()


def apply(updater: Updater, members: list[Member]) -> dict[str, list[Outcome]]:
    """Compute and write the ids of ``members`` (parts of messages); return the outcomes by message."""
    found: dict[str, list[Outcome]] = {}
    for computed in updater.compute(PLACE, members):
        for member, outcomes in updater.write(computed):
            found.setdefault(member.key, []).extend(outcomes)
    return found


def die_at(updater: Updater, node: int, members: list[Member], times: int) -> None:
    """Call `apply` ``times`` times. Each call is killed at ``node``, so its attempt has no recorded end."""

    def before(wanted: Ids) -> None:
        if node in wanted:
            raise Killed

    faulty(updater, before)
    end = updater._end

    def end_unless_dead(*arguments: Any) -> None:
        if not isinstance(sys.exception(), Killed):
            end(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(updater, "_end", end_unless_dead)
        for _ in range(times):
            with pytest.raises(Killed):
                apply(updater, members)


def members_of(ids: Ids) -> list[Member]:
    return [Member(str(n), ids[n : n + 1]) for n in range(len(ids))]


def open_attempts(updater: Updater, members: list[Member]) -> int:
    chunk_id = updater.geometry("sample").chunk_id(PLACE.chunk)
    attempts = Attempts(updater.store("sample"), chunk_id, members)
    [count, *_] = updater.store("sample").count_attempts(chunk_id, [*attempts.works])
    attempts.end(members)
    return count - 1


def test_a_message_that_kills_its_process_is_given_up_and_the_others_are_done(counting: Updater) -> None:
    ids = lose(counting.store("sample"), Chunk(0, 0, 0), 3)
    members = members_of(ids)
    die_at(counting, int(ids[1]), members, 2 * ATTEMPTS)
    found = apply(counting, members)
    assert [fates(found[key]) for key in "012"] == [
        {"written": [ids[0]]},
        {"refused": [ids[1]]},
        {"written": [ids[2]]},
    ]
    [refused] = found["1"]
    assert (refused.reason, refused.detail) == (Reason.STILL_FAILED, f"chunk 0,0,0: {GIVEN_UP}")
    assert open_attempts(counting, members) == 0


def test_a_message_is_known_by_its_key_in_any_batch(counting: Updater) -> None:
    ids = lose(counting.store("sample"), Chunk(0, 0, 0), 4)
    members = members_of(ids)
    for company in (members[:2], members[1:3], members[1:]):
        die_at(counting, int(ids[1]), company, 1)
    die_at(counting, int(ids[1]), members, ATTEMPTS)
    found = apply(counting, members)
    assert [sorted(fates(found[key])) for key in "0123"] == [
        ["written"],
        ["refused"],
        ["written"],
        ["written"],
    ]


def test_a_single_message_is_given_up_as_soon(counting: Updater) -> None:
    ids = lose(counting.store("sample"), Chunk(0, 0, 0), 1)
    die_at(counting, int(ids[0]), members_of(ids), ATTEMPTS)
    assert fates(apply(counting, members_of(ids))["0"]) == {"refused": [ids[0]]}


def test_attempts_that_end_are_not_counted(counting: Updater) -> None:
    """Check that a success or an error, raised or not, does not count as a death."""
    ids = lose(counting.store("sample"), Chunk(0, 0, 0), 2)
    members = [member._replace(published=2e9) for member in members_of(ids)]

    def before(_: Ids) -> None:
        raise GraphUnavailable("away")

    stand_in = faulty(counting, before)
    for _ in range(2 * ATTEMPTS + 1):
        with pytest.raises(GraphUnavailable):
            apply(counting, members)
    stand_in.before = lambda _: None
    assert [fates(found) for found in apply(counting, members).values()] == [{"written": [i]} for i in ids]
    assert open_attempts(counting, members) == 0


def test_attempts_are_counted_only_where_a_runner_repeats_them(counting: Updater) -> None:
    ids = lose(counting.store("sample"), Chunk(0, 0, 0), 1)
    local = replace(counting.update, counted=False).open()
    die_at(local, int(ids[0]), members_of(ids), ATTEMPTS)
    assert open_attempts(counting, members_of(ids)) == 0
    local.close()
