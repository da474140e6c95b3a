"""Sum and maximum of the distances, and the representative voxel, of each label.

The representative voxel has the largest score ``dt * (1 - d / dmax)`` of its label: dt is the voxel's
distance to another label in whole nm, d its distance to the label's centroid, dmax the label's largest d.
Among equal scores, the lowest index in C order wins. Scores are computed in float64 with the same operations
as numpy's ``dt * (1 - d / d.max())`` and ``d = norm((coords - mean) * resolution)``, so the same voxels tie.
Each operation is monotonic even with rounding. So no score in a run exceeds the score computed from the run's
largest dt and smallest d. Nearly all runs are skipped, because this bound is below the label's best so far.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..core.jit import compiled, inlined
from .runs import Runs, start_of, stop_of
from .simd import LANES, larger, largest_of, load, smaller, splat, total_of
from .spans import Spans


class Placement(NamedTuple):
    """Centroids of the labels, and the geometry of the voxels. Axes are ordered as in `Runs`."""

    mean: np.ndarray
    """(n, 3) float64, centroid of each label in voxels."""
    resolution: np.ndarray
    """(3,) float64, nm per voxel."""
    weights: np.ndarray
    """(3,) int64, increase of a voxel's C-order index (x, y, z) in the chunk with each step along an axis."""
    last: int
    """Index of z among the runs' axes. `_norm` adds the square along z last."""
    origin: np.ndarray
    """(3,) int64, index in the chunk of the runs' first voxel; centroids are in voxels of the chunk."""


class Scores(NamedTuple):
    """Distances and the representative voxel of each label; row 0 is the background."""

    total: np.ndarray
    """(n,) int64, sum of the voxels' distances in whole nm."""
    largest: np.ndarray
    """(n,) int64, largest distance in whole nm."""
    best_index: np.ndarray
    """(n,) int64, C-order index (x, y, z) of the representative voxel in the chunk."""


def score(runs: Runs, distances: Spans, geometry: Placement) -> Scores:
    """Return the sum and maximum of each label's distances, and its representative voxel.

    ``distances`` are those that :func:`l2features.kernel.distance.whole_distances` returns for the runs.
    """
    n = len(geometry.mean)
    reach = np.zeros(n)
    _find_reach(runs, geometry, reach)
    scores = Scores(np.zeros(n, np.int64), np.zeros(n, np.int64), np.full(n, -1, np.int64))
    keep = np.repeat(np.array([np.iinfo(distances.values.dtype).max, 0], distances.values.dtype), LANES)
    _score_runs(runs, distances, keep, geometry, reach, scores, np.full(n, -1.0))
    return scores._replace(best_index=scores.best_index + geometry.origin @ geometry.weights)


@compiled
def _offset_squared(geometry: Placement, label: int, axis: int, coordinate: int) -> float:
    offset = (coordinate + geometry.origin[axis] - geometry.mean[label, axis]) * geometry.resolution[axis]
    return offset * offset


@compiled
def _norm(geometry: Placement, e0: float, e1: float, e2: float) -> float:
    """Return the square root of the sum of three squares, added in the order x, y, z."""
    if geometry.last == 2:
        return np.sqrt((e0 + e1) + e2)
    if geometry.last == 1:
        return np.sqrt((e0 + e2) + e1)
    return np.sqrt((e1 + e2) + e0)


@compiled
def _find_reach(runs: Runs, geometry: Placement, reach: np.ndarray) -> None:
    """Write each label's largest distance from its centroid in nm to ``reach``.

    Only the ends of runs are tried: the farthest voxel is at an end of a run.
    """
    _, n1, n2 = runs.shape
    for line in range(n1 * n2):
        c1, c2 = line % n1, line // n1
        end = runs.offsets[line + 1]
        for run in range(runs.offsets[line], end):
            label = runs.labels[run]
            if label == 0:
                continue
            stop = stop_of(runs, run, end)
            e0 = max(
                _offset_squared(geometry, label, 0, start_of(runs, run)),
                _offset_squared(geometry, label, 0, stop - 1),
            )
            e1 = _offset_squared(geometry, label, 1, c1)
            e2 = _offset_squared(geometry, label, 2, c2)
            reach[label] = max(reach[label], _norm(geometry, e0, e1, e2))


@compiled
def _score_runs(
    runs: Runs,
    distances: Spans,
    keep: np.ndarray,
    geometry: Placement,
    reach: np.ndarray,
    scores: Scores,
    best: np.ndarray,
) -> None:
    _, n1, n2 = runs.shape
    for line in range(n1 * n2):
        c1, c2 = line % n1, line // n1
        end, base = runs.offsets[line + 1], distances.places[line] - distances.begins[line]
        for run in range(runs.offsets[line], end):
            label = runs.labels[run]
            if label == 0:
                continue
            start = start_of(runs, run)
            stop = stop_of(runs, run, end)
            added, most = _sum_up(distances.values, keep, base + start, base + stop)
            scores.total[label] += added
            scores.largest[label] = max(scores.largest[label], most)
            if most >= best[label]:
                where = (start, stop, c1, c2, base)
                _score_run(distances.values, geometry, reach, scores, best, label, where, most)


@inlined
def _sum_up(distances: np.ndarray, keep: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """Return the sum and the maximum of ``distances[start:stop]``.

    ``keep`` has LANES elements with the type's largest number, then LANES zeros. The last vector may extend
    beyond ``stop``. Its elementwise minimum with a slice of ``keep`` sets the elements from ``stop`` on to 0.
    """
    added, most = 0, splat(distances, 0)
    for i in range(start, stop, LANES):
        some = smaller(load(distances, i), load(keep, max(LANES - (stop - i), 0)))
        most = larger(some, most)
        added += total_of(some)
    return added, largest_of(most)


@compiled
def _score_run(
    distances: np.ndarray,
    geometry: Placement,
    reach: np.ndarray,
    scores: Scores,
    best: np.ndarray,
    label: int,
    place: tuple[int, int, int, int, int],
    most: int,
) -> None:
    """Search a run for a voxel with a better score than the label's best so far.

    The search is skipped if the run's upper bound is below the label's best. The bound is the score of a
    voxel with the run's largest distance ``most``, at the place where the run is nearest to the centroid.
    """
    start, stop, c1, c2, base = place
    e1 = _offset_squared(geometry, label, 1, c1)
    e2 = _offset_squared(geometry, label, 2, c2)
    below = min(max(int(np.floor(geometry.mean[label, 0])) - geometry.origin[0], start), stop - 1)
    above = min(below + 1, stop - 1)
    e0 = min(_offset_squared(geometry, label, 0, below), _offset_squared(geometry, label, 0, above))
    if _weigh(most, _norm(geometry, e0, e1, e2), reach[label]) < best[label]:
        return
    for c0 in range(start, stop):
        dt: Any = np.int64(distances[base + c0])
        if dt < best[label]:
            continue
        value = _weigh(dt, _norm(geometry, _offset_squared(geometry, label, 0, c0), e1, e2), reach[label])
        index = c0 * geometry.weights[0] + c1 * geometry.weights[1] + c2 * geometry.weights[2]
        if value > best[label] or (value == best[label] and index < scores.best_index[label]):
            best[label] = value
            scores.best_index[label] = index


@compiled
def _weigh(dt: int, distance: float, reach: float) -> float:
    if reach == 0.0:
        return np.float64(dt)
    return dt * (1.0 - distance / reach)
