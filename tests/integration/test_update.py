"""Tests of applying messages without a pipeline: rows written, skipped, marked empty or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2features.config.datasets import load_datasets
from l2features.core.geometry import Chunk
from l2features.core.ids import Ids, as_ids
from l2features.core.schema import FEATURES
from l2features.ingest.node_features import NodeFeatures
from l2features.messages.decoding import Reason
from l2features.messages.outcomes import Verdict, settle
from l2features.messages.parts import Delivery
from l2features.pubsub.letter import DeadLetterError
from l2features.pubsub.letter_folder import LetterFolder
from l2features.testing.stores import forget
from l2features.updates.apply import apply_batch, apply_messages
from l2features.updates.updater import Update, Updater
from tests.support.updates import EDIT, edit, fates, faulty, rows_of, updater

__all__ = ["updater"]


def test_existing_rows_are_skipped_and_the_others_equal_the_ingest(updater: Updater) -> None:
    chunks = [Chunk(0, 0, 0), Chunk(2, 1, 1)]
    before = [rows_of(updater, chunk).features.tobytes() for chunk in chunks]
    one, two = (rows_of(updater, chunk).ids for chunk in chunks)
    lost = np.concatenate([one[:3], two[-2:]])
    forget(updater.store("sample"), lost)
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
    from l2features.ingest.steps import prepare

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


def test_empty_nodes_are_marked_and_invalid_ones_refused(updater: Updater) -> None:
    chunk = Chunk(0, 0, 0)
    first = updater.geometry("sample").chunk_id(chunk)
    empty, bad = first + 70_000, first + 70_001

    def before(wanted: Ids) -> NodeFeatures:
        rows = np.zeros(1, FEATURES)
        rows["label"] = empty
        return NodeFeatures(chunk, rows, wanted[:0], {bad: f"node {bad}: child 5 is not a supervoxel"})

    faulty(updater, before)
    found = apply_messages(updater, [Delivery("a", edit(empty, bad), EDIT)])
    assert fates(found["a"]) == {"empty": [empty], "refused": [bad]}
    rows = updater.store("sample").read(as_ids([empty, bad]))
    assert (rows.not_computed.tolist(), rows.found.tolist()) == ([True, False], [True, False])
    settled = settle(found["a"], last=False)
    assert (settled.verdict, settled.causes[0].reason) == (Verdict.DEAD, Reason.BAD_NODE)
    assert fates(apply_messages(updater, [Delivery("a", edit(empty), EDIT)])["a"]) == {"present": [empty]}


def test_a_batch_has_a_result_for_each_message(updater: Updater, tmp_path: Path) -> None:
    """Check that rows and dead letters are written before the results are returned."""
    store, dead, progress = updater.store("sample"), tmp_path / "dead", list[int]()
    ids = rows_of(updater, Chunk(0, 0, 0)).ids
    forget(store, ids[:1])
    deliveries = [
        Delivery("done", edit(ids[0]), EDIT),
        Delivery("retry", edit(int(ids[0]) + 60_000), EDIT, last=False),
        Delivery("dead", b"no pickle.", EDIT),
    ]
    results = apply_batch(updater, deliveries, LetterFolder(dead), lambda: progress.append(1))
    assert {result.key: (result.verdict, result.counts) for result in results} == {
        "done": ("done", {"written": 1}),
        "retry": ("retry", {"unknown": 1}),
        "dead": ("dead", {}),
    }
    assert store.read(ids[:1]).found.all()
    assert [letter.reasons for _, letter in LetterFolder(dead).letters()] == [["bad_pickle"]]
    assert progress
    with pytest.raises(DeadLetterError, match="cannot write a dead letter"):
        apply_batch(updater, deliveries[2:], LetterFolder(Path("/dev/null/dead")))
