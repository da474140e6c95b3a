"""Tests of a sample's graph, as kvdbclient reads it, and of its edits."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2features.config.datasets import Dataset, load_dataset
from l2features.core.ids import as_ids
from l2features.local.sample.edit import MERGE, SPLIT, SampleEditor
from l2features.local.sample.graph_table import MADE, SampleTable
from l2features.local.sample.segmentation_files import Sample, sample_chunks
from l2features.local.sample.topics import subscription_paths, topic_path
from l2features.messages.decoding import decode
from l2features.pubsub.subscription import Subscription
from l2features.testing.emulators import Emulator, PubSubEmulator
from l2features.testing.stores import STORE_URL, make_table
from tests.support.command import run
from tests.support.jobs import dataset_file

SIZE = ("--grid", "3,2,2", "--chunk-size", "32,32,16")
PROJECT = INSTANCE = "sample-project"
counter = itertools.count()


@pytest.fixture
def url(emulator: Emulator) -> str:
    """Return the URL of a missing table."""
    return f"bigtable://{PROJECT}/{INSTANCE}/sample_{os.getpid()}_{next(counter)}"


@pytest.fixture
def config(tmp_path: Path, url: str, pubsub: PubSubEmulator) -> Path:
    """Create a sample with a graph, and return its data sets file."""
    made = run("sample", tmp_path / "s", *SIZE, "--graph", url, "--topics", PROJECT)
    assert made.exit_code == 0, made.output
    assert f"wrote the graph {url}\n" in made.output
    assert '--create --timestamp "2026-01-01 00:00:00"' in made.output
    return tmp_path / "s" / "datasets.yml"


@pytest.fixture
def editor(config: Path) -> Iterator[SampleEditor]:
    with closing(SampleEditor(load_dataset("sample", config))) as editor:
        yield editor


def pcg(dataset: Dataset) -> Any:
    from kvdbclient import BigTableClient
    from kvdbclient.bigtable import BigTableConfig

    return BigTableClient(dataset.graph_id, config=BigTableConfig(PROJECT=PROJECT, INSTANCE=INSTANCE))


def objects_of(url: str) -> dict[int, int]:
    """Return the object of each supervoxel of the sample."""
    parts = (chunk.objects for chunk in sample_chunks(Sample((3, 2, 2), (32, 32, 16), graph=url)))
    return {supervoxel: owner for part in parts for supervoxel, owner in part.items()}


# ------------------------------------------------------------------ the graph
def test_the_graph_as_kvdbclient_reads_it(config: Path, url: str) -> None:
    """Check that each object has one node per chunk, and that no root has two objects."""
    objects = objects_of(url)
    client, supervoxels = pcg(load_dataset("sample", config)), as_ids(list(objects))
    nodes = client.root_ext.get_roots(supervoxels, time_stamp=MADE, stop_layer=2)
    roots = client.root_ext.get_roots(supervoxels)
    layout = Sample((3, 2, 2), (32, 32, 16), graph=url).geometry.layout
    assert (layout.chunk_coordinates(nodes) == layout.chunk_coordinates(supervoxels)).all()
    assert {int(root) >> 56 for root in roots} == {4}
    owner_of_root = dict(zip(roots.tolist(), objects.values(), strict=True))
    assert len(owner_of_root) >= len(set(objects.values())) > 5
    assert [owner_of_root[root] for root in roots.tolist()] == list(objects.values())
    per_node = {
        (owner, c) for owner, c in zip(objects.values(), layout.chunk_ids(nodes).tolist(), strict=True)
    }
    assert len(per_node) == len(set(nodes.tolist()))
    made = int(nodes[layout.chunk_ids(nodes) == layout.chunk_ids(nodes[:1])[0]].max())
    assert client.create_node_id(layout.chunk_ids(as_ids([made]))[0]) == made + 1


def test_existing_rows_are_kept(config: Path, url: str, editor: SampleEditor) -> None:
    edit = editor.edit(MERGE)
    again = run("sample", config.parent, *SIZE, "--graph", url, "--topics", PROJECT)
    assert again.exit_code == 0, again.output
    assert f"the graph {url} exists already\n" in again.output
    assert set(editor.table.roots(as_ids(edit.new_l2_ids)).values()) == set(edit.new_root_ids)


def test_an_unfinished_graph_is_completed(tmp_path: Path, url: str) -> None:
    with closing(SampleTable(url)) as table:
        table.create()
        table.set(b"l2features_sample", b"title", Sample((3, 2, 2), (32, 32, 16), graph=url).title.encode())
    made = run("sample", tmp_path / "s", *SIZE, "--graph", url)
    assert made.exit_code == 0, made.output
    with closing(SampleEditor(load_dataset("sample", tmp_path / "s" / "datasets.yml"))) as editor:
        assert editor.edit(SPLIT).new_l2_ids


# ------------------------------------------------------------------ edits
def test_edits_as_kvdbclient_reads_them(config: Path, url: str, editor: SampleEditor) -> None:
    """Check each supervoxel's L2 node and root after every edit. Reads at an earlier time must not change."""
    supervoxels = as_ids(list(objects_of(url)))
    client = pcg(load_dataset("sample", config))
    before = client.root_ext.get_roots(supervoxels, stop_layer=2)
    made: set[int] = set()
    for kind in (MERGE, SPLIT, SPLIT, MERGE, SPLIT, MERGE):
        nodes, roots = (client.root_ext.get_roots(supervoxels, stop_layer=layer) for layer in (2, None))
        edit = editor.edit(kind)
        new_nodes, new_roots = (client.root_ext.get_roots(supervoxels, stop_layer=n) for n in (2, None))
        changed = nodes != new_nodes
        assert set(new_nodes[changed].tolist()) == set(edit.new_l2_ids)
        assert len(edit.new_l2_ids) == len(edit.new_root_ids) == (1 if kind == MERGE else 2)
        assert not made & set(edit.new_l2_ids)
        assert set(roots[roots != new_roots].tolist()) == set(edit.old_root_ids)
        assert set(new_roots[roots != new_roots].tolist()) == set(edit.new_root_ids)
        assert set(roots[changed].tolist()) <= set(edit.old_root_ids)
        assert client.root_ext.is_latest_roots(edit.new_root_ids).all()
        assert not client.root_ext.is_latest_roots(edit.old_root_ids).any()
        made |= set(edit.new_l2_ids)
    assert (client.root_ext.get_roots(supervoxels, time_stamp=MADE, stop_layer=2) == before).all()
    assert client.get_max_operation_id() == 6


