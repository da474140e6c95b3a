"""Features of given L2 nodes of a chunk, equal to the features that the batch ingest computes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..config.datasets import Dataset
from ..core.geometry import Chunk, Geometry
from ..core.ids import L2, Ids, as_ids, sorted_unique
from ..core.schema import FEATURES, SIZE
from ..kernel import group_features
from .agreement import check_geometry
from .compute import read_supervoxels, timed
from .source import open_source


@dataclass
class NodeFeatures:
    """The features of some nodes of a chunk, and the outcome for nodes without features.

    Attributes:
        features: (n,) rows, sorted by id. A node without voxels has size 0. Nodes in ``unsure`` have no row.
        unknown: ids that the graph does not have, at least not yet.
        errors: permanent errors by id.
        millis: milliseconds of the steps graph, read and compute.
        unsure: nodes without a voxel in the files that were read; their voxels may be in missing files.
        unsure_why: the reason for ``unsure``: how many files of the chunk were read.
        forbidden: number of files to which access was denied.
    """

    chunk: Chunk
    features: np.ndarray
    unknown: Ids
    errors: dict[int, str] = field(default_factory=dict)
    millis: dict[str, float] = field(default_factory=dict)
    unsure: Ids = field(default_factory=lambda: as_ids([]))
    unsure_why: str = ""
    forbidden: int = 0


class NodeSource:
    """Computes the features of given nodes of a data set; opens the segmentation and the graph once."""

    def __init__(self, dataset: Dataset, geometry: Geometry) -> None:
        self.geometry = geometry
        source = open_source(dataset)
        self.volume, self.graph = source.volume, source.graph
        check_geometry(dataset, self.volume, geometry)

    def compute(self, chunk: Chunk, ids: Ids) -> NodeFeatures:
        """Return the features of a chunk's nodes; ``ids`` may be in any order and repeated.

        Raises VolumeError if the chunk cannot be read, and GraphError or StoreError if the graph cannot. The
        errors of single nodes are in the result.
        """
        millis: dict[str, float] = {}
        ids = sorted_unique(as_ids(ids))
        errors = self._errors(chunk, ids)
        ids = ids[~np.isin(ids, as_ids(list(errors)))]
        with timed(millis, "graph"):
            children = self.graph.children(self.geometry, chunk, ids)
        known = children.supervoxels
        unknown = ids[~np.isin(ids, as_ids([*known, *children.errors]))]
        features, unsure, why, forbidden = np.zeros(0, FEATURES), as_ids([]), "", 0
        if known:
            with timed(millis, "read"):
                segmented, files = read_supervoxels(self.volume, chunk, self.geometry)
            with timed(millis, "compute"):
                features = group_features(segmented, known, self.geometry.resolution)
            if not files.complete:
                hollow = features[SIZE] == 0  # nodes without voxels
                features, unsure = features[~hollow], as_ids(features["label"][hollow])
                forbidden = files.forbidden
                why = f"no voxel found, but {files.read} of {files.expected} files of chunk {chunk} were read"
        errors |= children.errors
        return NodeFeatures(chunk, features, unknown, errors, millis, unsure, why, forbidden)

    def close(self) -> None:
        """Close connections."""
        self.graph.close()

    def _errors(self, chunk: Chunk, ids: Ids) -> dict[int, str]:
        """Return an error for each id that is not an L2 node of this chunk."""
        if not self.geometry.in_grid(chunk):
            grid = "x".join(map(str, self.geometry.grid))
            return dict.fromkeys(ids.tolist(), f"chunk {chunk} is outside the grid of {grid} chunks")
        layout, first = self.geometry.layout, self.geometry.chunk_id(chunk)
        wrong_layer = layout.layers(ids) != L2
        ours = (ids > np.uint64(first)) & (ids <= np.uint64(layout.last_id(first)))
        return {
            int(node): f"id {node} is " + ("not of layer 2" if wrong else f"no node of chunk {chunk}")
            for node, wrong in zip(ids[~ours], wrong_layer[~ours], strict=True)
        }
