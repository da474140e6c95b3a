"""Features of some of a chunk's nodes. If their boxes are small, each is computed from the runs in its box.

A node's features need only its bounding box, grown by one voxel. The added layer holds other labels only.
From each voxel of the node, some voxel of the layer is nearer than any voxel outside the grown box. Distances
to other labels are therefore the same as in the whole chunk. Coordinates remain those in the chunk, so the
rows have the same bytes as if computed from the whole chunk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.ids import sorted_unique
from ..core.schema import FEATURES
from .attributes import fill
from .cut import cut_runs, find_boxes
from .labels import SegmentedChunk, checked_resolution

Places = NDArray[np.intp]


def group_features(
    chunk: SegmentedChunk, groups: Mapping[int, ArrayLike], resolution: Sequence[float]
) -> np.ndarray:
    """Return the features of groups of supervoxels. Groups may overlap: each is computed as if alone.

    Args:
        chunk: the chunk of the supervoxels.
        groups: label -> ids of its supervoxels; ids outside the chunk are ignored.
        resolution: nm per voxel along x, y and z.

    Returns:
        Rows as from :func:`l2features.compute_features`, one per group, sorted by label. If a group has no
        voxels, all fields of its row but ``label`` are 0.

    Raises:
        ValueError: the resolution is invalid, or a label is 0.

    >>> chunk = SegmentedChunk(np.array([[[3, 4, 5]]], np.uint64))
    >>> group_features(chunk, {8: [3, 4], 9: [4], 10: [6]}, (4, 4, 40))["size_nm3"].tolist()
    [2, 1, 0]
    """
    nm = checked_resolution(resolution, chunk.shape)
    rows = np.zeros(len(groups), FEATURES)
    rows["label"] = sorted(groups)
    if len(rows) and rows["label"][0] == 0:
        raise ValueError("label of a group is 0, but 0 is background: expected 1 or more")
    members = [_places(chunk, groups[label]) for label in sorted(groups)]
    boxes = _boxes(chunk, members)
    for layer in _layers(members):
        work = sum(math.prod((boxes[group][1] - boxes[group][0]).tolist()) for group in layer)
        if work > math.prod(chunk.shape):
            labels = np.zeros(len(chunk.ids), np.uint64)
            for group in layer:
                labels[members[group]] = rows["label"][group]
            rows[layer] = chunk.features(labels, resolution)
        else:
            for group in layer:
                _fill_group(chunk, rows[group : group + 1], members[group], boxes[group], nm)
    return rows


def _places(chunk: SegmentedChunk, supervoxels: ArrayLike) -> Places:
    """Return the sorted indices in ``chunk.ids`` of those supervoxels that occur in the chunk."""
    wanted = sorted_unique(np.asarray(supervoxels, np.uint64))
    places = np.searchsorted(chunk.ids, wanted)
    inside = places < len(chunk.ids)
    wanted, places = wanted[inside], places[inside]
    return places[chunk.ids[places] == wanted]


def _boxes(chunk: SegmentedChunk, members: Sequence[Places]) -> list[np.ndarray]:
    """Return the bounding box (2, 3) of each group: start and end (excluded), in the order of the runs' axes.

    A box is one voxel larger than its group on each side, except at the chunk's borders.
    """
    boxes = np.empty((len(chunk.rank), 2, 3), np.int64)
    boxes[chunk.rank] = find_boxes(chunk.runs, len(chunk.rank))
    whole, around = chunk.frame.shape, []
    for places in members:
        lower = boxes[1 + places, 0].min(axis=0, initial=whole.max())
        upper = boxes[1 + places, 1].max(axis=0, initial=0)
        around.append(np.array([np.maximum(lower - 1, 0), np.minimum(upper + 1, whole)]))
    return around


def _layers(members: Sequence[Places]) -> list[list[int]]:
    """Distribute the groups among lists in which no two groups share a supervoxel.

    A group joins the first list where it fits; groups without voxels are left out.
    """
    layers: list[tuple[list[int], NDArray[np.bool_]]] = []
    most = max((int(places[-1]) for places in members if len(places)), default=0)
    for group, places in enumerate(members):
        if len(places):
            free = (layer for layer in layers if not layer[1][places].any())
            layer = next(free, None)
            if layer is None:
                layer = [], np.zeros(most + 1, bool)
                layers.append(layer)
            layer[0].append(group)
            layer[1][places] = True
    return [groups for groups, _ in layers]


def _fill_group(
    chunk: SegmentedChunk, row: np.ndarray, places: Places, box: np.ndarray, nm: NDArray[np.float64]
) -> None:
    """Compute the row (1,) of a group; only the runs in its box are read."""
    table = np.zeros(len(chunk.rank), np.uint32)
    table[1 + places] = 1
    runs = cut_runs(chunk.runs, table[chunk.rank], box)
    fill(row, runs, chunk.frame._replace(origin=box[0]), nm)
