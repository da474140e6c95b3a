"""Tests of the audit: graph nodes against stored rows, with the recordings."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from google.cloud import bigtable

from l2features.audit.chunk_audit import Audit, ChunkAudit, audit_chunk, prepare_audit
from l2features.audit.summary import EXAMPLES, AuditSummary, read_audit, read_run, save_audit, summary_text
from l2features.config.datasets import Dataset, load_dataset
from l2features.core.chunks import parse_box
from l2features.core.errors import ConfigError, StoreError, StoreUnavailable, TableNotFound
from l2features.core.geometry import Chunk
from l2features.core.ids import as_ids, ids_of_row_keys
from l2features.core.schema import NAMES
from l2features.ingest.steps import prepare
from l2features.store.base import Meta, Store, open_store
from l2features.testing.stores import INSTANCE, PROJECT, STORE_URL, features_of
from tests.support.graph_nodes import V2, V2_GRAPHENE, chunks_of, valid_nodes
from tests.support.jobs import Recordings
from tests.support.nodes import SOURCES, entry, open_nodes

T0 = "2026-11-21 00:27:44"


@pytest.fixture(params=[V2, V2_GRAPHENE], ids=["table", "server"])
def ingested(request: pytest.FixtureRequest, recordings: Recordings, tmp_path: Path) -> Dataset:
    return dataset_at_t0(recordings, tmp_path, request.param)


def dataset_at_t0(recordings: Recordings, folder: Path, source: tuple[str, str, str]) -> Dataset:
    dataset = entry(recordings, *source).model_copy(
        update={"store": f"sqlite://{folder}/l2.db", "l2cache_id": "l2"}
    )
    ingest = prepare(dataset, T0, create=True)
    nodes, store = open_nodes(dataset), ingest.open_store()
    v1 = source[0] == "fixture_v1"
    children = recordings.json("l2_children_v1.json" if v1 else "l2_children.json")
    valid = [int(i) for i in children["l2"]] if v1 else valid_nodes(children, children["t0_ms"])
    for chunk in chunks_of(nodes.geometry):
        first = nodes.geometry.chunk_id(chunk)
        ours = as_ids([i for i in valid if first < i <= nodes.geometry.layout.last_id(first)])
        store.write(nodes.compute(chunk, ours).features)
    store.close()
    return dataset


def audited(audit: Audit) -> tuple[AuditSummary, dict[Chunk, ChunkAudit]]:
    source, summary = audit.open_source(), AuditSummary()
    found = {}
    for shard in audit.shards():
        for chunk in audit.chunks(*shard):
            found[chunk] = audit_chunk(source, chunk)
            summary.add(AuditSummary.of(found[chunk]))
    source.close()
    return summary, found


def ids_in(found: dict[Chunk, ChunkAudit], name: str) -> list[int]:
    return sorted(i for audit in found.values() for i in getattr(audit, name).tolist())


def test_from_the_ingest_to_all_that_was_ever_made(recordings: Recordings, ingested: Dataset) -> None:
    """Check that the table is complete at T0, and later lacks only nodes made by edits; repair adds them."""
    children = recordings.json("l2_children.json")
    summary, _ = audited(prepare_audit(ingested, T0))
    assert (summary.complete, summary.expected, summary.present, summary.missing) == (True, 159, 159, 0)
    assert (summary.chunks, summary.superfluous, summary.other, summary.empty) == (12, 0, 0, 0)

    made_by_edits = sorted(int(i) for i, node in children["l2"].items() if node["from_edit"])
    summary, found = audited(prepare_audit(ingested))
    assert (summary.complete, summary.expected, summary.present, summary.missing) == (False, 196, 159, 37)
    assert ids_in(found, "missing") == made_by_edits
    assert set(map(int, summary.missing_ids)) <= set(made_by_edits)
    assert (len(summary.missing_ids), summary.left) == (EXAMPLES, 37)

    summary, found = audited(prepare_audit(ingested, repair=True))
    assert (summary.complete, summary.missing, summary.repaired, summary.problems) == (True, 37, 37, {})
    assert ids_in(found, "repaired") == made_by_edits
    nodes, store = open_nodes(ingested), open_store(ingested.store, ingested.l2cache_id)
    for chunk in chunks_of(nodes.geometry):
        first = nodes.geometry.chunk_id(chunk)
        rows = store.scan_chunk(first, nodes.geometry.layout.last_id(first))
        assert rows.features.tobytes() == nodes.compute(chunk, rows.ids).features.tobytes()

    assert audited(prepare_audit(ingested))[0].complete
    at_t1, _ = audited(prepare_audit(ingested, "2026-11-21 01:33:53"))
    assert (at_t1.complete, at_t1.expected, at_t1.superfluous, at_t1.other) == (True, 166, 0, 30)


def test_the_older_graph_is_complete(recordings: Recordings, tmp_path: Path) -> None:
    dataset = dataset_at_t0(recordings, tmp_path, SOURCES[3])
    for timestamp in (None, T0):
        summary, _ = audited(prepare_audit(dataset, timestamp))
        assert (summary.complete, summary.expected, summary.superfluous) == (True, 159, 0)


def test_a_table_of_pcgl2cache(recordings: Recordings) -> None:
    """The table is from PCGL2Cache's batch ingest at T0, without a geometry."""
    update = {"store": STORE_URL, "l2cache_id": "l2cache_fixture"}
    dataset = entry(recordings, *V2).model_copy(update=update)
    summary, found = audited(prepare_audit(dataset, T0))
    assert (summary.complete, summary.present, summary.superfluous) == (True, 159, 0)
    assert (summary.done, summary.unrecorded) == (0, 12)
    assert len(found[Chunk(2, 1, 1)].present) == 0


