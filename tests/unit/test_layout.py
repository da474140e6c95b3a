"""Tests of id layouts without a graph: bits per axis, and tables that keep their layout."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cloudvolume import CloudVolume
from hypothesis import given
from hypothesis import strategies as st

from l2features.config.datasets import Dataset, load_dataset
from l2features.core.errors import ConfigError
from l2features.core.geometry import Bounds, Chunk, Geometry, Triple, layout_for_grid
from l2features.core.ids import IdLayout
from l2features.graph.base import GraphInfo
from l2features.ingest.compute import read_geometry
from l2features.ingest.source import Source
from l2features.ingest.steps import compute_chunk, prepare, save_chunk
from l2features.store.base import Meta, open_store
from tests.support.jobs import dataset_file

CHUNK = (64, 64, 64)
LONG = (6_400_000, 8, 8)
BITS = st.tuples(*[st.integers(0, 18)] * 3)


@pytest.mark.parametrize(
    ("grid", "bits", "left"),
    [
        ((1, 1, 1), (10, 10, 10), 26),
        ((1024, 1024, 1024), (10, 10, 10), 26),
        ((1025, 1, 1), (11, 0, 0), 45),
        ((100_000, 1, 1), (17, 0, 0), 39),
        ((1, 2_000, 3), (0, 11, 2), 43),
        ((1 << 20, 1 << 10, 1 << 10), (20, 10, 10), 16),
    ],
)
def test_a_grid_takes_the_bits_that_its_axes_need(grid: Triple, bits: Triple, left: int) -> None:
    layout = layout_for_grid(grid, CHUNK)
    assert (layout.axis_bits(2), layout.segment_bits(2)) == (bits, left)
    last = tuple(n - 1 for n in grid)
    assert layout.chunk_coordinates(layout.chunk_id_array([last])).tolist() == [list(last)]


@pytest.mark.parametrize("grid", [(1 << 20, 1 << 10, (1 << 10) + 1), (1 << 30, 1 << 30, 1 << 30)])
def test_a_grid_that_leaves_no_room_for_segments(grid: Triple) -> None:
    with pytest.raises(
        ConfigError, match=r"take \d+ \+ \d+ \+ \d+ of the 56 bits after an id's layer: expected 16 bits"
    ):
        layout_for_grid(grid, CHUNK)


def test_small_chunks_need_less_room() -> None:
    assert layout_for_grid((1 << 20, 1 << 20, 1 << 10), (4, 4, 3)).segment_bits(2) == 6
    with pytest.raises(ConfigError, match="expected 7 bits or more"):
        layout_for_grid((1 << 20, 1 << 20, 1 << 10), (4, 4, 4))


def geometry_of(layout: IdLayout) -> Geometry:
    return Geometry((8.0, 8.0, 40.0), (0, 0, 0), (64, 64, 64), CHUNK, layout)


@given(BITS, st.integers(0, 18))
def test_geometries_come_back_from_json(bits: Triple, layer_1: int) -> None:
    geometry = geometry_of(IdLayout({1: layer_1, 2: bits}))
    assert Geometry.from_json(geometry.to_json()) == geometry


def test_axes_with_the_same_bits_are_kept_as_one_number() -> None:
    even, uneven = (geometry_of(IdLayout({2: bits})).to_json() for bits in ((9, 9, 9), (17, 0, 0)))
    assert even == geometry_of(IdLayout({2: 9})).to_json()
    assert json.loads(even)["spatial_bits"] == {"2": 9}
    assert json.loads(uneven)["spatial_bits"] == {"2": [17, 0, 0]}
    for wrong in ("[17,0]", '"x"', "[1,2,3,4]", "[-1,0,0]", "[60,0,0]"):
        with pytest.raises(ValueError, match=r"."):
            Geometry.from_json(uneven.replace("[17,0,0]", wrong))


# ------------------------------------------------------------------ a long volume
@pytest.fixture
def long_volume(tmp_path: Path) -> Dataset:
    """A segmentation of 100,000 x 1 x 1 chunks, of which the first and the last are written."""
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="segmentation",
        data_type="uint64",
        encoding="raw",
        resolution=(16, 16, 40),
        voxel_offset=(0, 0, 0),
        volume_size=LONG,
        chunk_size=(64, 8, 8),
    )
    volume = CloudVolume(f"precomputed://file://{tmp_path}/long", info=info, progress=False)
    volume.commit_info()
    labels = (np.arange(64 * 8 * 8, dtype=np.uint64).reshape(64, 8, 8) % 40 + 1)[..., None]
    volume[:64] = labels
    volume[LONG[0] - 64 :] = labels
    return load_dataset("sample", dataset_file(tmp_path, tmp_path / "long", chunk_size=[64, 8, 8]))


def segments_after_ingest(dataset: Dataset, chunk: Chunk) -> tuple[Geometry, list[int]]:
    """Ingest one chunk, and return the geometry and the chunk's ids in the table."""
    ingest = prepare(dataset, create=True)
    store, geometry = ingest.open_store(), ingest.geometry
    save_chunk(store, geometry, compute_chunk(ingest.open_source(), chunk))
    first = geometry.chunk_id(chunk)
    ids = store.scan_chunk(first, geometry.layout.last_id(first)).ids.tolist()
    store.close()
    return geometry, ids


def test_a_long_volume_has_room_for_its_segments(long_volume: Dataset) -> None:
    last = Chunk(99_999, 0, 0)
    geometry, ids = segments_after_ingest(long_volume, last)
    assert geometry.layout == IdLayout({2: (17, 0, 0)})
    assert ids == [(2 << 56 | 99_999 << 39) + i for i in range(1, 41)]
    assert prepare(long_volume).geometry == geometry


def test_a_table_that_exists_keeps_its_layout(long_volume: Dataset) -> None:
    """Older code gave each axis of this table 17 bits."""
    old = IdLayout({2: 17})
    geometry = Geometry((16.0, 16.0, 40.0), (0, 0, 0), LONG, (64, 8, 8), old)
    store = open_store(long_volume.store, long_volume.l2cache_id)
    meta = Meta("flat", long_volume.cv_path, "2026-11-21 00:27:44", geometry)
    store.create(meta)
    assert (prepare(long_volume).geometry, store.meta()) == (geometry, meta)
    assert prepare(long_volume, create=True).geometry == geometry
    store.close()


def test_chunks_that_no_feature_can_be_computed_of_are_refused_when_opened(tmp_path: Path) -> None:
    """Check a segmentation with voxels of 1 m, and a graph whose chunks are too large."""
    dataset = Dataset(
        name="d",
        cv_path=f"file://{tmp_path}",
        l2cache_id="l2",
        graph="flat",
        store=f"sqlite://{tmp_path}/d.db",
        chunk_size=(64, 64, 64),
    )
    size = (64, 64, 64)
    for chunk_size, nm, said in (
        (
            size,
            1e9,
            r"'d': a volume of shape \(64, 64, 64\) at a .*: expected a diagonal of at most \d+ nm",
        ),
        (
            (2048, 2048, 1024),
            16.0,
            r"'d': a chunk of shape \(2048, 2048, 1024\): expected at most 65535 voxels along an axis",
        ),
    ):
        volume: Any = SimpleNamespace(bounds=Bounds((nm, nm, nm), (0, 0, 0), size))
        graph: Any = None
        source = Source(volume, graph, GraphInfo(chunk_size, IdLayout({1: 10, 2: 10})))
        with pytest.raises(ConfigError, match=said):
            read_geometry(dataset.model_copy(update={"chunk_size": chunk_size}), source=source)
