"""Tests of chunks read in slabs: voxels and counts equal those of a whole read."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import numpy as np
import pytest

from l2features.core.chunks import NO_FILES
from l2features.core.geometry import Chunk, Geometry, Triple
from l2features.core.ids import IdLayout
from l2features.ingest.compute import read_supervoxels
from l2features.kernel import SegmentedChunk
from l2features.kernel.runs import Runs
from l2features.testing.layers import make_layer, read_whole
from l2features.volume import Volume, segmentation
from l2features.volume.storage import AHEAD, FileBytes, Request, Storage

SIZE, OFFSET = (50, 40, 96), (3, 5, 7)
CHUNK_SIZES = ((32, 16, 40), (64, 64, 200), (25, 40, 9))


@pytest.fixture
def labels() -> np.ndarray:
    values = np.random.default_rng(3).integers(0, 2**60, (25, 20, 24), np.uint64)
    return np.asfortranarray(values.repeat(2, 0).repeat(2, 1).repeat(4, 2))


@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation"])
@pytest.mark.parametrize(
    ("block", "sharded"),
    [
        ((16, 16, 16), False),
        ((32, 20, 1), False),
        ((25, 40, 9), False),
        ((50, 40, 70), False),
        ((16, 8, 16), True),
    ],
)
def test_slabs_are_the_chunk(
    tmp_path: Path, labels: np.ndarray, block: Triple, sharded: bool, encoding: str
) -> None:
    if sharded:
        labels = labels[:48]
    folder = make_layer(tmp_path, labels, sharded, voxel_offset=OFFSET, chunk_size=block, encoding=encoding)
    removed = 0
    if not sharded:
        for path in sorted((folder / "16_16_40").iterdir())[::5]:
            first = [int(part.split("-")[0]) for part in path.name.split("_")]
            place = tuple(slice(a - b, a - b + n) for a, b, n in zip(first, OFFSET, block, strict=True))
            labels[place] = 0
            path.unlink()
            removed += 1
    for chunk_size in CHUNK_SIZES:
        assert check_chunks(f"file://{folder}", labels, chunk_size) >= removed, chunk_size


def check_chunks(url: str, labels: np.ndarray, chunk_size: Triple) -> int:
    """Check each chunk of a layer with these labels; return the number of missing files."""
    volume, geometry = Volume(url), _geometry(labels.shape, chunk_size)
    found = 0
    for xyz in np.ndindex(*geometry.grid):
        chunk = Chunk(*xyz)
        start = np.array(xyz) * chunk_size
        part = labels[tuple(slice(a, a + n) for a, n in zip(start, chunk_size, strict=True))]
        expected = np.zeros(chunk_size, np.uint64, order="F")
        expected[tuple(slice(0, n) for n in part.shape)] = part
        voxels, counts = read_whole(volume, chunk, geometry)
        np.testing.assert_array_equal(voxels, expected)
        whole, segmented = SegmentedChunk(expected), read_supervoxels(volume, chunk, geometry)
        assert segmented[1] == counts
        assert counts.expected == counts.read + counts.missing
        found += counts.missing
        assert segmented[0].ids.tobytes() == whole.ids.tobytes()
        rows = [c.features(c.ids, geometry.resolution).tobytes() for c in (segmented[0], whole)]
        assert rows[0] == rows[1]
    return found


def _geometry(size: tuple[int, ...], chunk_size: Triple) -> Geometry:
    x, y, z = size
    return Geometry((16.0, 16.0, 40.0), OFFSET, (x, y, z), chunk_size, IdLayout({2: 10}))


def test_slabs_share_one_small_buffer(tmp_path: Path, labels: np.ndarray) -> None:
    folder = make_layer(tmp_path, labels, voxel_offset=OFFSET, chunk_size=(50, 40, 8))
    slabs = [slab for slab, _ in Volume(f"file://{folder}").slabs(Chunk(0, 0, 0), _geometry(SIZE, SIZE))]
    assert [slab.shape[2] for slab in slabs] == [segmentation.SLAB_THICKNESS, 32]
    first, second = (slab for slab in slabs if isinstance(slab, np.ndarray))
    assert np.shares_memory(first, second)


def test_compressed_slabs_share_little_memory(tmp_path: Path, labels: np.ndarray) -> None:
    """Check that a file is decoded a few planes at a time, into the same memory, and is counted only once."""
    folder = make_layer(tmp_path, labels, chunk_size=SIZE, encoding="compressed_segmentation")
    geometry = Geometry((16.0, 16.0, 40.0), (0, 0, 0), SIZE, SIZE, IdLayout({2: 10}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("l2features.kernel.block_runs.PIECE_VOXELS", 50 * 40 * 7)
        slabs = list(Volume(f"file://{folder}").slabs(Chunk(0, 0, 0), geometry))
    assert [slab.labels.shape[2] for slab in slabs] == [7] * 13 + [5]
    assert [slab.files.read for slab in slabs] == [1] + [0] * 13
    runs = [slab.labels for slab in slabs if isinstance(slab.labels, Runs)]
    assert len(runs) == len(slabs)
    assert all(np.shares_memory(runs[0].labels, other.labels) for other in runs)


@pytest.mark.parametrize("slabs", [[4], [4, 5], [8, 1]])
def test_slabs_that_are_not_the_chunk(slabs: list[int]) -> None:
    with pytest.raises(ValueError, match=r"expected whole lines of 3 voxels|expected 16"):
        SegmentedChunk.of_slabs((3, 2, 8), (np.ones((3, 2, n), np.uint64) for n in slabs))
    with pytest.raises(ValueError, match=r"a slab of shape \(3, 3, 8\)"):
        SegmentedChunk.of_slabs((3, 2, 8), [np.ones((3, 3, 8), np.uint64)])
    runs = Runs((3, 3, 8), np.arange(25, dtype=np.int32), np.zeros(24, np.uint16), np.ones(24, np.uint64))
    with pytest.raises(ValueError, match=r"a slab of shape \(3, 3, 8\)"):
        SegmentedChunk.of_slabs((3, 2, 8), [runs])


class CountingStorage(Storage):
    def __init__(self) -> None:
        super().__init__()
        self.fetched, self.counting = 0, Lock()

    def get(self, request: Request) -> FileBytes:
        with self.counting:
            self.fetched += 1
        return FileBytes(request.name.encode())


def test_few_files_are_held() -> None:
    storage = CountingStorage()
    names = [str(i) for i in range(10 * AHEAD)]
    for i, found in enumerate(storage.fetch([Request(name) for name in names])):
        assert found.content == names[i].encode()
        assert i < storage.fetched <= i + AHEAD + 1
    assert storage.fetched == len(names)


@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation"])
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("start", [17, 20, 24])
def test_a_chunk_beyond_the_end_inside_the_last_block(
    tmp_path: Path, encoding: str, axis: int, start: int
) -> None:
    ones = np.ones((17, 17, 17), np.uint64, order="F")
    folder = make_layer(tmp_path, ones, chunk_size=(27, 27, 27), encoding=encoding)
    size, chunk = [17, 17, 17], [0, 0, 0]
    size[axis], chunk[axis] = start, 1
    x, y, z = size
    geometry = Geometry((16.0, 16.0, 40.0), (0, 0, 0), (48, 48, 48), (x, y, z), IdLayout({2: 10}))
    labels, files = read_whole(Volume(f"file://{folder}"), Chunk(*chunk), geometry)
    assert labels.shape == (x, y, z)
    assert not labels.any()
    assert files == NO_FILES


@pytest.mark.parametrize("size", [128, 200])
def test_beyond_the_layer_are_zeros(tmp_path: Path, size: int) -> None:
    """The layer ends within the second slab, which reuses the first slab's buffer."""
    folder = make_layer(tmp_path, np.ones((32, 32, 100), np.uint64, order="F"), chunk_size=(32, 32, 32))
    geometry = Geometry((16.0, 16.0, 40.0), (0, 0, 0), (32, 32, size), (32, 32, 128), IdLayout({2: 10}))
    labels = read_whole(Volume(f"file://{folder}"), Chunk(0, 0, 0), geometry).labels
    assert labels[..., :100].all()
    assert not labels[..., 100:].any()
