"""What messages mean, without a pipeline: parts, outcomes and verdicts."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2features.config import load_datasets
from l2features.errors import GraphError, StoreUnavailable, VolumeError
from l2features.geometry import Chunk
from l2features.ids import Ids, as_ids
from l2features.messages import Reason
from l2features.nodes import NodeFeatures, NodeSource
from l2features.rows import Rows
from l2features.schema import FEATURES
from l2features.updates import parts
from l2features.updates import updater as updater_module
from l2features.updates.lending import give_back, lend
from l2features.updates.outcomes import Fate, Outcome, Verdict, settle
from l2features.updates.parts import Delivery, Member, among, batches
from l2features.updates.updater import Update, Updater, apply_messages

EDIT = {"table_id": "sample", "remesh": "true"}
IDS = as_ids([3, 5, (1 << 64) - 1])


@pytest.fixture
def config(undisturbed: Path, tmp_path: Path) -> Path:
    """The data sets file of the ingested sample, whose store may be written to."""
    entry = json.loads(undisturbed.read_text())["sample"]
    source = Path(entry["store"].removeprefix("sqlite://"))
    (tmp_path / "l2cache.db").write_bytes(source.read_bytes())
    store = f"sqlite://{tmp_path}/l2cache.db"
    path = tmp_path / "datasets.yml"
    path.write_text(json.dumps({"sample": {**entry, "store": store}}))
    return path


@pytest.fixture
def updater(config: Path) -> Iterator[Updater]:
    updater = Update(tuple(load_datasets(config).values()), attempts=2, pause_s=0.01).open()
    yield updater
    updater.close()


def rows_of(updater: Updater, chunk: Chunk) -> Rows:
    geometry = updater.geometry("sample")
    first = geometry.chunk_id(chunk)
    return updater.store("sample").scan_chunk(first, geometry.layout.last_id(first))


def forget(updater: Updater, ids: Ids) -> None:
    for node in ids.tolist():
        updater.store("sample").delete(node, node)


def edit(*ids: Any) -> bytes:
    return pickle.dumps({"operation_id": 1, "new_lvl2_ids": [int(i) for i in ids]})


def fates(outcomes: list[Outcome]) -> dict[str, list[int]]:
    """The ids of each fate, sorted."""
    found: dict[str, list[int]] = {}
    for outcome in outcomes:
        found[outcome.fate] = sorted([*found.get(outcome.fate, []), *outcome.ids.tolist()])
    return found


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
        ([outcome(Fate.UNKNOWN)], False, Verdict.RETRY, "data set a: 3 ids, the first 3: is still not"),
        ([outcome(Fate.UNKNOWN)], True, Verdict.DEAD, "data set a: 3 ids, the first 3: is still not"),
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
            "data set a: 3 ids",
        ),
    ],
)
def test_verdicts(of: list[Outcome], last: bool, verdict: Verdict, why: str) -> None:
    settled = settle(of, last)
    assert (settled.verdict, settled.why[: len(why)], bool(settled.why)) == (verdict, why, bool(why))
    assert sum(settled.counts.values()) == sum(len(o.ids) for o in of)
    backwards = settle(of[::-1], last)
    assert (backwards.why, backwards.counts) == (settled.why, settled.counts)


def test_what_is_overdue_is_refused_with_the_failure_as_the_reason() -> None:
    settled = settle([outcome(Fate.FAILED, detail="down"), outcome(Fate.WRITTEN)], last=True, overdue=True)
    assert (settled.verdict, settled.why) == (Verdict.DEAD, "data set a: down")
    assert [(cause.reason, cause.ids.tolist()) for cause in settled.causes] == [
        (Reason.STILL_FAILED, IDS.tolist())
    ]
    assert settled.counts == {Fate.FAILED: 3, Fate.WRITTEN: 3}


def test_a_process_has_one_updater_for_an_update_until_nobody_needs_it(config: Path) -> None:
    updates = [Update(tuple(load_datasets(config).values()), attempts=n) for n in (1, 1, 2)]
    first, same, other = map(lend, updates)
    assert first is same
    assert first is not other
    store = first.store("sample")
    give_back(updates[0])
    assert lend(updates[1]).store("sample") is store
    for update_ in (updates[1], updates[0], updates[2]):
        give_back(update_)
    assert lend(updates[0]) is not first
    give_back(updates[0])


# ------------------------------------------------------------------ messages to rows
def test_what_is_there_is_skipped_and_the_rest_is_as_the_batch_made_it(updater: Updater) -> None:
    chunks = [Chunk(0, 0, 0), Chunk(2, 1, 1)]
    before = [rows_of(updater, chunk).features.tobytes() for chunk in chunks]
    one, two = (rows_of(updater, chunk).ids for chunk in chunks)
    lost = np.concatenate([one[:3], two[-2:]])
    forget(updater, lost)
    unknown = int(one[-1]) + 1
    deliveries = [
        Delivery("a", edit(*lost, *one[3:5]), EDIT),
        Delivery("b", edit(*lost[::-1], unknown, 7), EDIT),
        Delivery("c", b"", {**EDIT, "l2_cache_id": "l2cache_sample"}),
    ]
    found = apply_messages(updater, deliveries)
    written = sorted(lost.tolist())
    assert fates(found["a"]) == {"written": written, "present": one[3:5].tolist()}
    assert fates(found["b"]) == {"written": written, "unknown": [unknown], "refused": [7]}
    assert found["c"] == []
    assert [rows_of(updater, chunk).features.tobytes() for chunk in chunks] == before
    again = apply_messages(updater, deliveries[::-1])
    assert fates(again["a"]) == {"present": sorted([*written, *one[3:5].tolist()])}
    assert [rows_of(updater, chunk).features.tobytes() for chunk in chunks] == before


def test_every_cache_of_a_graph_is_updated_unless_one_is_named(config: Path, recordings: Any) -> None:
    graph, cv_path = "bigtable://test-project/test-instance/fixture_v2", recordings.cv_path("fixture_v2")
    folder = config.parent
    entries = {
        name: {
            "cv_path": cv_path,
            "graph": graph,
            "l2cache_id": cache,
            "store": f"sqlite://{folder}/{name}.db",
        }
        for name, cache in (("one", "cache_one"), ("two", "cache_two"))
    }
    config.write_text(json.dumps(entries))
    from l2features.ingest import prepare

    datasets = load_datasets(config)
    for dataset in datasets.values():
        prepare(dataset, "2026-11-21 00:27:44", create=True)
    updater = Update(tuple(datasets.values()), attempts=1).open()
    nodes = as_ids([144115188075855888, 144185556820033554])
    named = Delivery("m", nodes[:1].tobytes(), {"table_id": "fixture_v2", "l2_cache_id": "cache_two"})
    every = Delivery("e", edit(*nodes), {"table_id": "fixture_v2", "remesh": "true"})
    assert [o.dataset for o in apply_messages(updater, [named])["m"] if len(o.ids)] == ["two"]
    found = apply_messages(updater, [every])["e"]
    assert sorted((o.dataset, o.fate.value, len(o.ids)) for o in found) == [
        ("one", "written", 1),
        ("one", "written", 1),
        ("two", "present", 1),
        ("two", "written", 1),
    ]
    one, two = (updater.store(name).read(nodes).features.tobytes() for name in ("one", "two"))
    assert one == two
    updater.close()


class Faulty:
    """Stands before a source of nodes: asks ``before`` first, which may raise."""

    def __init__(self, source: NodeSource, before: Any) -> None:
        self.source, self.before = source, before
        self.asked: list[list[int]] = []

    def compute(self, chunk: Chunk, ids: Ids) -> NodeFeatures:
        self.asked.append(ids.tolist())
        return self.before(ids) or self.source.compute(chunk, ids)

    def close(self) -> None:
        self.source.close()


def faulty(updater: Updater, before: Any) -> Faulty:
    stand_in = Faulty(updater._source("sample"), before)
    updater._sources["sample"] = stand_in  # type: ignore[assignment]
    return stand_in


def test_what_passes_is_tried_again(updater: Updater) -> None:
    ids = rows_of(updater, Chunk(0, 0, 0)).ids[:2]
    forget(updater, ids)
    errors: list[Exception] = [VolumeError("away")]

    def before(_: Ids) -> None:
        if errors:
            raise errors.pop()

    source = faulty(updater, before)
    found = apply_messages(updater, [Delivery("a", edit(*ids), EDIT)])
    assert fates(found["a"]) == {"written": ids.tolist()}
    assert len(source.asked) == 2


def test_a_graph_that_lags_is_asked_again_for_what_it_did_not_know(updater: Updater) -> None:
    ids = rows_of(updater, Chunk(0, 0, 0)).ids[:3]
    whole = rows_of(updater, Chunk(0, 0, 0)).features.tobytes()
    forget(updater, ids)

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
    ids = rows_of(updater, Chunk(0, 0, 0)).ids[:3]
    forget(updater, ids)

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


def test_a_chunk_that_cannot_be_read_is_not_tried_for_each_message(updater: Updater) -> None:
    ids = rows_of(updater, Chunk(0, 0, 0)).ids[:3]
    forget(updater, ids)

    def before(_: Ids) -> None:
        raise VolumeError("chunk 0,0,0: away")

    source = faulty(updater, before)
    found = apply_messages(updater, [Delivery(str(n), edit(node), EDIT) for n, node in enumerate(ids)])
    assert [o.detail for key in "012" for o in found[key]] == ["chunk 0,0,0: away"] * 3
    assert len(source.asked) == 2


def test_rows_that_cannot_be_written_are_not_said_to_be(
    updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(updater, Chunk(0, 0, 0)).ids
    forget(updater, rows[:1])

    def write(_: Any) -> None:
        raise StoreUnavailable("the store is away")

    monkeypatch.setattr(updater.store("sample"), "write", write)
    found = apply_messages(updater, [Delivery("a", edit(*rows[:2]), EDIT)])
    assert fates(found["a"]) == {"failed": rows[:1].tolist(), "present": rows[1:2].tolist()}
    monkeypatch.undo()
    updater._retries._away.clear()
    assert fates(apply_messages(updater, [Delivery("a", edit(*rows[:2]), EDIT)])["a"])["written"] == [rows[0]]


def test_a_store_that_cannot_be_reached_is_left_alone_for_a_while(
    updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@pytest.mark.parametrize("error", [GraphError("no answer"), StoreUnavailable("away"), VolumeError("away")])
@pytest.mark.parametrize("age_s", [0.0, 200.0])
def test_an_outage_is_raised_for_who_can_repeat_the_call(
    config: Path, error: Exception, age_s: float
) -> None:
    update = Update(tuple(load_datasets(config).values()), attempts=2, pause_s=0.01, insist_s=100)
    updater = update.open()
    ids = rows_of(updater, Chunk(0, 0, 0)).ids[:3]
    forget(updater, ids)

    def before(wanted: Ids) -> None:
        if ids[0] in wanted:
            raise error

    faulty(updater, before)
    published = time.time() - age_s
    messages = [
        Delivery(str(n), edit(node), EDIT, overdue=True, published=published) for n, node in enumerate(ids)
    ]
    if age_s < update.insist_s and not isinstance(error, VolumeError):
        with pytest.raises(type(error), match=str(error)):
            apply_messages(updater, messages)
    else:
        settled = settle(apply_messages(updater, messages)["0"], last=True, overdue=True)
        assert [cause.reason for cause in settled.causes] == [Reason.STILL_FAILED]
        assert str(error) in settled.why
    others = updater.store("sample").read(ids[1:]).found
    assert others.tolist() == [isinstance(error, GraphError)] * 2
    updater.close()


def test_messages_of_a_chunk_are_tried_one_by_one_for_a_while(
    updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = rows_of(updater, Chunk(0, 0, 0)).ids[:3]
    forget(updater, ids)

    def before(_: Ids) -> None:
        raise GraphError("no answer")

    monkeypatch.setattr(updater_module, "MEMBERS_S", -1.0)
    source = faulty(updater, before)
    found = apply_messages(updater, [Delivery(str(n), edit(node), EDIT) for n, node in enumerate(ids)])
    assert [fates(found[key]) for key in "012"] == [{"failed": [node]} for node in ids]
    assert source.asked == [ids.tolist()] * 2


def test_what_has_no_voxels_is_marked_and_what_the_graph_gets_wrong_is_refused(updater: Updater) -> None:
    chunk = Chunk(0, 0, 0)
    first = updater.geometry("sample").chunk_id(chunk)
    empty, bad = first + 70_000, first + 70_001

    def before(wanted: Ids) -> NodeFeatures:
        rows = np.zeros(1, FEATURES)
        rows["label"] = empty
        return NodeFeatures(chunk, rows, wanted[:0], {bad: f"node {bad}: its child 5 is not a supervoxel"})

    faulty(updater, before)
    found = apply_messages(updater, [Delivery("a", edit(empty, bad), EDIT)])
    assert fates(found["a"]) == {"empty": [empty], "refused": [bad]}
    rows = updater.store("sample").read(as_ids([empty, bad]))
    assert (rows.not_computed.tolist(), rows.found.tolist()) == ([True, False], [True, False])
    settled = settle(found["a"], last=False)
    assert (settled.verdict, settled.causes[0].reason) == (Verdict.DEAD, Reason.BAD_NODE)
    assert fates(apply_messages(updater, [Delivery("a", edit(empty), EDIT)])["a"]) == {"present": [empty]}
