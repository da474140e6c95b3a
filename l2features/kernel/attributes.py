"""Functions that compute the attributes of labels.

Each returns the values (n, ...) of the attributes that it is registered for, as numbers of any type. `fill`
converts them to the stored type. If an attribute saturates, values too large for this type become its largest
value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.schema import BY_NAME, FEATURES, LARGE, PCA_MAX_SAMPLES, PCA_MIN_VOLUME_NM3
from .distance import whole_distances
from .moments import Moments, centred_second, compute_moments, moved
from .runs import Runs
from .score import Placement, score
from .spans import reuse


class Frame(NamedTuple):
    """Position of runs: the order of their axes, the shape of their chunk, and their origin in the chunk.

    ``axes[i]`` is 0, 1 or 2 if axis i of the runs is x, y or z. Shape and origin are (3,) int64, in the order
    of the runs' axes.
    """

    axes: tuple[int, ...]
    shape: np.ndarray
    origin: np.ndarray

    def in_xyz(self, values: np.ndarray, dimension: int = -1) -> np.ndarray:
        """Return ``values`` with one dimension reordered from the order of the runs' axes to x, y, z."""
        return np.take(values, np.argsort(self.axes), dimension)

    def exchanged(self) -> Frame:
        """Return the frame with its second and third axis exchanged."""
        order = [0, 2, 1]
        return Frame(tuple(self.axes[i] for i in order), self.shape[order], self.origin[order])


class Measured(NamedTuple):
    """Runs and moments (sums over voxels) of a chunk's labels 1, 2, ...

    Row 0 of the moments is the background. ``nm`` is the size of a voxel along x, y and z in nm.
    """

    runs: Runs
    moments: Moments
    frame: Frame
    nm: NDArray[np.float64]

    @property
    def size(self) -> NDArray[np.int64]:
        """Number of voxels of each label (n,)."""
        return self.moments.size[1:]


Compute = Callable[[Measured], tuple[Any, ...]]
_COMPUTE: dict[tuple[str, ...], Compute] = {}


def computes(*fields: str) -> Callable[[Compute], Compute]:
    """Register a function that computes ``fields`` of `schema.FEATURES`, and returns values in this order."""

    def register(function: Compute) -> Compute:
        _COMPUTE[fields] = function
        return function

    return register


def fill(rows: np.ndarray, runs: Runs, frame: Frame, nm: NDArray[np.float64]) -> None:
    """Compute the features of the labels 1, 2, ... of the runs, and write them to ``rows``, a row per label.

    Raises RuntimeError unless each field of the schema, except ``label``, has exactly one computation.
    """
    fields = sorted(field for group in _COMPUTE for field in group)
    if fields != sorted(FEATURES.names[1:]):  # type: ignore[index]
        expected = f"expected exactly one computation of each of {FEATURES.names[1:]}"  # type: ignore[index]
        raise RuntimeError(f"computations are registered for {fields}: {expected}")
    moments = moved(compute_moments(runs, len(rows) + 1), frame.origin, np.array(runs.shape), frame.shape)
    measured = Measured(runs, moments, frame, nm)
    for group, compute in _COMPUTE.items():
        for field, values in zip(group, compute(measured), strict=True):
            saturates = field in BY_NAME and BY_NAME[field].saturates
            rows[field] = np.minimum(values, BY_NAME[field].largest) if saturates else values


@computes("size_nm3", "area_nm2", "chunk_intersect_count")
def _counts(measured: Measured) -> tuple[Any, ...]:
    """Return sizes (n,) in voxels, areas (n,) in nm², and numbers of voxels at the chunk's borders (n, 2, 3).

    An area is the sum of the areas of a label's voxel faces, computed in float64 and floored. It is exact if
    the resolution is in whole nm.
    """
    _, moments, frame, nm = measured
    face = np.array([nm[1] * nm[2], nm[0] * nm[2], nm[0] * nm[1]])
    parts = frame.in_xyz(moments.faces[1:]) * face
    area = np.floor(parts[:, 0] + parts[:, 1] + parts[:, 2])
    return measured.size, area, frame.in_xyz(moments.border[1:])


@computes("max_dt_nm", "mean_dt_nm", "rep_coord_nm")
def _distances(measured: Measured) -> tuple[Any, ...]:
    """Return largest and mean distances (n,) in nm, and indices of representative voxels (n, 3) in x, y, z.

    A distance is that of a voxel to the nearest voxel of another label. A label that fills the whole chunk
    has no boundary, so its distances are infinite; its representative voxel is the one nearest to its
    centroid.
    """
    runs, moments, frame, nm = measured
    size, shape = measured.size, tuple(frame.in_xyz(frame.shape).tolist())
    if len(size) == 1 and size[0] == math.prod(shape):
        return np.inf, np.inf, [(n - 1) // 2 for n in shape]
    order = list(frame.axes)
    weights = np.array([shape[1] * shape[2], shape[2], 1])[order]
    mean = moments.first / np.maximum(moments.size, 1)[:, None]
    placement = Placement(mean, nm[order], weights, order.index(2), frame.origin)
    distances = whole_distances(runs, nm[order], frame.axes)
    scores = score(runs, distances, placement)
    reuse(distances)
    voxels = np.stack(np.unravel_index(scores.best_index[1:], shape), axis=-1)
    return scores.largest[1:], scores.total[1:] / size, voxels


@computes("pca", "pca_val", LARGE.flag)
def _principal_axes(measured: Measured) -> tuple[Any, ...]:
    """Return principal axes (n, 3, 3), one per row, singular values (n, 3), and which labels have them (n,).

    Axes and values are sorted by value, largest first; labels below PCA_MIN_VOLUME_NM3 have zeros. The
    singular values are the square roots of the eigenvalues of the scatter matrix, which is the sum of the
    outer products of a label's centred coordinates in nm. If a label has more than PCA_MAX_SAMPLES voxels,
    its singular values are scaled down, as if it had that many voxels. The component of largest magnitude in
    each axis is positive.
    """
    _, moments, frame, nm = measured
    axes, values = np.zeros((len(measured.size), 3, 3)), np.zeros((len(measured.size), 3))
    large = measured.size * np.prod(nm) / 1e9 >= PCA_MIN_VOLUME_NM3 / 1e9
    if large.any():
        size, scatter = measured.size[large], centred_second(moments)[1:][large]
        scatter = frame.in_xyz(frame.in_xyz(scatter, 1), 2) * np.outer(nm, nm)
        eigenvalues, vectors = np.linalg.eigh(scatter)
        order = np.argsort(-eigenvalues, axis=1, kind="stable")
        scale = (np.minimum(size, PCA_MAX_SAMPLES) - 1) / np.maximum(size - 1, 1)
        values[large] = np.sqrt(np.maximum(np.take_along_axis(eigenvalues, order, 1), 0) * scale[:, None])
        vectors = np.take_along_axis(vectors.transpose(0, 2, 1), order[:, :, None], 1)
        leading = np.argmax(np.abs(vectors), axis=2)[:, :, None]
        axes[large] = vectors * np.where(np.take_along_axis(vectors, leading, 2) < 0, -1.0, 1.0)
    return axes, values, large
