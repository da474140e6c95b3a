"""Features of every label of a chunk: size, surface, thickness, representative voxel, principal axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.schema import FEATURES, PCA_MAX_SAMPLES, PCA_MIN_VOLUME_NM3
from .distance import whole_distances
from .moments import Moments, centred_second, compute_moments, moved
from .runs import MAX_EXTENT, MAX_VOXELS, Runs, find_runs, relabel
from .score import Placement, score

_MAX_NM = 2**30
_MAX_HALF = float(np.finfo(np.float16).max)


def compute_features(labels: np.ndarray, resolution: Sequence[float]) -> np.ndarray:
    """Return the features of each label of a volume.

    Args:
        labels: (x, y, z) labels of any unsigned dtype, in any memory order; 0 is background.
        resolution: nm per voxel along x, y and z.

    Returns:
        Structured array of dtype :data:`l2features.core.schema.FEATURES`, one row per label other than 0,
        sorted by label. Equal volumes give equal bytes. Values are as tables store them: ``size_nm3`` and
        ``chunk_intersect_count`` are numbers of voxels, ``rep_coord_nm`` is the index of a voxel of the
        volume; ``area_nm2`` is in nm²; distances and ``pca_val`` are in nm.

    Raises:
        TypeError: the labels are not unsigned integers.
        ValueError: the volume or the resolution has an invalid shape or value.

    >>> volume = np.zeros((8, 8, 4), np.uint64)
    >>> volume[2:5, 2:5, :] = 7
    >>> rows = compute_features(volume, (16, 16, 40))
    >>> rows["label"].tolist(), rows["size_nm3"].tolist(), rows["max_dt_nm"].tolist()
    ([7], [36], [32])
    """
    chunk = SegmentedChunk(labels)
    return chunk.features(chunk.ids, resolution)


class Frame(NamedTuple):
    """Position of runs: the order of their axes, the shape of their chunk, and their origin in it.

    ``axes`` says which of x, y and z the axes of the runs are; the others are (3,) int64, in that order.
    """

    axes: tuple[int, ...]
    shape: np.ndarray
    origin: np.ndarray

    @property
    def in_xyz(self) -> tuple[int, int, int]:
        """The shape of the chunk."""
        x, y, z = _in_xyz(self.shape, self.axes).tolist()
        return x, y, z


class SegmentedChunk:
    """A chunk of supervoxels: returns the features of the labels that supervoxels are mapped to.

    It keeps the chunk's runs, not its voxels, so that a mapping costs next to nothing.

    >>> chunk = SegmentedChunk(np.array([[[3, 4, 0]]], np.uint64))
    >>> chunk.ids
    array([3, 4], dtype=uint64)
    >>> rows = chunk.features([72057594037927937] * 2, (4, 4, 40))
    >>> rows["label"].tolist(), rows["size_nm3"].tolist()
    ([72057594037927937], [2])
    """

    def __init__(self, volume: np.ndarray) -> None:
        volume = _checked_volume(volume)
        self.shape: tuple[int, int, int] = (volume.shape[0], volume.shape[1], volume.shape[2])
        flat, axes = _flatten(volume)
        n0, n1, n2 = (self.shape[axis] for axis in axes)
        self.frame = Frame(axes, np.array([n0, n1, n2]), np.zeros(3, np.int64))
        self.runs, met = find_runs(flat, (n0, n1, n2))
        """Runs of the supervoxels, in the order in which they are met."""
        order = np.argsort(met)
        self.rank = np.empty(len(met), np.uint32)
        self.rank[order] = np.arange(len(met), dtype=np.uint32)
        """Of each label of the runs, its place in ``ids`` plus 1; 0 for background."""
        self.ids: NDArray[np.uint64] = met[order][1:]
        """Sorted ids of the supervoxels, without 0."""

    def features(self, labels: ArrayLike, resolution: Sequence[float]) -> np.ndarray:
        """Return the features of the volume in which each supervoxel is replaced by its label.

        Args:
            labels: one label per supervoxel of ``ids``, in their order; 0 makes it background.
            resolution: nm per voxel along x, y and z.

        Returns, raises: see :func:`compute_features`; also ValueError where there is not one label per id.
        """
        nm = checked_resolution(resolution, self.shape)
        distinct, table = _number_labels(labels, len(self.ids))
        rows = np.zeros(len(distinct), FEATURES)
        rows["label"] = distinct
        if len(rows):
            fill(rows, relabel(self.runs, table[self.rank]), self.frame, nm)
        return rows


def check_chunk(shape: tuple[int, int, int], resolution: Sequence[float]) -> None:
    """Check that features of chunks of this shape and resolution can be computed. Raises ValueError."""
    _check_shape(shape)
    checked_resolution(resolution, shape)


def _checked_volume(volume: np.ndarray) -> np.ndarray:
    volume = np.asarray(volume)
    if volume.dtype.kind != "u":
        raise TypeError(f"labels must be unsigned integers, not {volume.dtype}")
    if volume.ndim != 3 or volume.size == 0:
        raise ValueError(f"labels must be a non-empty x, y, z volume, not of shape {volume.shape}")
    _check_shape(volume.shape)
    return volume.astype(volume.dtype.newbyteorder("="), copy=False)


def _check_shape(shape: tuple[int, ...]) -> None:
    if max(shape) > MAX_EXTENT or math.prod(shape) > MAX_VOXELS:
        raise ValueError(
            f"a chunk has at most {MAX_EXTENT} voxels along an axis and {MAX_VOXELS} in all, "
            f"not the shape {shape}"
        )


def checked_resolution(resolution: Sequence[float], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    nm = np.asarray(resolution, np.float64)
    if nm.shape != (3,) or not np.all(np.isfinite(nm)) or not np.all(nm > 0):
        raise ValueError(f"resolution must be three positive numbers in nm, not {resolution!r}")
    if math.hypot(*(nm * shape)) > _MAX_NM:
        raise ValueError(f"a volume of shape {shape} at a resolution of {resolution!r} is a metre across")
    return nm


def _flatten(volume: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """The voxels in memory order (a copy where they have gaps), and the axes, fastest first."""
    steps = [(extent == 1, abs(step)) for extent, step in zip(volume.shape, volume.strides, strict=True)]
    axes = tuple(sorted(range(3), key=steps.__getitem__))
    return np.ascontiguousarray(volume.transpose(axes[::-1])).reshape(-1), axes


def _number_labels(labels: ArrayLike, n_ids: int) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Sorted labels other than 0, and the number of each id's label: 0 for background, then from 1 on."""
    given = np.asarray(labels)
    if given.shape != (n_ids,):
        raise ValueError(f"{n_ids} supervoxels need as many labels, not an array of shape {given.shape}")
    if n_ids and given.dtype.kind not in "ui":
        raise TypeError(f"labels must be unsigned integers, not {given.dtype}")
    if n_ids and given.dtype.kind == "i" and given.min() < 0:
        raise ValueError("labels must not be negative")
    distinct, inverse = np.unique(given.astype(np.uint64), return_inverse=True)
    background = int(len(distinct) > 0 and distinct[0] == 0)
    table = np.zeros(n_ids + 1, np.uint32)
    table[1:] = inverse + (1 - background)
    return distinct[background:], table


