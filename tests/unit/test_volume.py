"""Tests of segmentations: chunk cutouts, missing and broken files, and the geometry."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloudvolume import CloudVolume

from l2features.config.datasets import load_dataset
from l2features.core.errors import ConfigError, VolumeError
from l2features.core.geometry import Chunk, Geometry
from l2features.core.ids import IdLayout
from l2features.graph.graphene import GrapheneGraph
from l2features.ingest.compute import read_geometry
from l2features.testing.layers import read_whole
from l2features.volume import Volume
from tests.support.jobs import dataset_file

CHUNK_SIZE, OFFSET, SIZE = (32, 32, 16), (1024, 512, 20), (88, 56, 28)
GEOMETRY = Geometry((16.0, 16.0, 40.0), OFFSET, SIZE, CHUNK_SIZE, IdLayout({2: 10}))


def path_of(folder: Path) -> str:
    return f"precomputed://file://{folder}"


@pytest.fixture
def own_sample(sample: Path, tmp_path: Path) -> Path:
    """A copy of the sample that a test may damage."""
    return Path(shutil.copytree(sample, tmp_path / "copy"))


def chunk_file(folder: Path, chunk: Chunk) -> Path:
    """Return the file of a chunk of the sample, whose storage chunks are its graph chunks."""
    start = GEOMETRY.origins([chunk])[0]
    (found,) = folder.glob("16_16_40/" + "_".join(f"{a}-*" for a in start.tolist()))
    return found


@pytest.fixture(scope="module")
def whole(sample: Path) -> np.ndarray:
    return np.asarray(CloudVolume(path_of(sample), progress=False)[:])[..., 0]


@pytest.mark.parametrize("xyz", [(0, 0, 0), (1, 1, 0), (2, 0, 0), (0, 1, 1), (2, 1, 1)])
def test_a_chunk_is_its_cutout_and_zero_beyond(
    sample: Path, whole: np.ndarray, xyz: tuple[int, int, int]
) -> None:
    labels = read_whole(Volume(path_of(sample)), Chunk(*xyz), GEOMETRY).labels
    assert (labels.shape, labels.dtype, labels.flags.f_contiguous) == (CHUNK_SIZE, np.uint64, True)
    start = np.array(xyz) * CHUNK_SIZE
    part = whole[tuple(slice(a, a + n) for a, n in zip(start, CHUNK_SIZE, strict=True))]
    expected = np.zeros(CHUNK_SIZE, dtype=np.uint64)
    expected[tuple(slice(0, n) for n in part.shape)] = part
    assert part.any()
    np.testing.assert_array_equal(labels, expected)


def test_the_offset_is_part_of_the_cutout(sample: Path, whole: np.ndarray) -> None:
    cv = CloudVolume(path_of(sample), progress=False)
    direct = np.asarray(cv[1024 + 32 : 1024 + 64, 512 : 512 + 32, 20 : 20 + 16])[..., 0]
    np.testing.assert_array_equal(
        read_whole(Volume(path_of(sample)), Chunk(1, 0, 0), GEOMETRY).labels, direct
    )


def test_storage_chunks_need_not_be_graph_chunks(sample: Path, whole: np.ndarray) -> None:
    geometry = Geometry((16.0, 16.0, 40.0), OFFSET, SIZE, (40, 20, 28), IdLayout({2: 10}))
    assert geometry.grid == (3, 3, 1)
    labels = read_whole(Volume(path_of(sample)), Chunk(1, 2, 0), geometry).labels
    assert labels.shape == (40, 20, 28)
    np.testing.assert_array_equal(labels[:, :16], whole[40:80, 40:56, :])
    assert not labels[:, 16:].any()


def test_what_a_segmentation_says_of_itself(sample: Path) -> None:
    info = Volume(path_of(sample)).bounds
    assert (info.resolution, info.voxel_offset, info.voxel_size) == ((16, 16, 40), OFFSET, SIZE)


def test_a_missing_chunk_file_is_background(own_sample: Path) -> None:
    volume = Volume(path_of(own_sample))
    assert read_whole(volume, Chunk(1, 1, 1), GEOMETRY).labels.any()
    chunk_file(own_sample, Chunk(1, 1, 1)).unlink()
    assert not read_whole(volume, Chunk(1, 1, 1), GEOMETRY).labels.any()
    assert read_whole(volume, Chunk(0, 1, 1), GEOMETRY).labels.any()


@pytest.mark.parametrize("content", [b"", b"not gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\7" * 50])
def test_a_broken_chunk_file_is_an_error_that_names_the_chunk(own_sample: Path, content: bytes) -> None:
    chunk_file(own_sample, Chunk(2, 0, 1)).write_bytes(content)
    volume = Volume(path_of(own_sample))
    with pytest.raises(VolumeError, match=r"^chunk 2,0,1: cannot read precomputed://file://\S+copy: \w+"):
        read_whole(volume, Chunk(2, 0, 1), GEOMETRY)
    assert read_whole(volume, Chunk(1, 0, 1), GEOMETRY).labels.any()


def test_a_cut_off_chunk_file_is_an_error(own_sample: Path) -> None:
    path = chunk_file(own_sample, Chunk(0, 0, 0))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(VolumeError, match="chunk 0,0,0: cannot read"):
        read_whole(Volume(path_of(own_sample)), Chunk(0, 0, 0), GEOMETRY)


@pytest.mark.parametrize("missing", [1, 8, 0.5])
def test_a_cut_off_file_without_compression_is_an_error(own_sample: Path, missing: float) -> None:
    path = chunk_file(own_sample, Chunk(0, 0, 0))
    whole = gzip.decompress(path.read_bytes())
    path.unlink()
    left = len(whole) - int(missing if missing >= 1 else len(whole) * missing)
    path.with_suffix("").write_bytes(whole)
    assert read_whole(Volume(path_of(own_sample)), Chunk(0, 0, 0), GEOMETRY).labels.any()
    path.with_suffix("").write_bytes(whole[:left])
    with pytest.raises(VolumeError, match=r"chunk 0,0,0: cannot read .*compressed segmentation"):
        read_whole(Volume(path_of(own_sample)), Chunk(0, 0, 0), GEOMETRY)


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_an_empty_chunk_file_is_not_taken_for_a_missing_one(own_sample: Path, suffix: str) -> None:
    path = chunk_file(own_sample, Chunk(0, 0, 0))
    path.unlink()
    path.with_name(path.name.removesuffix(".gz") + suffix).write_bytes(gzip.compress(b"") if suffix else b"")
    with pytest.raises(VolumeError, match=r"chunk 0,0,0: cannot read .*: file \S+ is empty"):
        read_whole(Volume(path_of(own_sample)), Chunk(0, 0, 0), GEOMETRY)


@pytest.mark.parametrize("data_type", ["uint8", "uint16", "uint32", "uint64"])
def test_every_unsigned_type(tmp_path: Path, data_type: str) -> None:
    path = make_volume(tmp_path, data_type=data_type)
    CloudVolume(path, progress=False, compress=False)[:] = np.full((8, 8, 8, 1), 200, dtype=data_type)
    geometry = Geometry((4.5, 4.5, 33.3), (0, 0, 0), (8, 8, 8), (16, 16, 16), IdLayout({2: 10}))
    labels = read_whole(Volume(path), Chunk(0, 0, 0), geometry).labels
    assert (labels.dtype, np.unique(labels).tolist(), int((labels == 200).sum())) == (
        data_type,
        [0, 200],
        512,
    )
    assert Volume(path).bounds.resolution == (4.5, 4.5, 33.3)


def make_volume(folder: Path, **more: Any) -> str:
    info = CloudVolume.create_new_info(
        **{
            "num_channels": 1,
            "layer_type": "segmentation",
            "data_type": "uint64",
            "encoding": "raw",
            "resolution": (4.5, 4.5, 33.3),
            "voxel_offset": (0, 0, 0),
            "volume_size": (8, 8, 8),
            "chunk_size": (8, 8, 8),
            **more,
        }
    )
    CloudVolume(path_of(folder), info=info, progress=False).commit_info()
    return path_of(folder)


@pytest.mark.parametrize("content", [None, "", "{}", "not json"])
def test_paths_without_a_segmentation(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "none").mkdir()
        (tmp_path / "none" / "info").write_text(content)
    with pytest.raises(VolumeError, match=rf"cannot open precomputed://file://{tmp_path}/none: \w+"):
        Volume(path_of(tmp_path / "none"))


# ------------------------------------------------------------------ geometry
def test_the_geometry_of_the_sample(sample: Path, tmp_path: Path) -> None:
    dataset = load_dataset("sample", dataset_file(tmp_path, sample))
    geometry = read_geometry(dataset)
    assert geometry == GEOMETRY
    assert (geometry.grid, geometry.n_chunks) == ((3, 2, 2), 12)
    assert Geometry.from_json(geometry.to_json()) == geometry
    assert geometry.origins([(2, 1, 0)]).tolist() == [[1024 + 64, 512 + 32, 20]]
    assert geometry.in_grid([(2, 1, 1), (3, 0, 0), (0, -1, 0)]).tolist() == [True, False, False]


def test_a_segmentation_alone_does_not_say_its_chunk_size(sample: Path, tmp_path: Path) -> None:
    dataset = load_dataset("sample", dataset_file(tmp_path, sample, chunk_size=None))
    with pytest.raises(ConfigError, match="data set 'sample': key 'chunk_size' is missing"):
        read_geometry(dataset)


def test_a_graphs_server_that_is_down() -> None:
    with pytest.raises(
        VolumeError, match=r"cannot open graphene://http://127\.0\.0\.1:9/segmentation/table/x"
    ):
        GrapheneGraph("graphene://http://127.0.0.1:9/segmentation/table/x")
