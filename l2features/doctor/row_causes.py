"""Known defects of PCGL2Cache that make rows differ from their recomputation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ..core.ids import Ids
from ..core.rows import Rows
from ..core.schema import ATTRIBUTES, BY_NAME, FLAGS, SIZE

Mask = npt.NDArray[np.bool_]
DISTANCES = ("max_dt_nm", "mean_dt_nm")
FACES = "chunk_intersect_count"
NOT_COMPUTED = "marked as not computed, but they have voxels"
OTHER_VOXELS = "computed from other voxels than their nodes have (size_nm3)"
WHOLE_CHUNK = "their labels fill a chunk, and their distances were stored as 0"
WRAPPED = "with a face of more than 65,535 voxels, which wrapped (chunk_intersect_count)"
OVERFLOWN = "with a value beyond its type's range, which overflowed"
BORDERS = "with borders to their successors counted as surface: computed after an edit superseded the nodes"
OTHERWISE = "different in {} for no known cause"
PCA_TOLERANCE = 0.1
"""Accepted relative difference of singular values. PCGL2Cache computes them from 10,000 random
voxels, so they differ from ours by up to 4 %."""


def differing(stored: Rows, computed: np.ndarray, superseded: Mask) -> dict[str, Ids]:
    """Map each cause of differences to the ids of its rows. A row has one cause: the first that applies.

    ``rep_coord_nm`` and the axes of ``pca`` are not compared, since PCGL2Cache breaks ties differently.

    Args:
        stored: (n,) the table's rows.
        computed: (n,) the recomputed features, in the same order.
        superseded: (n,) whether an edit has replaced the node.
    """
    wrong = {a.name: _differs(stored.features, computed, a.name) for a in ATTRIBUTES if a.name in _EXACT}
    wrong["pca_val"] = _pca_differs(stored.features, computed)
    real = ~stored.not_computed
    surface = wrong["area_nm2"] | wrong["max_dt_nm"] | wrong["mean_dt_nm"]
    causes = {
        NOT_COMPUTED: ~real & (computed[SIZE] > 0),
        OTHER_VOXELS: real & wrong[SIZE],
        WHOLE_CHUNK: real & _saturated(computed, "max_dt_nm") & (stored.features["max_dt_nm"] == 0),
        WRAPPED: real & wrong[FACES] & _saturated(computed, FACES),
        OVERFLOWN: real & _any(wrong[name] & _saturated(computed, name) for name in ("area_nm2", *DISTANCES)),
        BORDERS: real & surface & superseded,
    }
    found: dict[str, Ids] = {}
    left = np.ones(len(stored), dtype=bool)
    for cause, rows in causes.items():
        if (rows & left).any():
            found[cause] = stored.ids[rows & left]
        left &= ~rows
    others = {name: mask & left & real for name, mask in wrong.items() if (mask & left & real).any()}
    if others:
        found[OTHERWISE.format(", ".join(others))] = stored.ids[_any(others.values())]
    return found


_EXACT = (SIZE, "area_nm2", *DISTANCES, FACES)


def _differs(stored: np.ndarray, computed: np.ndarray, name: str) -> Mask:
    unequal = stored[name] != computed[name]
    return unequal.reshape(len(stored), -1).any(axis=1)


def _pca_differs(stored: np.ndarray, computed: np.ndarray) -> Mask:
    """Return (n,) whether singular values differ beyond the tolerance, or only one array has them."""
    values, expected = (rows["pca_val"].astype(np.float64) for rows in (stored, computed))
    largest = expected.max(axis=1, initial=0.0, keepdims=True)
    far = (np.abs(values - expected) > PCA_TOLERANCE * expected + 0.01 * largest).any(axis=1)
    return np.asarray((stored[FLAGS[0]] != computed[FLAGS[0]]) | far)


def _saturated(computed: np.ndarray, name: str) -> Mask:
    full = computed[name] == BY_NAME[name].dtype.type(BY_NAME[name].largest)
    return full.reshape(len(computed), -1).any(axis=1)


def _any(masks: Iterable[Mask]) -> Mask:
    return np.asarray(np.logical_or.reduce(list(masks)))
