"""Tests of static exports that cloud-volume and tensorstore read: each node once, with its root."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloudvolume import Skeleton

from l2features.config.datasets import load_dataset
from l2features.core.geometry import Geometry
from l2features.core.ids import as_ids
from l2features.pictures.node_layers import NODE_LAYERS, PROPERTIES
from l2features.pictures.static_skeletons import Skeletons
from l2features.testing.stores import open_table
from l2features.testing.version_files import visible_rows
from l2features.versions.folders import Folder
from l2features.versions.manifest import Manifest, read_manifest
from tests.support.jobs import Recordings, own_copy
from tests.support.static_export import StaticLayer, by_root, run_export, values_of
from tests.support.version_job import geometry_of, ingested, made

T0 = 1_795_220_864_000


@dataclass
class Exported:
    """An exported version, with its data set and expected contents."""

    config: Path
    output: Path
    manifest: Manifest
    geometry: Geometry
    roots: dict[int, int]
    records: Callable[[str], dict[int, bytes]]

    def layer(self, name: str) -> StaticLayer:
        return StaticLayer(self.output / name)


def exported(config: Path, folder: Path, number: int, roots: dict[int, int]) -> Exported:
    """Export a version whose nodes have the given roots."""
    with closing(open_table(config)) as store:
        geometry = geometry_of(store)
        rows = store.read(as_ids(sorted(roots)))

    def records(layer: str) -> dict[int, bytes]:
        found, ids = NODE_LAYERS[layer].records(rows, geometry)
        return {node: record.tobytes() for node, record in zip(ids.tolist(), found, strict=True)}

    output = folder / "export"
    done = run_export(config, output, number, "--shard_size", 2_000, "--cell_nodes", 10)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(Folder(str(folder / "versions")), number)
    return Exported(config, output, manifest, geometry, roots, records)


@pytest.fixture(scope="module")
def sampled(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export the sample, which has no graph."""
    folder = tmp_path_factory.mktemp("sampled")
    config = own_copy(undisturbed, folder)
    manifest = made(config, folder / "versions", T0)
    rows = visible_rows(Folder(str(folder / "versions")), manifest, "by_node")
    return exported(config, folder, 1, {row["l2_id"]: row["root_id"] for row in rows})


