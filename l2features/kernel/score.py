"""Mean and largest distance, and the representative voxel, of each label.

The representative voxel is the one of the largest ``dt * (1 - d / dmax)``, where dt is its distance to
another label in whole nm, d its distance to the label's centroid and dmax the largest d of the label; the
lowest index in C order where several share it. The arithmetic is that of
``dt * (1 - d / d.max())``, ``d = norm((coords - mean) * resolution)`` in float64, operation by operation, so
that equal scores are equal here too. Each operation is monotonic, rounding included, so that bounds on a
run's scores can be exact, and hold for nearly all runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..core.jit import compiled, inlined
from .runs import Runs, start_of, stop_of
from .simd import LANES, larger, largest_of, load, smaller, splat, total_of
from .spans import Spans


class Placement(NamedTuple):
    """Positions of labels, with axes in the order of the runs."""

    mean: np.ndarray
    """(n, 3) float64, centroid of each label in voxels."""
    resolution: np.ndarray
    """(3,) float64, nm per voxel."""
    weights: np.ndarray
    """(3,) int64, steps of the C-order index of the volume as it was given."""
    last: int
    """Axis of the volume's z, whose square is added last."""
    origin: np.ndarray
    """(3,) int64, where the runs begin in the volume in which the centroids are."""


class Scores(NamedTuple):
    """The best voxel of each label and its score; row 0 is the background."""

    total: np.ndarray
    """(n,) int64, sum of dt."""
    largest: np.ndarray
    """(n,) int64, largest dt."""
    best_index: np.ndarray
    """(n,) int64, C-order index of the representative voxel in the volume as it was given."""


def score(runs: Runs, distances: Spans, geometry: Placement) -> Scores:
    """Return the scores from the distances of :func:`l2features.kernel.distance.whole_distances`."""
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
    """Square root of the sum of three squares, added in the order x, y, z."""
    if geometry.last == 2:
        return np.sqrt((e0 + e1) + e2)
    if geometry.last == 1:
        return np.sqrt((e0 + e2) + e1)
    return np.sqrt((e1 + e2) + e0)


@compiled
def _find_reach(runs: Runs, geometry: Placement, reach: np.ndarray) -> None:
    """Find each label's largest distance from its centroid, which is at an end of a run."""
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
    """Return the sum and the maximum of neighbouring distances.

    ``keep`` are limits that keep the first elements of a vector, and make the others 0.
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
    """Search a run for a better voxel, unless its voxel nearest to the centroid rules that out."""
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