@pytest.mark.parametrize("kind", ["--merge", "--split"])
def test_an_edit_is_published_as_pychunkedgraph_does(config: Path, kind: str) -> None:
    subscription = Subscription(subscription_paths(PROJECT)[0])
    while subscription.pull(100, 0.1):
        pass
    begun = datetime.now(UTC).timestamp()
    done = run("sample-edit", "sample", "--config", config, kind, "--json")
    assert done.exit_code == 0, done.output
    edit = json.loads(done.output)
    (received,) = subscription.pull(10, 10.0)
    subscription.acknowledge([received.ack_id])
    message = decode(received.data, received.attributes)
    assert message.ids.tolist() == edit["new_l2_ids"]
    assert message.operation_id == edit["operation_id"] == 1
    dataset = load_dataset("sample", config)
    assert received.attributes == {
        "table_id": dataset.graph_id,
        "user_id": "0",
        "remesh_priority": "true",
        "remesh": "true",
    }
    assert received.published >= begun - 1
    printed = run("sample-edit", "sample", "--config", config, kind).output
    said = dict(line.split(": ") for line in printed.splitlines())
    assert said.pop("operation id") == "2"
    assert said.pop(f"{kind[2:]} published to") == topic_path(PROJECT, "pychunkedgraph")
    layers = {label: {int(node) >> 56 for node in ids.split()} for label, ids in said.items()}
    assert layers == {"old root ids": {4}, "new root ids": {4}, "new L2 ids": {2}}


# ------------------------------------------------------------------ mistakes
def test_no_other_graph_is_edited(tmp_path: Path, sample: Path, url: str, config: Path) -> None:
    foreign = f"{STORE_URL}/foreign_{os.getpid()}_{next(counter)}"
    cases = {
        "flat": "graph flat: not a sample's graph",
        foreign: f"graph {foreign}: not a sample's graph",
        f"{STORE_URL}/absent": "the table does not exist",
    }
    table = make_table(foreign.rpartition("/")[2], ("0", "1"))
    for graph, expected in cases.items():
        done = run("sample-edit", "sample", "--config", dataset_file(tmp_path, sample, graph=graph))
        assert done.exit_code in {1, 2}
        assert f"error: {expected}" in done.output or f": {expected}" in done.output
    refused = run("sample", tmp_path / "other", *SIZE, "--graph", foreign)
    assert (refused.exit_code, "this table exists, but is not a sample's" in refused.output) == (2, True)
    assert not list(table.read_rows())
    other = run("sample", tmp_path / "another", "--grid", "2,1,1", "--graph", url)
    assert (
        other.exit_code,
        "this table exists, but is 'Sample data set of (3, 2, 2)" in other.output,
    ) == (
        2,
        True,
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--topic", "edits"], "topic 'edits': expected projects/PROJECT/topics/NAME"),
        (["--topic", "projects/p/topics/absent"], "topic projects/p/topics/absent: cannot publish: 404"),
    ],
)
def test_an_edit_needs_a_usable_topic(
    config: Path, editor: SampleEditor, arguments: list[str], expected: str
) -> None:
    done = run("sample-edit", "sample", "--config", config, *arguments)
    assert done.exit_code in {1, 2}
    assert f"error: {expected}" in done.output
    assert editor.edit(MERGE).operation_id == 1


@pytest.mark.parametrize(
    ("graph", "expected"),
    [("flat", "expected bigtable://project/instance/table"), ("bigtable://a/b", "expected bigtable://")],
)
def test_an_invalid_graph_url(tmp_path: Path, graph: str, expected: str) -> None:
    done = run("sample", tmp_path / "s", "--graph", graph)
    assert (done.exit_code, expected in done.output) == (2, True)
    assert not (tmp_path / "s").exists()


def test_the_pieces_of_an_object_lie_together(url: str) -> None:
    """Check that each chunk numbers its supervoxels from 1, with at most eight per object."""
    for chunk in sample_chunks(Sample((3, 2, 2), (32, 32, 16), graph=url)):
        ids = np.unique(chunk.labels)
        assert ids[ids > 0].tolist() == sorted(chunk.objects)
        numbers = [supervoxel & ((1 << 26) - 1) for supervoxel in sorted(chunk.objects)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert max(list(chunk.objects.values()).count(owner) for owner in chunk.objects.values()) <= 8
