"""One chunk from segmentation to features: read, map supervoxels to L2 ids, compute."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from ..config.datasets import Dataset
from ..core.chunks import NO_FILES, FileCounts
from ..core.errors import ConfigError
from ..core.geometry import Chunk, Geometry, layout_for_grid
from ..core.ids import L2, IdLayout, Ids
from ..graph.base import map_supervoxels
from ..kernel import SegmentedChunk, check_chunk
from ..kernel.runs import Runs
from ..volume import Volume
from .source import Source, open_source


@dataclass
class ChunkFeatures:
    """The features of a chunk's nodes, or why they could not be computed.

    Attributes:
        features: (n,) rows, sorted by id.
        segments: the segmentation's id of each node; None with a graph.
        orphans: number of supervoxels without a parent.
        errors: a message for each supervoxel with an invalid L2 id in the graph.
        millis: milliseconds of the steps read, map and compute.
        files: counts of the chunk's files.
        failure: why the chunk could not be computed, or "".
    """

    chunk: Chunk
    features: np.ndarray
    segments: Ids | None = None
    orphans: int = 0
    errors: tuple[str, ...] = ()
    millis: dict[str, float] = field(default_factory=dict)
    files: FileCounts = NO_FILES
    failure: str = ""


def read_geometry(dataset: Dataset, table: Geometry | None = None, source: Source | None = None) -> Geometry:
    """Return a data set's geometry, from its entry in the data sets file, its segmentation and its graph.

    ``table`` is the geometry of an existing table; without a graph, it determines the id layout. Pass
    ``source`` if segmentation and graph are open already.

    Raises:
        ConfigError: the chunk size is unknown or invalid, or ids have too few bits for the chunk grid.
        VolumeError: the segmentation cannot be opened.
        GraphError: the graph cannot be read.
    """
    if source is None:
        with closing(open_source(dataset)) as opened:
            return read_geometry(dataset, table, opened)
    bounds, info = source.volume.bounds, source.info
    chunk_size = info.chunk_size if info else dataset.chunk_size
    if chunk_size is None:
        raise ConfigError(
            f"data set {dataset.name!r}: key 'chunk_size' is missing, and no graph names the chunk size: "
            "expected three integers such as [256, 256, 512]"
        )
    try:
        check_chunk(chunk_size, bounds.resolution)
    except ValueError as error:
        raise ConfigError(f"data set {dataset.name!r}: {error}") from error
    geometry = Geometry(*bounds, chunk_size, info.layout if info else IdLayout())
    if not dataset.has_graph:
        layout = table.layout if table else layout_for_grid(geometry.grid, chunk_size)
        return replace(geometry, layout=layout)
    _check_grid(dataset, geometry)
    return geometry


def _check_grid(dataset: Dataset, geometry: Geometry) -> None:
    last = [n - 1 for n in geometry.grid]
    for layer in (1, L2):
        try:
            geometry.layout.chunk_id_array([last], layer)
        except ValueError as error:
            raise ConfigError(
                f"data set {dataset.name!r}: {dataset.cv_path} has {'x'.join(map(str, geometry.grid))} "
                f"chunks, but the ids of graph {dataset.graph} have no room for the last chunk: {error}"
            ) from error


class ChunkSource:
    """Computes chunks of one data set; opens the segmentation and the graph once."""

    def __init__(self, dataset: Dataset, geometry: Geometry, timestamp: datetime) -> None:
        self.dataset, self.geometry, self.time = dataset, geometry, timestamp
        source = open_source(dataset)
        self.volume, self.graph = source.volume, source.graph

    def compute(self, chunk: Chunk) -> ChunkFeatures:
        """Return the features of every L2 node of a chunk. Raises VolumeError or GraphError."""
        millis: dict[str, float] = {}
        with timed(millis, "read"):
            segmented, files = read_supervoxels(self.volume, chunk, self.geometry)
        with timed(millis, "map"):
            mapped = map_supervoxels(self.graph, self.geometry, chunk, segmented.ids, self.time)
        with timed(millis, "compute"):
            features = segmented.features(mapped.l2_ids, self.geometry.resolution)
        segments = None if self.dataset.has_graph else segmented.ids
        return ChunkFeatures(chunk, features, segments, mapped.orphans, mapped.errors, millis, files)


def read_supervoxels(volume: Volume, chunk: Chunk, geometry: Geometry) -> tuple[SegmentedChunk, FileCounts]:
    """Return a tuple: the supervoxels of a chunk; the counts of its files. Raises VolumeError."""
    files = NO_FILES

    def slabs() -> Iterator[np.ndarray | Runs]:
        nonlocal files
        for labels, counts in volume.slabs(chunk, geometry):
            files = files.plus(counts)
            yield labels

    segmented = SegmentedChunk.of_slabs(geometry.chunk_size, slabs())
    return segmented, files


@contextmanager
def timed(millis: dict[str, float], step: str) -> Iterator[None]:
    """Add the duration of the ``with`` block to ``millis[step]``."""
    start = time.perf_counter()
    yield
    millis[step] = millis.get(step, 0.0) + (time.perf_counter() - start) * 1e3
