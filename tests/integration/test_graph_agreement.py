"""Tests of errors for a graph that contradicts its segmentation, raised before any row is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from l2features.audit.chunk_audit import prepare_audit
from l2features.config.datasets import Dataset
from l2features.core.errors import ConfigError, GraphError, TableNotFound, VolumeError
from l2features.core.geometry import Chunk, Geometry
from l2features.ingest.agreement import differ
from l2features.ingest.compute import read_geometry
from l2features.ingest.node_features import NodeSource
from l2features.ingest.steps import prepare
from l2features.store.base import Meta, open_store
from l2features.testing.emulators import Emulator
from l2features.testing.graph_tables import GEOMETRY, meta_table, params_table, put_rows, write_scales
from l2features.testing.layers import open_volume, read_whole

T0 = "2026-11-21 00:27:44"


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scales") / "ws"
    write_scales(folder)
    return folder


def dataset_of(layer: Path, graph: str, **keys: Any) -> Dataset:
    entry = {
        "name": "d",
        "cv_path": f"precomputed://file://{layer}",
        "l2cache_id": "l2",
        "graph": graph,
        "store": f"sqlite://{layer.parent}/{graph.rsplit('/', 1)[-1]}.db",
        **keys,
    }
    return Dataset.model_validate(entry)


def refused(dataset: Dataset, message: str) -> None:
    """Check that ingest, node computation and audit refuse a data set, and that no table is created."""
    with pytest.raises(ConfigError, match=message) as caught:
        prepare(dataset, T0, create=True)
    assert "\n" not in str(caught.value)
    store = open_store(dataset.store, dataset.l2cache_id)
    with pytest.raises(TableNotFound):
        store.meta()
    with pytest.raises(ConfigError, match=message):
        NodeSource(dataset, GEOMETRY)
    store.create(Meta(dataset.graph_id, dataset.cv_path, T0, GEOMETRY))
    store.close()
    with pytest.raises(ConfigError, match=message):
        prepare_audit(dataset, repair=True)


# ------------------------------------------------------------------ scale
@pytest.mark.parametrize(("mip", "label", "nm"), [(0, 1, 8.0), (1, 2, 16.0)])
def test_the_scale_that_the_graph_was_made_of_is_read(
    emulator: Emulator, layer: Path, mip: int, label: int, nm: float
) -> None:
    dataset = dataset_of(layer, meta_table(mip=mip))
    volume = open_volume(dataset)
    geometry = read_geometry(dataset)
    assert (volume.mip, geometry.resolution) == (mip, (nm, nm, 40.0))
    assert geometry.voxel_size == ((64, 64, 32) if mip else (128, 128, 32))
    labels = read_whole(volume, Chunk(1, 1, 0), geometry).labels
    assert (labels == label).all()
    assert prepare(dataset, T0, create=True).geometry == geometry


def test_a_scale_that_the_segmentation_does_not_have(emulator: Emulator, layer: Path) -> None:
    dataset = dataset_of(layer, meta_table(mip=3))
    with pytest.raises(VolumeError, match=r"cannot open precomputed://\S+ws: .*mip 3"):
        prepare(dataset, T0, create=True)


@pytest.mark.parametrize("keys", [{"mip": 0}, {"scale": [8, 8, 40]}])
def test_another_scale_than_the_graphs(emulator: Emulator, layer: Path, keys: dict[str, Any]) -> None:
    message = (
        r"mip 0 of precomputed://\S+ is read, but bigtable://\S+ was made from mip 1: leave out 'mip' and"
    )
    refused(dataset_of(layer, meta_table(mip=1), **keys), message)


def test_a_table_of_another_scale_gets_no_rows(emulator: Emulator, layer: Path) -> None:
    """The graph was made from mip 1, but the feature table has the geometry of mip 0."""
    wrong = Geometry((8, 8, 40), (0, 0, 0), (128, 128, 32), (32, 32, 32), GEOMETRY.layout)
    message = (
        r"bounds: table l2 has 128x128x32 voxels of 8x8x40 nm from 0x0x0, but .* 64x64x32 voxels of 16x16"
    )
    with pytest.raises(ConfigError, match=message):
        NodeSource(dataset_of(layer, meta_table(mip=1)), wrong)


# ------------------------------------------------------------------ bounds and chunks
def layer_info(**changes: Any) -> dict[str, Any]:
    scale = {"resolution": [8, 8, 40], "voxel_offset": [0, 0, 0], "size": [128, 128, 32], **changes}
    return {"scales": [scale, {"resolution": [16, 16, 40], "voxel_offset": [0, 0, 0], "size": [64, 64, 32]}]}


@pytest.mark.parametrize("info", [None, {}, layer_info()])
def test_bounds_that_agree_or_are_unknown(
    emulator: Emulator, layer: Path, info: dict[str, Any] | None
) -> None:
    dataset = dataset_of(layer, params_table(info, layers=4))
    assert open_volume(dataset).mip == 0


def test_an_older_graph_names_its_scale(emulator: Emulator, layer: Path) -> None:
    info = {**layer_info(), "graph": {"cv_mip": 1}}
    assert open_volume(dataset_of(layer, params_table(info))).mip == 1


def test_the_entry_picks_the_scale_of_an_older_graph_that_names_none(emulator: Emulator, layer: Path) -> None:
    graph = params_table(layer_info())
    assert open_volume(dataset_of(layer, graph, mip=1)).mip == 1
    assert open_volume(dataset_of(layer, graph, scale=[16, 16, 40])).mip == 1
    other = {"scales": [layer_info()["scales"][0]] * 2}
    refused(dataset_of(layer, params_table(other), mip=1), r"bounds: .* has 64x64x32 .* has 128x128x32")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": [128, 128, 64]}, "128x128x64 voxels of 8x8x40 nm from 0x0x0"),
        ({"voxel_offset": [0, 0, 1]}, "128x128x32 voxels of 8x8x40 nm from 0x0x1"),
        ({"resolution": [8, 8, 33.3]}, r"128x128x32 voxels of 8x8x33\.3 nm from 0x0x0"),
    ],
)
def test_other_bounds(emulator: Emulator, layer: Path, changes: dict[str, Any], named: str) -> None:
    own = "128x128x32 voxels of 8x8x40 nm from 0x0x0"
    dataset = dataset_of(layer, params_table(layer_info(**changes), layers=4))
    refused(dataset, rf"bounds: precomputed://\S+ has {own}, but bigtable://\S+ has {named}")


def test_another_chunk_size(emulator: Emulator, layer: Path) -> None:
    dataset = dataset_of(layer, meta_table(), chunk_size=[32, 32, 16])
    refused(
        dataset, r"chunk_size: the data sets file has \[32, 32, 16\], but bigtable://\S+ has \[32, 32, 32\]"
    )


def test_a_grid_beyond_the_ids_of_the_graph(emulator: Emulator, layer: Path) -> None:
    """With three layers, ids of layer 2 have one bit per axis: too few for this grid of 4 x 4 x 1 chunks."""
    dataset = dataset_of(layer, params_table(layers=3))
    with pytest.raises(ConfigError, match=r"4x4x1 chunks.* does not fit into 1 bits per axis of layer 2"):
        prepare(dataset, T0, create=True)


# ------------------------------------------------------------------ OCDBT
@pytest.mark.parametrize(
    "custom",
    [
        {"ocdbt_config": {"enabled": True, "populate_base": True}},
        {"seg": {"ocdbt": True}, "mesh": {"dir": "meshes"}},
        {"ocdbt_seg": True},
    ],
)
def test_supervoxels_in_an_ocdbt_fork(emulator: Emulator, layer: Path, custom: dict[str, object]) -> None:
    dataset = dataset_of(layer, meta_table("gs://bucket/ws", custom=custom))
    refused(
        dataset, r"bigtable://\S+ keeps its supervoxels in an OCDBT fork, .* layer at gs://bucket/ws lacks"
    )


@pytest.mark.parametrize(
    "custom", [{}, {"ocdbt_config": {"enabled": False, "sv_split_threshold": 10}}, {"seg": {"ocdbt": False}}]
)
def test_graphs_without_a_fork(emulator: Emulator, layer: Path, custom: dict[str, object]) -> None:
    assert open_volume(dataset_of(layer, meta_table(custom=custom))).mip == 0


# ------------------------------------------------------------------ watershed path
@pytest.mark.parametrize(
    ("path", "other", "are_different"),
    [
        ("gs://bucket/ws", "gs://bucket/ws/", False),
        ("gs://bucket/ws", "precomputed://gs://bucket//ws", False),
        ("gs://bucket/ws", "gs://bucket/ws|neuroglancer-precomputed:", False),
        ("gs://bucket/ws", "https://storage.googleapis.com/bucket/ws", False),
        ("gs://bucket/ws", "precomputed://https://bucket.storage.googleapis.com/ws", False),
        ("s3://bucket/ws", "https://bucket.s3.us-east-1.amazonaws.com/ws/", False),
        ("s3://bucket/ws", "https://s3.amazonaws.com/bucket/ws", False),
        ("http://host/ws", "https://host/ws/", False),
        ("gs://bucket/ws", "gs://bucket/ws2", True),
        ("gs://bucket/ws", "https://storage.googleapis.com/other/ws", True),
        ("https://host/ws", "precomputed://https://host/WS", True),
        ("gs://bucket/ws", "s3://bucket/ws", False),
        ("gs://bucket/ws", "file:///bucket/ws", False),
        ("file:///no/such/folder", "file:///tmp", False),
    ],
)
def test_paths_of_layers(path: str, other: str, are_different: bool) -> None:
    assert differ(path, other) == differ(other, path) == are_different


def test_another_layer_than_the_graphs(emulator: Emulator, layer: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(layer, copy)
    (tmp_path / "link").symlink_to(layer)
    graph = meta_table(f"file://{layer}/")
    refused(
        dataset_of(copy, graph),
        rf"segmentation \S*file://{copy}, but bigtable://\S+ was made from file://{layer}/",
    )
    assert open_volume(dataset_of(copy, graph, watershed=f"file://{layer}")).mip == 0
    assert open_volume(dataset_of(tmp_path / "link", graph)).mip == 0
    assert open_volume(dataset_of(layer, graph)).mip == 0


@pytest.mark.parametrize("meta", [b"", b"N.", b"cos\nabort\n)R."])
def test_a_meta_that_is_none(emulator: Emulator, layer: Path, meta: bytes) -> None:
    with pytest.raises(GraphError, match="expected a table of PyChunkedGraph 1 or 2"):
        open_volume(dataset_of(layer, put_rows({b"meta": {b"meta": meta}})))
