"""Static exports that cloud-volume and tensorstore read back: every node once, with its values and root."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from cloudvolume import Skeleton

from l2features.config.datasets import load_dataset
from l2features.core.geometry import Geometry
from l2features.core.ids import as_ids
from l2features.pictures import row_files, static_export
from l2features.pictures.node_layers import NODE_LAYERS, PROPERTIES
from l2features.pictures.static_skeletons import Skeletons
from l2features.store.base import Meta
from l2features.testing.stores import features_of, open_table
from l2features.testing.version_files import NodeRows, VersionWriter, visible_rows
from l2features.versions.folders import Folder
from l2features.versions.manifest import Manifest, read_manifest
from tests.support.jobs import Recordings, dataset_file, own_copy
from tests.support.known_roots import FIRST_ROOT, GEOMETRY
from tests.support.static_export import SMALL, StaticLayer, by_root, run_export, values_of
from tests.support.version_chains import node_ids, write_chain
from tests.support.version_job import files_of, geometry_of, ingested, made

T0 = 1_795_220_864_000


@dataclass
class Exported:
    """A data set with versions, the one that was exported, and what is known of it."""

    config: Path
    output: Path
    manifest: Manifest
    geometry: Geometry
    roots: dict[int, int]
    records: Callable[[str], dict[int, bytes]]

    def layer(self, name: str) -> StaticLayer:
        return StaticLayer(self.output / name)


def exported(config: Path, folder: Path, number: int, roots: dict[int, int]) -> Exported:
    """Export a version, whose nodes have these roots."""
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
    """The sample, which has no graph."""
    folder = tmp_path_factory.mktemp("sampled")
    config = own_copy(undisturbed, folder)
    manifest = made(config, folder / "versions", T0)
    rows = visible_rows(Folder(str(folder / "versions")), manifest, "by_node")
    return exported(config, folder, 1, {row["l2_id"]: row["root_id"] for row in rows})


@pytest.fixture(scope="module")
def recorded(recordings: Recordings, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The recorded graph amid its edits: a renewed version with retired roots."""
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
    """The records of annotations that cloud-volume read, by their ids."""
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
    """The axes too, which cloud-volume 12.15 cannot read."""
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


