"""Bounding boxes of labels, and the runs inside a box."""

from __future__ import annotations

import numpy as np

from ..core.jit import compiled
from .runs import Runs, start_of, stop_of


def find_boxes(runs: Runs, n_labels: int) -> np.ndarray:
    """Return the bounding boxes (n, 2, 3) of the labels 0 to ``n_labels - 1``, in voxels.

    A box is two points: its start and its end (excluded). Axes are in the order of the runs. Labels without
    voxels, and the background, have an empty box, which ends before it begins.
    """
    boxes = np.empty((n_labels, 2, 3), np.int64)
    boxes[:, 0], boxes[:, 1] = runs.shape, 0
    _find_boxes(runs, boxes)
    return boxes


def cut_runs(runs: Runs, table: np.ndarray, box: np.ndarray) -> Runs:
    """Return the parts of runs inside ``box`` (2, 3); row 0 is the box's start, row 1 its end (excluded).

    Label i becomes ``table[i]``; neighbouring runs that get equal labels are joined.
    """
    n0, n1, n2 = (box[1] - box[0]).tolist()
    offsets = np.zeros(n1 * n2 + 1, np.int32)
    most = _count_met(runs, box)
    cut = Runs((n0, n1, n2), offsets, np.empty(most, np.uint16), np.empty(most, np.uint32))
    _cut_runs(runs, table, box, cut)
    return cut._replace(starts=cut.starts[: offsets[-1]], labels=cut.labels[: offsets[-1]])


@compiled
def _find_boxes(runs: Runs, boxes: np.ndarray) -> None:
    _, n1, n2 = runs.shape
    for line in range(n1 * n2):
        c1, c2 = line % n1, line // n1
        end = runs.offsets[line + 1]
        for run in range(runs.offsets[line], end):
            label = runs.labels[run]
            if label == 0:
                continue
            box = boxes[label]
            box[0, 0] = min(box[0, 0], start_of(runs, run))
            box[1, 0] = max(box[1, 0], stop_of(runs, run, end))
            box[0, 1] = min(box[0, 1], c1)
            box[1, 1] = max(box[1, 1], c1 + 1)
            box[0, 2] = min(box[0, 2], c2)
            box[1, 2] = max(box[1, 2], c2 + 1)


@compiled
def _count_met(runs: Runs, box: np.ndarray) -> int:
    """Return the number of runs in the lines that cross a box."""
    count, n1 = 0, runs.shape[1]
    for c2 in range(box[0, 2], box[1, 2]):
        count += runs.offsets[box[1, 1] + c2 * n1] - runs.offsets[box[0, 1] + c2 * n1]
    return count


@compiled
def _cut_runs(runs: Runs, table: np.ndarray, box: np.ndarray, cut: Runs) -> None:
    begin, behind = box[0, 0], box[1, 0]
    target, row = 0, 0
    for c2 in range(box[0, 2], box[1, 2]):
        for c1 in range(box[0, 1], box[1, 1]):
            line = c1 + c2 * runs.shape[1]
            run, end = runs.offsets[line], runs.offsets[line + 1]
            while stop_of(runs, run, end) <= begin:
                run += 1
            first = target
            while run < end and start_of(runs, run) < behind:
                label = table[runs.labels[run]]
                if target == first or label != cut.labels[target - 1]:
                    cut.starts[target] = max(start_of(runs, run) - begin, 0)
                    cut.labels[target] = label
                    target += 1
                run += 1
            row += 1
            cut.offsets[row] = target
