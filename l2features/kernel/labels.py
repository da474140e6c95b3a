"""Features of every label of a chunk."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.schema import FEATURES
from .across import exchanged, find_runs_across, has_fewer_across
from .attributes import Frame, fill
from .cut import cut_runs
from .runs import MAX_EXTENT, MAX_VOXELS, Runs, find_runs

_MAX_NM = 2**30


def compute_features(labels: np.ndarray, resolution: Sequence[float]) -> np.ndarray:
    """Return the features of the labels of a volume.

    Args:
        labels: (x, y, z) labels of any unsigned dtype, in any memory order; 0 is background.
        resolution: nm per voxel along x, y and z.

    Returns:
        Structured array of dtype :data:`l2features.core.schema.FEATURES`, one row per label other than 0,
        sorted by label. Equal volumes give equal bytes. Values are in stored units: ``size_nm3`` and
        ``chunk_intersect_count`` are numbers of voxels, ``rep_coord_nm`` is the index of a voxel of the
        volume; ``area_nm2`` is in nm²; distances and ``pca_val`` are in nm.

    Raises:
        TypeError: the labels are not unsigned integers.
        ValueError: the shape of the volume or the resolution is invalid.

    >>> volume = np.zeros((8, 8, 4), np.uint64)
    >>> volume[2:5, 2:5, :] = 7
    >>> rows = compute_features(volume, (16, 16, 40))
    >>> rows["label"].tolist(), rows["size_nm3"].tolist(), rows["max_dt_nm"].tolist()
    ([7], [36], [32])
    """
    chunk = SegmentedChunk(labels)
    return chunk.features(chunk.ids, resolution)


class SegmentedChunk:
    """A chunk of supervoxels, whose labels are assigned later.

    The chunk is stored as runs, not voxels, so assigning labels is cheap.

    >>> chunk = SegmentedChunk(np.array([[[3, 4, 0]]], np.uint64))
    >>> chunk.ids
    array([3, 4], dtype=uint64)
    >>> rows = chunk.features([72057594037927937] * 2, (4, 4, 40))
    >>> rows["label"].tolist(), rows["size_nm3"].tolist()
    ([72057594037927937], [2])
    """

    runs: Runs
    """Runs of the supervoxels; a label of the runs is an index into ``rank``."""
    frame: Frame

    def __init__(self, volume: np.ndarray) -> None:
        volume = _checked_volume(volume)
        ordered, axes = _in_memory_order(volume)
        if has_fewer_across(ordered):
            fastest, middle, slowest = axes
            self._find_runs(volume.shape, (slowest, fastest, middle), find_runs_across(ordered))
            self.runs, self.frame = exchanged(self.runs), self.frame.exchanged()
        else:
            self._find_runs(volume.shape, axes, [ordered.reshape(-1)])

    @classmethod
    def of_slabs(cls, shape: tuple[int, int, int], slabs: Iterable[np.ndarray | Runs]) -> SegmentedChunk:
        """Return a chunk, given its shape and consecutive slabs of any thickness along z.

        A slab (x, y, thickness) is an array, or runs of uint64 labels. Only one slab is in use at a time, so
        slabs may share a buffer.

        Raises TypeError if the labels of an array are not unsigned integers. Raises ValueError if a shape is
        invalid, or if the slabs together do not fill the chunk exactly.
        """
        _check_shape(shape)
        chunk = cls.__new__(cls)
        chunk._find_runs(shape, (0, 1, 2), (_checked_slab(slab, shape) for slab in slabs))
        return chunk

    def _find_runs(
        self, shape: tuple[int, ...], axes: tuple[int, ...], pieces: Iterable[np.ndarray | Runs]
    ) -> None:
        self.shape: tuple[int, int, int] = (shape[0], shape[1], shape[2])
        n0, n1, n2 = (self.shape[axis] for axis in axes)
        self.frame = Frame(axes, np.array([n0, n1, n2]), np.zeros(3, np.int64))
        self.runs, met = find_runs(pieces, (n0, n1, n2))
        order = np.argsort(met)
        self.rank = np.empty(len(met), np.uint32)
        self.rank[order] = np.arange(len(met), dtype=np.uint32)
        """(n + 1,) uint32, for each label of the runs: its index in ``ids`` plus 1; 0 for background."""
        self.ids: NDArray[np.uint64] = met[order][1:]
        """Sorted ids of the supervoxels, without 0."""

    def features(self, labels: ArrayLike, resolution: Sequence[float]) -> np.ndarray:
        """Return the features of the chunk after each supervoxel is replaced by its label.

        Args:
            labels: one label per supervoxel of ``ids``, in the order of ``ids``; 0 makes a supervoxel
                background.
            resolution: nm per voxel along x, y and z.

        Returns:
            Rows as from :func:`compute_features`.

        Raises:
            TypeError: the labels are not integers.
            ValueError: a label is negative, the number of labels differs from that of ``ids``, or the
                resolution is invalid.
        """
        nm = checked_resolution(resolution, self.shape)
        distinct, table = _number_labels(labels, len(self.ids))
        rows = np.zeros(len(distinct), FEATURES)
        rows["label"] = distinct
        if len(rows):
            whole = np.array([self.frame.origin, self.frame.shape])
            fill(rows, cut_runs(self.runs, table[self.rank], whole), self.frame, nm)
        return rows


def check_chunk(shape: tuple[int, int, int], resolution: Sequence[float]) -> None:
    """Raise ValueError if chunks of this shape and resolution are not supported."""
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


def _checked_slab(slab: np.ndarray | Runs, shape: tuple[int, int, int]) -> np.ndarray | Runs:
    """Check a slab and return it; an array is returned flattened (n,), x fastest and z slowest."""
    if isinstance(slab, np.ndarray):
        slab = _checked_volume(slab)
    if slab.shape[:2] != shape[:2]:
        raise ValueError(f"a slab of shape {slab.shape}: expected {shape[:2]} along x and y, like the chunk")
    if isinstance(slab, Runs):
        return slab
    flat = slab.reshape(-1, order="F")
    flat.flags.writeable = False
    return flat


def _check_shape(shape: tuple[int, ...]) -> None:
    if max(shape) > MAX_EXTENT or math.prod(shape) > MAX_VOXELS:
        raise ValueError(
            f"a chunk of shape {shape}: expected at most {MAX_EXTENT} voxels along an axis, "
            f"and {MAX_VOXELS} in all"
        )


def checked_resolution(resolution: Sequence[float], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    nm = np.asarray(resolution, np.float64)
    if nm.shape != (3,) or not np.all(np.isfinite(nm)) or not np.all(nm > 0):
        raise ValueError(f"resolution must be three positive numbers in nm, not {resolution!r}")
    if math.hypot(*(nm * shape)) > _MAX_NM:
        raise ValueError(
            f"a volume of shape {shape} at a resolution of {resolution!r}: "
            f"expected a diagonal of at most {_MAX_NM} nm"
        )
    return nm


def _in_memory_order(volume: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the voxels, slowest axis first, and the axes' indices in ``volume``, fastest first.

    The voxels are copied only if they are not contiguous in memory. They are always read-only, because numba
    would compile its functions again for writeable arrays.
    """
    steps = [(extent == 1, abs(step)) for extent, step in zip(volume.shape, volume.strides, strict=True)]
    axes = tuple(sorted(range(3), key=steps.__getitem__))
    ordered = np.ascontiguousarray(volume.transpose(axes[::-1])).view()
    ordered.flags.writeable = False
    return ordered, axes


def _number_labels(labels: ArrayLike, n_ids: int) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Return the distinct labels other than 0, sorted, and a table (n_ids + 1,) of label numbers.

    Entry i + 1 of the table is the number of ``labels[i]``: its index among the distinct labels plus 1, or 0
    for background. Entry 0 is 0.
    """
    given = np.asarray(labels)
    if given.shape != (n_ids,):
        raise ValueError(f"labels have shape {given.shape}: expected ({n_ids},), one label per supervoxel")
    if n_ids and given.dtype.kind not in "ui":
        raise TypeError(f"labels must be integers, not {given.dtype}")
    if n_ids and given.dtype.kind == "i" and given.min() < 0:
        raise ValueError(f"label {given.min()}: expected 0 or more")
    distinct, inverse = np.unique(given.astype(np.uint64), return_inverse=True)
    background = int(len(distinct) > 0 and distinct[0] == 0)
    table = np.zeros(n_ids + 1, np.uint32)
    table[1:] = inverse + (1 - background)
    return distinct[background:], table
