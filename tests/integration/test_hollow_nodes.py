"""Tests of L2 nodes without voxels: marked as empty only if every file of their chunk was read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from l2features.audit.chunk_audit import audit_chunk, prepare_audit
from l2features.config.datasets import Dataset
from l2features.core.chunks import FileCounts
from l2features.core.geometry import Chunk
from l2features.core.ids import as_ids
from l2features.ingest.compute import read_geometry
from l2features.ingest.node_features import NodeSource
from l2features.ingest.steps import prepare
from l2features.messages.outcomes import Fate, Verdict, settle
from l2features.messages.parts import Delivery
from l2features.store.base import open_store
from l2features.updates.apply import apply_messages
from l2features.updates.updater import Update
from tests.support.jobs import Recordings
from tests.support.nodes import entry, packed, strange_table

T0 = "2026-11-21 00:27:44"
CHUNK = Chunk(0, 0, 0)
GONE = "1024-1088_512-576_36-52"
"""The upper file of the chunk's two."""


@pytest.fixture
def dataset(recordings: Recordings, tmp_path: Path) -> Dataset:
    """Return a data set of the recorded graph, changed so that node 1 of chunk 0,0,0 has no voxel."""
    shutil.copytree(recordings.layers / "fixture_v2" / "ws", tmp_path / "ws")
    name = f"hollow_{tmp_path.name}"
    graph = strange_table(recordings, name, {first_node() + 1: packed((1 << 56) + 60_000)})
    update = {
        "cv_path": f"precomputed://file://{tmp_path}/ws",
        "store": f"sqlite://{tmp_path}/l2.db",
        "l2cache_id": "l2",
    }
    dataset = entry(recordings, "fixture_v2", graph).model_copy(update=update)
    prepare(dataset, T0, create=True)
    return dataset


def first_node() -> int:
    return 2 << 56


def layer_file(dataset: Dataset) -> Path:
    [found] = Path(dataset.cv_path.removeprefix("precomputed://file://")).glob(f"*/{GONE}*")
    return found


def message(*ids: int) -> Delivery:
    raw = as_ids(ids).astype("<u8").tobytes()
    return Delivery("m", raw, {"table_id": "recorded", "l2_cache_id": "l2"})


WHY = "no voxel found, but 1 of 2 files of chunk 0,0,0 were read"


@pytest.mark.parametrize(
    ("files", "complete"),
    [
        (FileCounts(2, 2), True),
        (FileCounts(2, 1, missing=1), False),
        (FileCounts(2, 1, missing=1, forbidden=1), False),
        (FileCounts(2, 1, empty=1), False),
        (FileCounts(), False),
    ],
)
def test_when_a_chunk_is_complete(files: FileCounts, complete: bool) -> None:
    assert files.complete == complete


def test_a_node_is_marked_only_where_its_chunk_is_complete(dataset: Dataset) -> None:
    nodes = NodeSource(dataset, read_geometry(dataset))
    first = first_node()
    whole = nodes.compute(CHUNK, as_ids([first + 1, first + 2]))
    assert (whole.features["size_nm3"] == 0).tolist() == [True, False]
    assert (len(whole.unsure), whole.unsure_why) == (0, "")
    layer_file(dataset).unlink()
    partial = nodes.compute(CHUNK, as_ids([first + 1, first + 2]))
    assert partial.features["label"].tolist() == [first + 2]
    assert (partial.unsure.tolist(), partial.unsure_why) == ([first + 1], WHY)
    assert (len(partial.unknown), partial.errors) == (0, {})
    nodes.close()


def test_a_message_of_such_a_node_is_retried_and_then_a_dead_letter(dataset: Dataset) -> None:
    path, first = layer_file(dataset), first_node()
    content = path.read_bytes()
    path.unlink()
    updater = Update((dataset,), attempts=1).open()
    outcomes = apply_messages(updater, [message(first + 1, first + 2)])["m"]
    counts = {outcome.fate: outcome.ids.tolist() for outcome in outcomes if len(outcome.ids)}
    assert counts == {Fate.WRITTEN: [first + 2], Fate.FAILED: [first + 1]}
    assert settle(outcomes, last=True).verdict is Verdict.RETRY
    dead = settle(outcomes, last=True, overdue=True)
    assert (dead.verdict, dead.why) == (
        Verdict.DEAD,
        f"data set recorded: 1 ids, the first {first + 1}: {WHY}",
    )
    path.write_bytes(content)
    again = apply_messages(updater, [message(first + 1, first + 2)])["m"]
    assert {o.fate: o.ids.tolist() for o in again if len(o.ids)} == {
        Fate.PRESENT: [first + 2],
        Fate.EMPTY: [first + 1],
    }
    updater.close()


def test_an_audit_says_why_it_did_not_repair_such_a_node(dataset: Dataset) -> None:
    layer_file(dataset).unlink()
    source, first = prepare_audit(dataset, repair=True).open_source(), first_node()
    found = audit_chunk(source, CHUNK)
    source.close()
    assert found.failed[first + 1] == WHY
    assert first + 1 not in found.repaired.tolist()
    assert first + 2 in found.repaired.tolist()
    store = open_store(dataset.store, dataset.l2cache_id)
    assert store.read(as_ids([first + 1, first + 2])).found.tolist() == [False, True]
    store.close()
