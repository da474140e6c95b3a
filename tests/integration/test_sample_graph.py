"""Tests of the layers and cross-chunk edges of a sample's graph, before and after edits."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tqdm import tqdm

from l2features.config.datasets import load_dataset
from l2features.core.ids import Ids, as_ids
from l2features.graph.bigtable import BigtableGraph
from l2features.local.sample.edit import MERGE, SPLIT, SampleEditor
from l2features.local.sample.graph_table import COMPLETE, MADE, MARK, SampleTable
from l2features.local.sample.initial_graph import make_graph
from l2features.local.sample.segmentation_files import Sample, sample_chunks
from l2features.testing.emulators import Emulator
from tests.support.command import run

GRID, SIZE = (5, 2, 2), (32, 32, 16)
LAYERS = 5
PROJECT = INSTANCE = "sample-graph"
Edges = set[tuple[int, int]]
KINDS = (MERGE, SPLIT, SPLIT, MERGE, SPLIT)


@pytest.fixture(scope="module")
def sample(emulator: Emulator) -> Sample:
    return Sample(GRID, SIZE, graph=f"bigtable://{PROJECT}/{INSTANCE}/sample_{os.getpid()}")


@pytest.fixture(scope="module")
def editor(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SampleEditor]:
    """Create a sample, and open its editor. Tests of the unedited graph must run first."""
    folder = tmp_path_factory.mktemp("sample")
    size = ("--grid", "5,2,2", "--chunk-size", "32,32,16")
    made = run("sample", folder / "s", *size, "--graph", str(sample.graph))
    assert made.exit_code == 0, made.output
    with closing(SampleEditor(load_dataset("sample", folder / "s" / "datasets.yml"))) as editor:
        yield editor


@pytest.fixture(scope="module")
def touching(sample: Sample) -> Ids:
    """Return each pair of supervoxels of the same object that touch across a chunk boundary."""
    labels = np.zeros(sample.voxel_size, dtype=np.uint64)
    owners = np.zeros(sample.voxel_size, dtype=np.uint64)
    for chunk in sample_chunks(sample):
        where = tuple(slice(a, b) for a, b in zip(chunk.start.tolist(), chunk.stop.tolist(), strict=True))
        labels[where] = chunk.labels
        owners[where] = np.vectorize(lambda i, own=chunk.objects: own.get(i, 0), otypes=["u8"])(chunk.labels)
    found = set()
    for axis, step in enumerate(SIZE):
        for at in range(step, labels.shape[axis], step):
            one, other = (labels.take(i, axis).ravel().tolist() for i in (at - 1, at))
            own, others = (owners.take(i, axis).ravel().tolist() for i in (at - 1, at))
            found |= {(a, b) for a, b, p, q in zip(one, other, own, others, strict=True) if p == q != 0}
    return np.array(sorted(found), dtype=np.uint64)


def pcg(sample: Sample) -> Any:
    from kvdbclient import BigTableClient
    from kvdbclient.bigtable import BigTableConfig

    name = str(sample.graph).rpartition("/")[2]
    return BigTableClient(name, config=BigTableConfig(PROJECT=PROJECT, INSTANCE=INSTANCE))


def by_root(
    sample: Sample, touching: Ids, time: datetime
) -> dict[int, tuple[set[int], set[tuple[int, int]]]]:
    """Return each root's L2 nodes and edges at ``time``, computed from its supervoxels with kvdbclient."""
    client = pcg(sample)
    supervoxels = as_ids([i for chunk in sample_chunks(sample) for i in chunk.objects])
    nodes, roots = (
        client.root_ext.get_roots(supervoxels, time_stamp=time, stop_layer=layer).tolist()
        for layer in (2, None)
    )
    node_of = dict(zip(supervoxels.tolist(), nodes, strict=True))
    root_of = dict(zip(nodes, roots, strict=True))
    found: dict[int, tuple[set[int], set[tuple[int, int]]]] = {root: (set(), set()) for root in roots}
    for node, root in root_of.items():
        found[root][0].add(node)
    for pair in touching.tolist():
        one, other = sorted(node_of[supervoxel] for supervoxel in pair)
        assert root_of[one] == root_of[other]
        found[root_of[one]][1].add((one, other))
    return found


def check(sample: Sample, graph: BigtableGraph, touching: Ids, time: datetime) -> list[int]:
    """Check the L2 nodes and edges of all roots at ``time``, and return the roots."""
    expected = by_root(sample, touching, time)
    nodes = graph.root_nodes(sample.geometry, as_ids(expected), 1_000)
    edges = graph.root_edges(sample.geometry, nodes.l2_ids)
    assert (nodes.errors, nodes.too_large) == ({}, {})
    for root, (own, joined) in expected.items():
        assert set(nodes.l2_ids[root].tolist()) == own
        assert set(map(tuple, edges[root].tolist())) == joined
        assert is_connected(own, joined)
    return list(expected)


def is_connected(nodes: set[int], edges: Edges) -> bool:
    reached: set[int] = set()
    front = {min(nodes)}
    while front:
        reached |= front
        front = {b for edge in edges for a, b in (edge, edge[::-1]) if a in front} - reached
    return reached == nodes


# ------------------------------------------------------------------ the graph
def test_roots_are_connected_through_faces(sample: Sample, editor: SampleEditor, touching: Ids) -> None:
    with closing(BigtableGraph(str(sample.graph))) as graph:
        roots = check(sample, graph, touching, MADE)
    assert len(roots) > 10
    assert {root >> 56 for root in roots} == {LAYERS}
    tree = editor.table.tree(as_ids(roots))
    layers = {node >> 56 for node in tree}
    assert layers == {2, 3, 4, 5}
    for node, children in tree.items():
        assert max(child >> 56 for child in children.tolist()) < node >> 56
        assert len(children) > 1 or node >> 56 in {2, LAYERS} or single_is_needed(editor, node, tree)