def open_table(dataset: Dataset) -> Store:
    return open_store(dataset.store, dataset.l2cache_id)


def test_rows_that_are_gone_invented_or_marked(recordings: Recordings, tmp_path: Path) -> None:
    dataset = dataset_at_t0(recordings, tmp_path, V2)
    store, audit = open_table(dataset), prepare_audit(dataset, T0)
    first = audit.geometry.chunk_id(Chunk(1, 0, 0))
    store.delete(first + 3, first + 4)
    mark = features_of([first + 5])
    for name in (*NAMES, "has_pca"):
        mark[name] = 0
    store.write(mark)
    invented = features_of([first, first + 60_000, audit.geometry.layout.last_id(first)])
    store.write(invented)
    summary, found = audited(audit)
    assert found[Chunk(1, 0, 0)].missing.tolist() == [first + 3, first + 4]
    assert found[Chunk(1, 0, 0)].superfluous.tolist() == invented["label"].tolist()
    assert found[Chunk(1, 0, 0)].empty.tolist() == [first + 5]
    assert (summary.expected, summary.present, summary.missing) == (159, 157, 2)
    assert (summary.superfluous, summary.empty, summary.complete) == (3, 1, False)
    text = summary_text(summary)
    assert f"missing: {first + 3} {first + 4}\n" in text
    assert f"superfluous: {first} {first + 60_000} " in text
    assert text.endswith("\nincomplete")
    repaired, _ = audited(prepare_audit(dataset, T0, repair=True))
    assert (repaired.repaired, repaired.superfluous, repaired.empty, repaired.complete) == (2, 3, 1, True)
    assert summary_text(repaired).endswith("\ncomplete")
    assert len(store.read([first + 5]).features) == 1
    assert store.read([first + 5]).not_computed.tolist() == [True]


def test_failed_repairs_are_reported(recordings: Recordings, tmp_path: Path) -> None:
    dataset = dataset_at_t0(recordings, tmp_path, V2)
    audit = prepare_audit(dataset, T0, repair=True)
    first = audit.geometry.chunk_id(Chunk(0, 0, 0))
    dump = recordings.dump("graph_v2.json.gz")
    for key, row in dump["rows"]:
        raw = base64.b64decode(key)
        if raw.isdigit() and ids_of_row_keys([raw])[0] == first + 1:
            for cell in row:
                if base64.b64decode(cell[1]) == b"children":
                    cell[2] = base64.b64encode(bytes(9)).decode()
    client = bigtable.Client(project=PROJECT, admin=True)
    recordings.loader.load(client.instance(INSTANCE), dump, "fixture_unrepairable")
    open_table(dataset).delete(first + 1, first + 2)
    graph = f"bigtable://{PROJECT}/{INSTANCE}/fixture_unrepairable"
    broken = dataset.model_copy(update={"graph": graph})
    summary, _ = audited(prepare_audit(broken, T0, repair=True))
    assert (summary.missing, summary.repaired, summary.left, summary.complete) == (2, 1, 1, False)
    assert summary.missing_ids == [str(first + 1)]
    reason = f"node {first + 1}: children have 9 bytes: expected 8 per id"
    assert summary.problems == {f"node {first + 1}": reason}


