"""Sums over each label's voxels, in closed form from its runs.

All arrays have one row per label (row 0 is the background) and their axes in the order of the runs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..core.jit import compiled
from .runs import Runs, start_of, stop_of


class Moments(NamedTuple):
    """Integer sums (int64) over each label's voxels; coordinates are in voxels."""

    size: np.ndarray
    """(n,) number of voxels."""
    first: np.ndarray
    """(n, 3) sum of the coordinates."""
    second: np.ndarray
    """(n, 3, 3) sum of the products of coordinates; modulo 2^64."""
    faces: np.ndarray
    """(n, 3) number of voxel faces shared with another label, by the axis perpendicular to the face."""
    border: np.ndarray
    """(n, 2, 3) number of voxels at index 0 and at the last index of each axis."""


def compute_moments(runs: Runs, n_labels: int) -> Moments:
    """Return the sums over the voxels of the labels 0 to ``n_labels - 1``; for label 0, only ``faces``."""
    shapes: tuple[tuple[int, ...], ...] = ((), (3,), (3, 3), (3,), (2, 3))
    moments = Moments(*(np.zeros((n_labels, *shape), np.int64) for shape in shapes))
    _add_runs(runs, moments)
    _add_faces(runs, moments.faces)
    upper, lower = np.triu_indices(3, 1)
    moments.second[:, lower, upper] = moments.second[:, upper, lower]
    return moments


def moved(moments: Moments, origin: np.ndarray, part: np.ndarray, whole: np.ndarray) -> Moments:
    """Convert moments from the coordinates of a part of a volume to the coordinates of the whole volume.

    ``origin`` is the index in the volume of the part's first voxel; ``part`` and ``whole`` are the shapes of
    part and volume. All are (3,) int64, in the order of the runs' axes.
    """
    first = moments.first + moments.size[:, None] * origin
    second = moments.second + origin[:, None] * moments.first[:, None, :]
    second += first[:, :, None] * origin
    at_border = np.array([origin == 0, origin + part == whole])
    return moments._replace(first=first, second=second, border=np.where(at_border, moments.border, 0))


def centred_second(moments: Moments) -> np.ndarray:
    """Return the sum of (c - mean)(c - mean)^T over each label's voxels: (n, 3, 3) float64, voxels squared.

    The sum is first computed about the voxel nearest to the mean, in exact integers. A correction in float64
    then replaces this voxel by the mean. The correction subtracts at most half of a diagonal element, so it
    costs at most one bit of precision.
    """
    size = np.maximum(moments.size, 1)
    centre = (2 * moments.first + size[:, None]) // (2 * size[:, None])
    first = moments.first - centre * size[:, None]
    second = moments.second - centre[:, :, None] * moments.first[:, None, :]
    second -= first[:, :, None] * centre[:, None, :]
    rest = first.astype(np.float64)
    return second - rest[:, :, None] * rest[:, None, :] / size[:, None, None]


@compiled
def _add_runs(runs: Runs, moments: Moments) -> None:
    n0, n1, n2 = runs.shape
    size, first, second, faces, border = moments
    for line in range(n1 * n2):
        c1, c2 = line % n1, line // n1
        begin, end = runs.offsets[line], runs.offsets[line + 1]
        for run in range(begin, end):
            label = runs.labels[run]
            start = start_of(runs, run)
            stop = stop_of(runs, run, end)
            if run > begin:
                faces[label, 0] += 1
                faces[runs.labels[run - 1], 0] += 1
            if label == 0:
                continue
            n = stop - start
            s0 = (start + stop - 1) * n // 2
            s00 = (stop - 1) * stop * (2 * stop - 1) // 6 - (start - 1) * start * (2 * start - 1) // 6
            size[label] += n
            first[label, 0] += s0
            first[label, 1] += c1 * n
            first[label, 2] += c2 * n
            second[label, 0, 0] += s00
            second[label, 0, 1] += s0 * c1
            second[label, 0, 2] += s0 * c2
            second[label, 1, 1] += c1 * c1 * n
            second[label, 1, 2] += c1 * c2 * n
            second[label, 2, 2] += c2 * c2 * n
            border[label, 0, 0] += start == 0
            border[label, 1, 0] += stop == n0
            if c1 == 0:
                border[label, 0, 1] += n
            if c1 == n1 - 1:
                border[label, 1, 1] += n
            if c2 == 0:
                border[label, 0, 2] += n
            if c2 == n2 - 1:
                border[label, 1, 2] += n


@compiled
def _add_faces(runs: Runs, faces: np.ndarray) -> None:
    _, n1, n2 = runs.shape
    for c2 in range(n2):
        for c1 in range(n1):
            line = c1 + c2 * n1
            if c1 + 1 < n1:
                _add_faces_of_lines(runs, line, line + 1, faces, 1)
            if c2 + 1 < n2:
                _add_faces_of_lines(runs, line, line + n1, faces, 2)


@compiled
def _add_faces_of_lines(runs: Runs, a: int, b: int, faces: np.ndarray, axis: int) -> None:
    """Count the faces between different labels of lines ``a`` and ``b``, neighbours along ``axis``."""
    i, end_of_a = runs.offsets[a], runs.offsets[a + 1]
    j, end_of_b = runs.offsets[b], runs.offsets[b + 1]
    position = 0
    while position < runs.shape[0]:
        stop_i, stop_j = stop_of(runs, i, end_of_a), stop_of(runs, j, end_of_b)
        stop = min(stop_i, stop_j)
        label_i, label_j = runs.labels[i], runs.labels[j]
        met = (stop - position) * np.int64(label_i != label_j)
        faces[label_i, axis] += met
        faces[label_j, axis] += met
        i += stop_i == stop
        j += stop_j == stop
        position = stop