def fill(rows: np.ndarray, runs: Runs, frame: Frame, nm: NDArray[np.float64]) -> None:
    """Compute the rows of the labels 1, 2, ... of the runs."""
    axes, shape = frame.axes, np.array(runs.shape)
    moments = moved(compute_moments(runs, len(rows) + 1), frame.origin, shape, frame.shape)
    _fill_counts(rows, moments, axes, nm)
    _fill_distances(rows, runs, moments, frame, nm)
    volume = moments.size[1:] * np.prod(nm)
    present = np.flatnonzero(volume / 1e9 >= PCA_MIN_VOLUME_NM3 / 1e9)
    if len(present):
        scatter = _in_xyz(_in_xyz(centred_second(moments)[1 + present], axes, 1), axes, 2)
        rows["pca"][present], rows["pca_val"][present] = _principal_axes(
            scatter * np.outer(nm, nm), moments.size[1 + present]
        )
        rows["has_pca"][present] = True


def _in_xyz(values: np.ndarray, axes: tuple[int, ...], dimension: int = -1) -> np.ndarray:
    """Reorder a dimension that goes by the axes of the runs."""
    return np.take(values, np.argsort(axes), dimension)


def _fill_counts(rows: np.ndarray, moments: Moments, axes: tuple[int, ...], nm: NDArray[np.float64]) -> None:
    """Sizes and areas. An area is the float64 sum over x, y and z, floored: exact for whole resolutions."""
    rows["size_nm3"] = _saturated(moments.size[1:], np.uint32)
    face = np.array([nm[1] * nm[2], nm[0] * nm[2], nm[0] * nm[1]])
    parts = _in_xyz(moments.faces[1:], axes) * face
    rows["area_nm2"] = _saturated(np.floor(parts[:, 0] + parts[:, 1] + parts[:, 2]), np.uint32)
    rows["chunk_intersect_count"] = _saturated(_in_xyz(moments.border[1:], axes), np.uint16)