def test_a_volume_that_cannot_be_read_leaves_the_audit(
    recordings: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataset_at_t0(recordings, tmp_path, V2)
    audit = prepare_audit(dataset, T0, repair=True)
    gone = audit.geometry.chunk_id(Chunk(1, 0, 0)) + 3
    open_table(dataset).delete(gone, gone)
    reads = []

    def fail(*args: Any) -> None:
        reads.append(args)
        raise OSError("disk on fire")

    monkeypatch.setattr("l2features.volume.Volume._slab", fail)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    summary, _ = audited(audit)
    assert (summary.missing, summary.repaired, summary.unaudited, summary.complete) == (1, 0, 0, False)
    assert summary.missing_ids == [str(gone)]
    [(what, reason)] = summary.problems.items()
    assert what == "chunk 1,0,0"
    assert "disk on fire" in reason
    assert len(reads) == 3


# ------------------------------------------------------------------ no graph
def test_without_a_graph_the_segments_are_expected(undisturbed: Path, tmp_path: Path, sample: Path) -> None:
    dataset = load_dataset("sample", undisturbed)
    summary, _ = audited(prepare_audit(dataset))
    assert summary.complete
    assert (summary.chunks, summary.done, summary.unrecorded) == (12, 12, 0)
    assert summary.expected == summary.present > 50
    with pytest.raises(ConfigError, match="has no graph: expected no timestamp"):
        prepare_audit(dataset, T0)


def test_without_a_graph_nothing_is_known_of_a_chunk_before_its_ingest(
    sample: Path, tmp_path: Path, undisturbed: Path
) -> None:
    dataset = load_dataset("sample", undisturbed).model_copy(update={"store": f"sqlite://{tmp_path}/l2.db"})
    with pytest.raises(TableNotFound):
        prepare_audit(dataset)
    prepare(dataset, create=True)
    source = prepare_audit(dataset).open_source()
    with pytest.raises(StoreError, match="chunk 0,0,0: segments are not recorded"):
        audit_chunk(source, Chunk(0, 0, 0))


# ------------------------------------------------------------------ attempts, and what is kept
def test_what_may_pass_is_tried_again(
    recordings: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = entry(recordings, *V2).model_copy(update={"store": f"sqlite://{tmp_path}/l2.db"})
    prepare(dataset, T0, create=True)
    source = prepare_audit(dataset, T0).open_source()
    scan, failures = source.store.scan_chunk, [StoreUnavailable("away"), StoreUnavailable("away")]

    def flaky(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return scan(*args)

    monkeypatch.setattr(source.store, "scan_chunk", flaky)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    assert len(audit_chunk(source, Chunk(0, 0, 0)).missing) > 5
    failures += [StoreUnavailable("away")] * 3
    with pytest.raises(StoreUnavailable, match="away"):
        audit_chunk(source, Chunk(0, 0, 0))


def test_sums_and_examples() -> None:
    total = AuditSummary()
    for i in range(30):
        ids = as_ids(range(i * 10, i * 10 + 10))
        none = as_ids([])
        of_chunk = ChunkAudit(
            Chunk(i, 0, 0), "done", ids, none, ids, none, none, none, ids[:1], {i * 10 + 1: "no"}
        )
        total.add(AuditSummary.of(of_chunk))
    total.add(AuditSummary.of_unaudited(Chunk(9, 9, 9), "failed", "x" * 10_000))
    assert (total.chunks, total.done, total.unaudited, total.expected) == (31, 30, 1, 300)
    assert (total.failed, total.unrecorded) == (1, 0)
    assert (total.missing, total.repaired, total.left, total.complete) == (300, 30, 270, False)
    assert [len(total.missing_ids), len(total.problems)] == [EXAMPLES, EXAMPLES]
    assert "missing: 1 2 3 4 5 6 7 8 9 11 " in summary_text(total)
    assert "and 250 more" in summary_text(total)


def test_what_is_kept_with_the_table(store: Store) -> None:
    meta: Meta | None = store.meta()
    assert meta
    assert meta.geometry
    dataset = Dataset(name="d", cv_path=meta.cv_path, l2cache_id=store.name, graph="flat", store=store.url)
    grid = meta.geometry.grid
    whole = Audit(dataset, meta.geometry, parse_box("0:3,0:2,0:2", grid))
    part = Audit(dataset, meta.geometry, parse_box("0:3,0:2,0:1", grid))
    summary = AuditSummary(chunks=12, expected=2**40, missing_ids=["144115188075855873"])
    assert read_audit(store) is None
    save_audit(store, whole, summary, "first")
    save_audit(store, part, AuditSummary(chunks=6, unaudited=1), "second")
    kept = read_audit(store)
    assert kept
    assert (kept["box"], kept["chunks"], kept["expected"], kept["complete"]) == (
        "0:3,0:2,0:2",
        12,
        2**40,
        True,
    )
    assert read_run(store, whole, "first") == summary
    assert read_run(store, part, "second") == AuditSummary(chunks=6, unaudited=1)
    assert read_run(store, part, "first") is None