@pytest.fixture(scope="module")
def recorded(recordings: Recordings, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export version 2, made at a time between the recorded graph's edits. It retires roots of version 1."""
    folder = tmp_path_factory.mktemp("recorded")
    config = ingested(folder, recordings, "fixture_v2")
    recording = recordings.json("roots.json")
    made(config, folder / "versions", T0)
    made(config, folder / "versions", recording["tm_ms"], "--base", 1)
    return exported(config, folder, 2, {int(i): root for i, root in recording["l2_to_root"]["tm"].items()})


@pytest.fixture(params=["recorded", "sampled"])
def export(request: pytest.FixtureRequest) -> Exported:
    found: Exported = request.getfixturevalue(request.param)
    return found


def bytes_of(found: Any) -> dict[int, bytes]:
    """Return the record of each annotation that cloud-volume read, by id."""
    records = np.zeros(len(found.ids), NODE_LAYERS["nodes"].annotations.dtype)
    records["coordinates"] = found.geometry
    for shown in PROPERTIES:
        records[shown.name] = found.properties[shown.name]
    return {node: record.tobytes() for node, record in zip(found.ids.tolist(), records, strict=True)}


def test_cloud_volume_reads_every_node_once(export: Exported) -> None:
    source, found = export.layer("nodes").source(), list[tuple[int, bytes]]()
    levels = source.meta.info["spatial"]
    assert len(levels) > 1
    for mip in range(len(levels)):
        found += bytes_of(source.get_by_bbox(source.meta.bounds, mip=mip)).items()
    expected = export.records("nodes")
    assert len(expected) > 20
    assert sorted(found) == sorted(expected.items())


def test_cloud_volume_finds_nodes_by_their_ids_and_roots(export: Exported) -> None:
    source, expected = export.layer("nodes").source(), export.records("nodes")
    found = source.get_by_id(list(expected))
    assert set(found) == set(expected)
    for node, one in found.items():
        assert one.relationships["rel_root"].tolist() == [export.roots[node]]
    roots = by_root(export.roots, as_ids(list(expected)))
    related = source.get_by_relationship("root", list(roots))
    assert {root: nodes.ids.tolist() for root, nodes in related.items()} == roots
    for nodes in related.values():
        assert bytes_of(nodes).items() <= expected.items()


@pytest.mark.parametrize("name", NODE_LAYERS)
def test_tensorstore_reads_every_node_once(export: Exported, name: str) -> None:
    """Check the axes layer too, which cloud-volume 12.15 cannot read."""
    layer, expected = export.layer(name), export.records(name)
    drawn = {node: layer.decoder.annotation(record) for node, record in expected.items()}
    assert layer.spatial() == drawn
    by_id = layer.by_id()
    assert {node: one._replace(related={}) for node, one in by_id.items()} == drawn
    assert {node: one.related for node, one in by_id.items()} == {
        node: {"root": [export.roots[node]]} for node in drawn
    }
    related = layer.related()
    assert {root: list(nodes) for root, nodes in related.items()} == by_root(
        export.roots, as_ids(list(drawn))
    )
    assert {node: one for nodes in related.values() for node, one in nodes.items()} == drawn


def test_segments_are_those_of_the_version(export: Exported) -> None:
    info = json.loads((export.output / "segment_properties" / "info").read_text())
    rows = visible_rows(Folder(str(export.output.parent / "versions")), export.manifest, "roots")
    assert info["inline"]["ids"] == [str(row["root_id"]) for row in rows]
    columns = {column["id"]: column["values"] for column in info["inline"]["properties"]}
    assert columns["n_nodes"] == [row["n_nodes"] for row in rows]
    assert columns["volume_um3"] == [float(np.float32(row["size_nm3"] * 1e-9)) for row in rows]
    assert "cable_length_um" not in columns


def test_skeletons_are_those_of_the_graph(export: Exported, tmp_path: Path) -> None:
    flags = ("--layers", "skeletons", "--segments", 5, "--shard_size", 200)
    done = run_export(export.config, tmp_path, export.manifest.number, *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith(": 5 in skeletons")
    info = json.loads((tmp_path / "skeletons" / "info").read_text())
    assert len(list((tmp_path / "skeletons").glob("*.shard"))) > 1
    found = values_of(tmp_path / "skeletons", info["sharding"])
    rows = visible_rows(Folder(str(export.output.parent / "versions")), export.manifest, "roots")
    largest = sorted(rows, key=lambda row: (-row["size_nm3"], row["root_id"]))[:5]
    assert sorted(found) == sorted(row["root_id"] for row in largest)
    dataset = load_dataset("sample", export.config)
    with closing(Skeletons(dataset, export.geometry)) as skeletons:
        assert list(found.values()) == list(skeletons.read(as_ids(list(found))))
    for root, body in found.items():
        skeleton = Skeleton.from_precomputed(body, segid=root, vertex_attributes=info["vertex_attributes"])
        assert 0 < len(skeleton.vertices) <= sum(owner == root for owner in export.roots.values())


def test_the_manifest_and_the_pages_list_what_is_there(export: Exported) -> None:
    manifest = json.loads((export.output / "manifest.json").read_text())
    shards = {
        str(path.relative_to(export.output)): path.stat().st_size for path in export.output.rglob("*.shard")
    }
    assert manifest["shards"] == shards
    assert manifest["counts"]["nodes"] == len(export.records("nodes"))
    assert (manifest["version"], manifest["format"]) == (export.manifest.number, 1)
    for folder in (export.output, *(path for path in export.output.rglob("*") if path.is_dir())):
        names = {path.name + "/" * path.is_dir() for path in folder.iterdir()}
        names -= {"index.html", "plan.json", "manifest.json"}
        page = (folder / "index.html").read_text()
        assert {name for name in names if f'<a href="{name}">' in page} == names
