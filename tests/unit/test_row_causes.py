"""Tests of the causes by which `l2features doctor` explains a wrong row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from l2features.core.rows import Rows
from l2features.doctor.row_causes import (
    BORDERS,
    NOT_COMPUTED,
    OTHER_VOXELS,
    OTHERWISE,
    OVERFLOWN,
    WHOLE_CHUNK,
    WRAPPED,
    differing,
)
from l2features.testing.stores import features_of

Change = Callable[[np.ndarray, np.ndarray], None]


def set_to(name: str, stored: float, computed: float) -> Change:
    def change(old: np.ndarray, new: np.ndarray) -> None:
        old[name], new[name] = stored, computed

    return change


def marked(old: np.ndarray, _: np.ndarray) -> None:
    old["size_nm3"] = 0


@pytest.mark.parametrize(
    ("change", "superseded", "cause"),
    [
        (lambda old, new: None, False, None),
        (set_to("rep_coord_nm", 1, 2), False, None),
        (set_to("pca_val", 1000, 1040), False, None),
        (marked, False, NOT_COMPUTED),
        (set_to("size_nm3", 8, 9), False, OTHER_VOXELS),
        (set_to("max_dt_nm", 0, 65_535), False, WHOLE_CHUNK),
        (set_to("chunk_intersect_count", 0, 65_535), False, WRAPPED),
        (set_to("area_nm2", 17, (1 << 32) - 1), False, OVERFLOWN),
        (set_to("mean_dt_nm", np.inf, 65_504), False, OVERFLOWN),
        (set_to("area_nm2", 17, 15), True, BORDERS),
        (set_to("area_nm2", 17, 15), False, OTHERWISE.format("area_nm2")),
        (set_to("pca_val", 1000, 1200), False, OTHERWISE.format("pca_val")),
        (set_to("has_pca", 1, 0), False, OTHERWISE.format("pca_val")),
    ],
)
def test_each_cause(change: Change, superseded: bool, cause: str | None) -> None:
    old, new = features_of([5, 6]), features_of([5, 6])
    change(old[1:], new[1:])
    found = differing(Rows.complete(old), new, np.array([False, superseded]))
    assert {name: ids.tolist() for name, ids in found.items()} == ({cause: [6]} if cause else {})