def _saturated(values: np.ndarray, dtype: type) -> np.ndarray:
    return np.minimum(values, np.iinfo(dtype).max).astype(dtype)


def _fill_distances(
    rows: np.ndarray, runs: Runs, moments: Moments, frame: Frame, nm: NDArray[np.float64]
) -> None:
    """Distances and representative voxels.

    A label that fills the whole chunk has no boundary, so its distances are undefined: we store the type's
    maximum, and the voxel nearest to its centroid.
    """
    shape = frame.in_xyz
    if len(rows) == 1 and moments.size[1] == math.prod(shape):
        rows["max_dt_nm"], rows["mean_dt_nm"] = np.iinfo(np.uint16).max, _MAX_HALF
        rows["rep_coord_nm"] = [(n - 1) // 2 for n in shape]
        return
    order = list(frame.axes)
    weights = np.array([shape[1] * shape[2], shape[2], 1])[order]
    mean = moments.first / np.maximum(moments.size, 1)[:, None]
    geometry = Placement(mean, nm[order], weights, order.index(2), frame.origin)
    scores = score(runs, whole_distances(runs, nm[order], frame.axes), geometry)
    rows["max_dt_nm"] = _saturated(scores.largest[1:], np.uint16)
    rows["mean_dt_nm"] = np.minimum(scores.total[1:] / moments.size[1:], _MAX_HALF)
    rows["rep_coord_nm"] = np.stack(np.unravel_index(scores.best_index[1:], shape), axis=-1)


def _principal_axes(scatter: NDArray[np.float64], size: NDArray[np.int64]) -> tuple[np.ndarray, np.ndarray]:
    """Return axes (n, 3, 3), one per row, and singular values (n, 3) of centred coordinates, largest first.

    The singular values are the square roots of the eigenvalues of ``scatter``, the sum of the outer
    products of the centred coordinates in nm; those of large labels are scaled to PCA_MAX_SAMPLES voxels.
    The first entry of largest magnitude of each axis is positive.
    """
    eigenvalues, vectors = np.linalg.eigh(scatter)
    order = np.argsort(-eigenvalues, axis=1, kind="stable")
    scale = (np.minimum(size, PCA_MAX_SAMPLES) - 1) / np.maximum(size - 1, 1)
    values = np.sqrt(np.maximum(np.take_along_axis(eigenvalues, order, 1), 0) * scale[:, None])
    axes = np.take_along_axis(vectors.transpose(0, 2, 1), order[:, :, None], 1)
    leading = np.argmax(np.abs(axes), axis=2)[:, :, None]
    return axes * np.where(np.take_along_axis(axes, leading, 2) < 0, -1.0, 1.0), values
