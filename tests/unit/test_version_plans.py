"""Tests of the plan of a version, and of the folder of versions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from l2features.core.errors import ConfigError, VersionError
from l2features.core.ids import as_ids
from l2features.versions.folders import Folder
from l2features.versions.manifest import version_numbers
from l2features.versions.materialization import settled_time
from l2features.versions.plan import Plan, begin, bounds_of, evenly_spread, next_number, plan_path, read_plan
from tests.support.version_chains import write_chain

TIME = datetime(2026, 11, 21, tzinfo=UTC)
PLAN = Plan(
    number=1,
    timestamp=TIME,
    dataset="sample",
    l2cache_id="t",
    graph_id="g",
    cv_path="c",
    box="0:1,0:1,0:1",
    units=4,
)


def divided(plan: Plan) -> Plan:
    return plan.model_copy(update={"root_bounds": (7,), "made": (5,)})


def not_divided(plan: Plan) -> Plan:
    raise AssertionError("a plan that exists was divided again")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "versions"))


def test_a_plan_is_written_once_and_found_again(folder: Folder) -> None:
    assert read_plan(folder, 1) is None
    first = begin(folder, PLAN, divided)
    assert first == divided(PLAN) == read_plan(folder, 1)
    assert begin(folder, PLAN, not_divided) == first
    assert folder.names("000001") == ["plan.json"]
    assert version_numbers(folder) == []
    assert next_number(folder) == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"timestamp": TIME + timedelta(milliseconds=1)}, "at 2026-11-21T00:00:00.000Z, chunks 0:1,0:1,0:1"),
        ({"base": 3}, "expected 'sample' at 2026-11-21T00:00:00.000Z from version 3, chunks"),
        ({"dataset": "other", "l2cache_id": "u"}, "for data set 'sample'"),
        ({"box": "0:2,0:1,0:1"}, "chunks 0:2,0:1,0:1; finish it with its own options"),
    ],
)
def test_other_work_of_the_same_number_is_refused(
    folder: Folder, change: dict[str, object], told: str
) -> None:
    begin(folder, PLAN, divided)
    before = folder.read(plan_path(1))
    with pytest.raises(VersionError, match=r"^version 1 in .* is unfinished, ") as error:
        begin(folder, PLAN.model_copy(update=change), not_divided)
    assert told in str(error.value)
    assert "`l2features versions delete sample 1`" in str(error.value)
    assert folder.read(plan_path(1)) == before


@pytest.mark.parametrize("same", [True, False])
def test_of_two_that_begin_at_once_one_writes_the_plan(folder: Folder, same: bool) -> None:
    """Two jobs find no plan. The later one takes the other's plan if it matches, and is refused if not."""
    other = PLAN if same else PLAN.model_copy(update={"timestamp": TIME + timedelta(days=1)})

    def overtaken(plan: Plan) -> Plan:
        begin(folder, other, divided)
        return plan.model_copy(update={"root_bounds": (99,)})

    if same:
        assert begin(folder, PLAN, overtaken) == divided(PLAN)
    else:
        with pytest.raises(VersionError, match="is unfinished"):
            begin(folder, PLAN, overtaken)
    assert folder.names("000001") == ["plan.json"]


def test_a_folder_of_others_is_left_alone(folder: Folder) -> None:
    folder.write("000001/thesis.doc", b"my work")
    with pytest.raises(VersionError, match=r"/000001 has 'thesis.doc' but no plan.json: expected an empty"):
        begin(folder, PLAN, not_divided)
    assert folder.read("000001/thesis.doc") == b"my work"
    assert folder.names("000001") == ["thesis.doc"]


def test_what_a_killed_job_left_of_a_plan_does_not_hinder(folder: Folder) -> None:
    folder.write("000001/.plan.json.abc", b"{")
    assert begin(folder, PLAN, divided) == divided(PLAN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"format": 1, "numb', r"000001/plan.json is not a plan: delete the folder 000001"),
        (b"[]", "is not a plan"),
        (PLAN.model_copy(update={"format": 2}).model_dump_json().encode(), "format 2, expected 1"),
        (b'{"format": 2, "tongue": "unknown"}', r"plan.json: format 2, expected 1"),
    ],
)
def test_a_corrupt_or_newer_plan(folder: Folder, content: bytes, message: str) -> None:
    folder.write(plan_path(1), content)
    with pytest.raises(VersionError, match=message) as error:
        begin(folder, PLAN, not_divided)
    assert "\n" not in str(error.value)
    assert folder.read(plan_path(1)) == content