# ------------------------------------------------------------------ resuming, options
@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data sets file of random versions, each of which retires roots of the one before."""
    folder = tmp_path_factory.mktemp("chain")
    write_chain(folder / "versions", renewals=2, nodes=2_000)
    config = dataset_file(folder, "precomputed://file:///nowhere", versions=str(folder / "versions"))
    with closing(open_table(config)) as store:
        store.create(Meta("known", "", "2026-11-21 00:27:44", GEOMETRY))
    return config


@pytest.fixture(scope="module")
def whole(chain: Path) -> Path:
    """An export of the newest of them."""
    output = chain.parent / "whole"
    done = run_export(chain, output, 3, *SMALL)
    assert (done.returncode, done.stdout.splitlines()[-1].split(" of ")[1]) == (
        0,
        done.stdout.split(" of ")[1][:-1],
    )
    return output


def test_only_visible_rows_are_exported(chain: Path, whole: Path) -> None:
    folder = Folder(str(chain.parent / "versions"))
    manifest = read_manifest(folder, 3)
    rows = [row for row in visible_rows(folder, manifest, "by_node") if row["size_nm3"] is not None]
    assert len(manifest.layers) == 3
    assert len(rows) < manifest.totals.nodes
    layer = StaticLayer(whole / "nodes")
    assert {node: one.related["root"] for node, one in layer.by_id().items()} == {
        row["l2_id"]: [row["root_id"]] for row in rows
    }
    found = layer.spatial()
    assert len(layer.info["spatial"]) > 2
    for row in rows:
        one = found[row["l2_id"]]
        assert one.points == [tuple(float(np.float32(row[f"rep_coord_nm_{axis}"])) for axis in "xyz")]
        assert one.properties["size_um3"] == float(np.float32(row["size_nm3"] * 1e-9))
        assert one.properties["max_dt_nm"] == row["max_dt_nm"]


def uneven_indexes(output: Path, wanted: int) -> tuple[list[str], int]:
    """Indexes of several files, one of which is not near the wanted size; number of all of several."""
    uneven, several = list[str](), 0
    for layer in NODE_LAYERS:
        info = StaticLayer(output / layer).info
        for index in (info["by_id"], *info["relationships"], *info["spatial"]):
            sizes = [path.stat().st_size for path in (output / layer / index["key"]).glob("*.shard")]
            if index["sharding"]["shard_bits"]:
                several += 1
                if not all(0.8 * wanted <= size <= 1.2 * wanted for size in sizes):
                    uneven.append(f"{layer}/{index['key']}: {sizes}")
    return uneven, several


def export_without_features(folder: Path, without: Any, group_rows: int, *flags: object) -> Path:
    """Export a version of 6,000 nodes; those in chunks ``without`` features, by coordinates, are missing."""
    ids = node_ids(6_000)
    features = features_of(ids)
    features["rep_coord_nm"] %= np.array(GEOMETRY.chunk_size, dtype=np.uint16)
    missing = np.flatnonzero(without(*GEOMETRY.layout.chunk_coordinates(ids).T))
    roots = np.uint64(FIRST_ROOT) + np.arange(len(ids), dtype=np.uint64) % np.uint64(200)
    versions = Folder(str(folder / "versions"))
    nodes = NodeRows.of(roots, features, missing)
    VersionWriter(versions, GEOMETRY, 1, group_rows).write(1, nodes)
    config = dataset_file(folder, "precomputed://file:///nowhere", versions=versions.url)
    with closing(open_table(config)) as store:
        store.create(Meta("known", "", "2026-11-21 00:27:44", GEOMETRY))
    done = run_export(config, folder / "export", 1, *flags)
    assert done.returncode == 0, done.stderr
    return folder / "export"


@pytest.mark.parametrize("wanted", [10_000, 14_000])
def test_files_have_the_wanted_size_where_most_nodes_are_missing(tmp_path: Path, wanted: int) -> None:
    """On one side of the volume. No list has a fifth of a file."""
    flags = ("--shard_size", wanted, "--cell_nodes", 25)
    output = export_without_features(tmp_path, lambda x, y, z: y >= 4, 500, *flags)
    uneven, several = uneven_indexes(output, wanted)
    assert (uneven, several > 5) == ([], True)


@pytest.mark.parametrize("group_rows", [20_000, 50])
def test_nodes_are_exported_whatever_a_sample_has(tmp_path: Path, group_rows: int) -> None:
    """The first 4,000 nodes of a file are missing, or all of most of its row groups."""
    output = export_without_features(tmp_path, lambda x, y, z: x < 9, group_rows, *SMALL)
    for name in NODE_LAYERS:
        layer = StaticLayer(output / name)
        found = layer.spatial()
        assert len(found) > 300
        assert found == {node: one._replace(related={}) for node, one in layer.by_id().items()}


def test_files_of_ids_have_the_wanted_size(whole: Path) -> None:
    """The lists of other indexes are large for files of 20,000 bytes."""
    assert not [index for index in uneven_indexes(whole, 20_000)[0] if "/by_id:" in index]


def test_a_beam_runner_writes_the_same_files(chain: Path, whole: Path, tmp_path: Path) -> None:
    done = run_export(chain, tmp_path, 3, *SMALL, "--runner=FnApiRunner")
    assert done.returncode == 0, done.stderr
    assert every_file(tmp_path) == every_file(whole)


def every_file(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("moment", ["scan", "shard", "damaged"])
def test_a_stopped_export_continues(
    chain: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    kind, name = (row_files.RowFiles, "put") if moment == "scan" else (static_export.PartWriter, "write")
    step = getattr(kind, name)

    def stop(self: Any, *arguments: Any) -> Any:
        result = step(self, *arguments)
        os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(kind, name, stop)
    stopped = run_export(chain, tmp_path, 3, *SMALL)
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert stopped.stderr.endswith("stopped: run the command again to continue\n")
    assert not list(tmp_path.rglob("info"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.shard")}
    assert len(before) == (moment != "scan")
    monkeypatch.undo()
    if moment == "damaged":
        (shard,) = before
        shard.write_bytes(shard.read_bytes()[:-1])
        shard.with_name(f".0.shard.{uuid4().hex}").write_bytes(b"killed while it was written")
        before = {}
    done = run_export(chain, tmp_path, 3, *SMALL)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert every_file(tmp_path) == every_file(whole)


def test_a_finished_export_is_reported_again(chain: Path, whole: Path) -> None:
    """What a job leaves that is killed after its manifest is removed."""
    before = every_file(whole)
    (whole / "work").mkdir()
    (whole / f".manifest.json.{uuid4().hex}").touch()
    again = run_export(chain, whole, 3, *SMALL)
    assert again.returncode == 0
    assert again.stdout.startswith("version 3: ")
    assert every_file(whole) == before
    assert not (whole / "work").exists()


def test_processes_write_the_same_files(chain: Path, whole: Path, tmp_path: Path) -> None:
    assert run_export(chain, tmp_path, 3, *SMALL, processes=True).returncode == 0
    assert every_file(tmp_path) == every_file(whole)


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "notes.txt").write_text("mine")
    yield tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_of_others_is_refused(chain: Path, foreign: Path) -> None:
    done = run_export(chain, foreign, 3)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (f"error: {foreign} has 'notes.txt' but no plan.json: expected an empty folder\n")


@pytest.mark.parametrize(
    ("version", "flags", "code", "message"),
    [
        (7, (), 1, "version 7 is not in "),
        (2, (), 1, " has another export: version 3 of 'sample', layers nodes,axes,segment_properties, "),
        (3, ("--layers", "nodes"), 1, ": expected version 3 of 'sample', layers nodes, 10000 segments, "),
        (3, ("--layers", "nodes,meshes"), 2, "layer 'meshes': expected one or more of nodes, axes, "),
        (3, ("--dataset", "unknown"), 2, "unknown"),
        (3, ("--output", "s3://bucket"), 2, "folder 's3://bucket': expected an "),
        (0, (), 2, "--version 0: expected 1 or more"),
        (3, ("--shard_size", 0), 2, "--shard_size 0: expected 1 or more"),
    ],
)
def test_a_users_mistake(
    chain: Path, whole: Path, version: int, flags: tuple[Any, ...], code: int, message: str
) -> None:
    before = every_file(whole)
    done = run_export(chain, whole, version, *flags)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr.splitlines()[-1]
    assert every_file(whole) == before


def test_of_two_jobs_at_once_one_wins(chain: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes((whole / "plan.json").read_bytes())
    with Folder(str(tmp_path)).locked("plan.json"):
        done = run_export(chain, tmp_path, 3, *SMALL)
    assert (done.returncode, done.stderr) == (
        1,
        f"error: the export in {tmp_path} is being made by another job: wait for it\n",
    )


def test_a_plan_of_a_newer_version_is_refused(chain: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"format": 2}')
    done = run_export(chain, tmp_path, 3)
    assert done.returncode == 1
    assert "plan.json" in done.stderr
    assert "format 2" in done.stderr
    (tmp_path / "plan.json").write_text("{}")
    assert "is not the plan of an export: choose an empty folder" in run_export(chain, tmp_path, 3).stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 2}', "manifest.json: format 2, expected 1"),
        ("{}", "is malformed: choose an empty folder"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_kept(
    chain: Path, whole: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "plan.json").write_bytes((whole / "plan.json").read_bytes())
    (tmp_path / "manifest.json").write_text(content)
    done = run_export(chain, tmp_path, 3, *SMALL)
    assert done.returncode == 1
    assert message in done.stderr
    assert (tmp_path / "manifest.json").read_text() == content


def test_only_the_largest_segments_are_listed(chain: Path, tmp_path: Path) -> None:
    done = run_export(chain, tmp_path, 3, "--layers", "segment_properties", "--segments", 3)
    assert done.returncode == 0, done.stderr
    folder = Folder(str(chain.parent / "versions"))
    rows = visible_rows(folder, read_manifest(folder, 3), "roots")
    largest = sorted(rows, key=lambda row: (-row["size_nm3"], row["root_id"]))[:3]
    info = json.loads((tmp_path / "segment_properties" / "info").read_text())
    assert info["inline"]["ids"] == [str(root) for root in sorted(row["root_id"] for row in largest)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("index.html", "manifest.json", "plan.json", "segment_properties")
    ]
    assert files_of(tmp_path)
