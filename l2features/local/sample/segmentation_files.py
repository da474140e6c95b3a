"""The sample's segmentation: tubes and sheets in precomputed format on disk.

Tubes are random walks with a radius. The volume is deterministic, and may have any size: only one chunk at a
time is in memory. With a graph (`graph_table.py`), labels are supervoxels, up to eight per object and chunk.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...core.errors import ConfigError
from ...core.geometry import Chunk, Geometry, Triple
from ...core.ids import IdLayout
from ...graph.bigtable import parse_graph_url
from .folder import STORE, check_folder, checked, segmentation_path
from .graph_cells import BITS

NAME = "sample"
RESOLUTION = (16, 16, 40)
VOXEL_OFFSET = (1024, 512, 20)
SEED = 20_240_831
COARSE = (4, 4, 2)
"""Size in voxels of a block whose voxels all get the same tube label."""
STEP_NM = 160.0
RADII_NM = (90.0, 330.0)
MEAN_CROSS_SECTION_NM2 = 150_000.0
N_SHEETS = 3
_CONFIG = """\
# {title}
# {what}
{name}:
  cv_path: {cv_path}
  l2cache_id: l2cache_{name}
  graph: {graph}
  store: {store}
"""
Labels = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Sample:
    """What defines a sample: ``grid`` chunks of ``chunk_size`` voxels, its seed, and its graph.

    The last chunk along each axis is partial. ``graph`` is the URL of the graph's table
    (``bigtable://project/instance/table``), or None.
    """

    grid: Triple = (4, 3, 3)
    chunk_size: Triple = (64, 64, 32)
    seed: int = SEED
    graph: str | None = None

    def __post_init__(self) -> None:
        if self.graph is None:
            return
        parse_graph_url(self.graph)
        if max(self.grid) >= 1 << BITS:
            raise ConfigError(
                f"grid {self.grid}: expected fewer than {1 << BITS} chunks on each axis of a sample with a "
                "graph"
            )

    @property
    def title(self) -> str:
        """Title that identifies this sample."""
        size = f"{self.grid} chunks of {self.chunk_size} voxels, seed {self.seed}"
        return f"Sample data set of {size}" + (f", graph {self.graph}" if self.graph else "")

    @property
    def voxel_size(self) -> Triple:
        x, y, z = (n * step - step // 4 for n, step in zip(self.grid, self.chunk_size, strict=True))
        return x, y, z

    @property
    def geometry(self) -> Geometry:
        """Geometry of a sample with a graph."""
        layout = IdLayout({1: BITS, 2: BITS})
        x, y, z = (float(n) for n in RESOLUTION)
        return Geometry((x, y, z), VOXEL_OFFSET, self.voxel_size, self.chunk_size, layout)


class SampleChunk(NamedTuple):
    """A chunk and its labels; with a graph, labels are supervoxels, and ``objects`` maps them to objects.

    ``start`` and ``stop`` (excluded) are in voxels from the volume's first voxel.
    """

    chunk: Chunk
    start: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]
    labels: Labels
    objects: dict[int, int]


def make_sample(
    directory: Path, sample: Sample | None = None, progress: Callable[[int], object] | None = None
) -> Path:
    """Write a sample's segmentation and data sets file into ``directory``.

    Returns the path of the data sets file. ``progress`` is called with 1 after each chunk. Raises ConfigError
    if the directory cannot be used.
    """
    from cloudvolume import CloudVolume

    sample = sample or Sample()
    directory = directory.resolve()
    config = directory / "datasets.yml"
    cv_path = segmentation_path(directory)
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="segmentation",
        data_type="uint64",
        encoding="compressed_segmentation",
        resolution=RESOLUTION,
        voxel_offset=VOXEL_OFFSET,
        volume_size=sample.voxel_size,
        chunk_size=sample.chunk_size,
    )
    with checked(directory):
        check_folder(directory, sample, info)
        directory.mkdir(parents=True, exist_ok=True)
        volume = CloudVolume(cv_path, info=info, progress=False, bounded=True)
        volume.commit_info()
        for chunk in sample_chunks(sample):
            where = zip(chunk.start, chunk.stop, VOXEL_OFFSET, strict=True)
            volume[tuple(slice(int(a + o), int(b + o)) for a, b, o in where)] = chunk.labels
            if progress:
                progress(1)
        config.write_text(_config_text(sample, directory))
    return config


def _config_text(sample: Sample, directory: Path) -> str:
    if sample.graph:
        what = "Supervoxels, and a graph in which `l2features sample-edit` merges and splits objects."
        graph, store = json.dumps(sample.graph), sample.graph.rpartition("/")[0]
    else:
        what = "No graph, so each segment of a chunk is a node, and a SQLite store."
        graph, store = f"flat\n  chunk_size: {list(sample.chunk_size)}", f"sqlite://{directory}/{STORE}"
    cv_path = json.dumps(segmentation_path(directory))
    return _CONFIG.format(
        title=sample.title, what=what, name=NAME, cv_path=cv_path, graph=graph, store=json.dumps(store)
    )


def sample_chunks(sample: Sample) -> Iterator[SampleChunk]:
    """Yield a sample's chunks."""
    objects = _Objects(sample)
    for xyz in itertools.product(*(range(n) for n in sample.grid)):
        chunk = Chunk(*xyz)
        start = np.array(chunk, dtype=np.int64) * sample.chunk_size
        stop = np.minimum(start + sample.chunk_size, np.array(sample.voxel_size))
        labels, owners = objects.labels(start, stop), dict[int, int]()
        if sample.graph:
            labels, owners = _supervoxels(labels, sample, chunk)
        yield SampleChunk(chunk, start, stop, labels, owners)


def _supervoxels(labels: Labels, sample: Sample, chunk: Chunk) -> tuple[Labels, dict[int, int]]:
    """Cut objects along the three planes through a chunk's middle; return supervoxels and their objects."""
    octant = np.zeros(labels.shape, dtype=np.uint64)
    for axis, size in enumerate(sample.chunk_size):
        half = np.arange(labels.shape[axis]) >= size // 2
        octant = 2 * octant + np.expand_dims(half, [other for other in range(3) if other != axis])
    pieces, number = np.unique(np.where(labels == 0, 0, 8 * labels + octant), return_inverse=True)
    first = sample.geometry.layout.chunk_id(*chunk, layer=1)
    ids = np.uint64(first) + np.cumsum(pieces != 0).astype(np.uint64)
    ids[pieces == 0] = 0
    owners = dict(zip(ids.tolist(), (pieces // 8).tolist(), strict=True))
    owners.pop(0, None)
    return np.asfortranarray(ids[number].reshape(labels.shape)), owners


class _Objects:
    """The tubes and sheets of a sample."""

    def __init__(self, sample: Sample) -> None:
        from sklearn.neighbors import KDTree

        rng = np.random.default_rng(sample.seed)
        self.size_nm = np.array(sample.voxel_size) * RESOLUTION
        tube_volume = self.size_nm.mean() * MEAN_CROSS_SECTION_NM2
        n_tubes = max(8, int(self.size_nm.prod(dtype=float) / tube_volume))
        paths = [self._path(rng) for _ in range(n_tubes)]
        self.owner = np.repeat(np.arange(1, n_tubes + 1, dtype=np.uint64), [len(path) for path in paths])
        self.radius = np.repeat(rng.uniform(*RADII_NM, n_tubes), [len(path) for path in paths])
        self.tree = KDTree(np.concatenate(paths))
        self.sheets = [
            (
                rng.uniform(0.15, 0.85) * self.size_nm[2],
                rng.uniform(60, 240),
                rng.uniform(3e3, 9e3, 2),
                n_tubes + 1 + i,
            )
            for i in range(N_SHEETS)
        ]

    def _path(self, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Return the points (n, 3), in nm, of a smooth random walk both ways from a random point."""
        halves = []
        place, heading = rng.uniform(0, 1, 3) * self.size_nm, rng.normal(size=3)
        for sign in (1.0, -1.0):
            point, direction, points = place.copy(), sign * heading / np.linalg.norm(heading), []
            while ((point >= 0) & (point <= self.size_nm)).all():
                points.append(point.copy())
                direction += rng.normal(scale=0.15, size=3)
                direction /= np.linalg.norm(direction)
                point += direction * STEP_NM
            halves.append(np.array(points).reshape(-1, 3))
        return np.concatenate(halves)

    def labels(self, start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]) -> Labels:
        """Return the labels of voxels ``start`` to ``stop`` (excluded). The volume begins at (0, 0, 0)."""
        shape = stop - start
        blocks = [
            np.arange(-(-n // step)) * step + (step - 1) / 2 for n, step in zip(shape, COARSE, strict=True)
        ]
        centres = np.stack(np.meshgrid(*blocks, indexing="ij"), axis=-1) + start
        found = self.tree.query(centres.reshape(-1, 3) * RESOLUTION)
        distance, nearest = found[0][:, 0], found[1][:, 0]
        coarse = np.where(distance <= self.radius[nearest], self.owner[nearest], np.uint64(0))
        labels = coarse.reshape(centres.shape[:3])
        for axis, step in enumerate(COARSE):
            labels = labels.repeat(step, axis=axis)
        labels = np.asfortranarray(labels[: shape[0], : shape[1], : shape[2]])
        x, y, z = ((np.arange(a, b) + 0.5) * nm for a, b, nm in zip(start, stop, RESOLUTION, strict=True))
        for height, thickness, waves, label in self.sheets:
            surface = height + 400 * np.sin(x / waves[0])[:, None] + 400 * np.cos(y / waves[1])[None, :]
            labels[np.abs(z[None, None, :] - surface[:, :, None]) < thickness / 2] = label
        return labels