def test_numbers_follow_the_highest_version(tmp_path: Path) -> None:
    chain = write_chain(tmp_path, renewals=2, nodes=20)
    assert next_number(chain.folder) == 4
    (tmp_path / "000003" / "manifest.json").unlink()
    assert next_number(chain.folder) == 3


def test_bounds_and_samples() -> None:
    assert bounds_of([], 3) == ()
    assert bounds_of([as_ids([5, 5, 5])], 3) == ()
    assert bounds_of([as_ids([1, 1, 1, 9])], 4) == (9,)
    assert bounds_of([as_ids([4, 2]), as_ids([3, 1])], 4) == (2, 3, 4)
    assert list(evenly_spread(3, 16)) == [0, 1, 2]
    assert list(evenly_spread(100, 4)) == [0, 25, 50, 75]


@pytest.mark.parametrize(
    ("settled", "message"),
    [
        (60.0, r"timestamp '.*': expected a time at least 60 s in the past \(before 20.*\), since later"),
        (-1.0, "expected 0 or more"),
    ],
)
def test_a_time_that_may_still_change(settled: float, message: str) -> None:
    now = datetime.now(UTC).isoformat()
    with pytest.raises(ConfigError, match=message):
        settled_time(now, timedelta(seconds=settled))


def test_a_time_of_the_past() -> None:
    time = settled_time("2026-11-21T00:27:44.368Z")
    assert time == datetime(2026, 11, 21, 0, 27, 44, 368_000, UTC)
    now = datetime.now(UTC)
    assert settled_time(now.isoformat(), timedelta(0)) <= now


# ------------------------------------------------------------------ folders
def test_a_file_appears_whole_or_not_at_all(folder: Folder) -> None:
    with folder.writing("a/b") as stream:
        stream.write(b"new")
        assert not folder.exists("a/b")
    assert folder.read("a/b") == b"new"
    with pytest.raises(ZeroDivisionError), folder.writing("a/b") as stream:
        stream.write(b"half %d" % (1 // 0))
    assert folder.read("a/b") == b"new"
    with pytest.raises(VersionError, match=r"cannot write .*/a/b: \[Errno 28\]"), folder.writing("a/b"):
        raise OSError(28, "No space left on device")
    assert folder.names("a") == ["b"]


def test_of_many_that_create_a_file_one_succeeds(folder: Folder) -> None:
    results: list[bool] = []
    together = threading.Barrier(8)

    def create(content: bytes) -> None:
        together.wait()
        results.append(folder.create("a/b", content))

    threads = [threading.Thread(target=create, args=(bytes([i]) * 9,)) for i in range(8)]
    in_all(threads, threading.Thread.start)
    in_all(threads, threading.Thread.join)
    assert sorted(results) == [False] * 7 + [True]
    content = folder.read("a/b")
    assert content
    assert len(content) == 9
    assert folder.names("a") == ["b"]


def in_all(threads: list[threading.Thread], do: Callable[[threading.Thread], None]) -> None:
    for thread in threads:
        do(thread)


def test_a_lock_is_held_by_one(folder: Folder) -> None:
    folder.write("a/b", b"")
    with folder.locked("a/b") as first, folder.locked("a/b") as second:
        assert (first, second) == (True, False)
    with folder.locked("a/b") as again:
        assert again
    with pytest.raises(VersionError, match=r"cannot lock .*/a/c"), folder.locked("a/c"):
        pass


def test_what_is_missing(folder: Folder) -> None:
    assert (folder.names(), folder.read("a"), folder.size("a"), folder.exists("a")) == ([], None, None, False)
    folder.delete("a")
    folder.delete_folder("a")
    with pytest.raises(VersionError, match="cannot open"):
        folder.open("a")


@pytest.mark.parametrize("url", ["relative/path", "s3://bucket/x", "gs://", "file://", ""])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match=r"expected an absolute path, file:///… or gs://bucket/path"):
        Folder(url)