def single_is_needed(editor: SampleEditor, node: int, tree: dict[int, Ids]) -> bool:
    """Return whether the node has cross-chunk edges at its layer. Only then may it have a single child."""
    below = [node]
    while any(i >> 56 > 2 for i in below):
        below = [j for i in below for j in (tree[i].tolist() if i >> 56 > 2 else [i])]
    return bool(editor.table.newest(as_ids(below), f"atomic_cross_edges_{node >> 56}", "3"))


def test_cells_of_edges_as_kvdbclient_reads_them(sample: Sample, editor: SampleEditor, touching: Ids) -> None:
    """Check that each edge's two L2 nodes both store it, at the last layer in which their chunks differ."""
    from kvdbclient.attributes import Connectivity

    client = pcg(sample)
    supervoxels, layout = np.unique(touching), sample.geometry.layout
    nodes = np.unique(client.root_ext.get_roots(supervoxels, time_stamp=MADE, stop_layer=2))
    columns = [Connectivity.AtomicCrossChunkEdge[layer] for layer in range(2, LAYERS)]
    rows = client.read_nodes(node_ids=nodes, properties=columns)
    found = []
    for cells in rows.values():
        for column, (cell, *_) in cells.items():
            for own, other in cell.value.tolist():
                found.append((own, other))
                one, two = layout.chunk_coordinates(as_ids([own, other]))
                apart = [k for k in range(LAYERS) if ((one >> k) != (two >> k)).any()]
                assert column.index == 2 + max(apart)
    assert len(found) == len(set(found))
    assert set(found) == {(a, b) for a, b in touching.tolist()} | {(b, a) for a, b in touching.tolist()}


def test_edits_keep_layers_edges_and_log(sample: Sample, editor: SampleEditor, touching: Ids) -> None:
    with closing(BigtableGraph(str(sample.graph))) as graph:
        for number, kind in enumerate(KINDS, 1):
            before = editor.table.tree(as_ids(check(sample, graph, touching, datetime.now(UTC))))
            edit = editor.edit(kind)
            alive = check(sample, graph, touching, datetime.now(UTC))
            assert set(edit.new_root_ids) <= set(alive)
            assert not set(edit.old_root_ids) & set(alive)
            made = {node for node in editor.table.tree(as_ids(alive)) if node not in before}
            cells = {cell.node for cell in edit.cells if cell.column == "children"}
            assert made == cells >= {*edit.new_l2_ids, *edit.new_root_ids}
            check_history(sample, graph, edit, number)
        check(sample, graph, touching, MADE)


def check_history(sample: Sample, graph: BigtableGraph, edit: Any, operation: int) -> None:
    """Check that old and new roots name each other, and that kvdbclient can read the log entry."""
    from kvdbclient.attributes import OperationLogs

    histories = graph.histories(sample.geometry, as_ids([*edit.new_root_ids, *edit.old_root_ids]))
    made = {history.created for root, history in histories.items() if root in edit.new_root_ids}
    retired = {history.retired for root, history in histories.items() if root in edit.old_root_ids}
    assert made == retired
    for root in edit.new_root_ids:
        assert set(histories[root].predecessors) == set(edit.old_root_ids)
    for root in edit.old_root_ids:
        assert set(histories[root].successors) == set(edit.new_root_ids)
    record, time = pcg(sample).read_log_entry(operation)
    assert made == {time}
    assert record[OperationLogs.Status] == OperationLogs.StatusCodes.SUCCESS.value
    assert record[OperationLogs.RootID].tolist() == list(edit.new_root_ids)
    assert record[OperationLogs.UserID] == "0"
    edges = OperationLogs.AddedEdge if len(edit.old_root_ids) > 1 else OperationLogs.RemovedEdge
    assert record[edges].shape == (1, 2)


def test_the_graph_shows_its_progress(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[tqdm[Any]] = []

    def recorded(total: int, unit: str, *_: Any, **__: Any) -> tqdm[Any]:
        bars.append(tqdm(total=total, unit=unit, file=io.StringIO()))
        return bars[-1]

    for module in ("initial_graph", "graph_table"):
        monkeypatch.setattr(f"l2features.local.sample.{module}.progress_bar", recorded)
    sample = Sample((3, 2, 1), SIZE, graph=f"bigtable://{PROJECT}/{INSTANCE}/shown_{os.getpid()}")
    assert make_graph(sample, "precomputed://file:///none")
    assert [(bar.unit, bar.n) for bar in bars] == [("chunk", 6), ("row", bars[1].total)]
    assert bars[1].n > 6


# ------------------------------------------------------------------ mistakes
def test_a_graph_of_another_format_is_refused(emulator: Emulator, tmp_path: Path) -> None:
    sample = Sample((2, 1, 1), SIZE, graph=f"bigtable://{PROJECT}/{INSTANCE}/old_{os.getpid()}")
    assert make_graph(sample, "precomputed://file:///none")
    with closing(SampleTable(str(sample.graph))) as table:
        table.set(MARK, COMPLETE, b"1")
    again = run(
        "sample", tmp_path / "s", "--grid", "2,1,1", "--chunk-size", "32,32,16", "--graph", sample.graph
    )
    assert again.exit_code == 2
    assert "a sample of format 1, expected 2: delete the table" in again.output
    edited = run("sample-edit", "sample", "--config", tmp_path / "s" / "datasets.yml")
    assert (edited.exit_code, "a sample of format 1, expected 2" in edited.output) == (2, True)
