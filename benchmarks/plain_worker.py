"""A reference worker, for benchmarks: for one L2 id, it computes a distance transform of the whole chunk.

Like PCGL2Cache's workers, it uses fastremap, edt, numpy and scikit-learn. Unlike those workers, after the
distance transform it measures only the requested node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import edt
import fastremap
import numpy as np

from l2features.core.schema import FEATURES, LARGE, PCA_MIN_VOLUME_NM3
from l2features.testing.oracle import central_scores, principal_axes


def plain_node(
    supervoxels: np.ndarray, parents: Mapping[int, int], node: int, resolution: Sequence[float]
) -> np.ndarray:
    """Return the features of ``node`` as one row, shape (1,), dtype `FEATURES`.

    ``supervoxels`` is the volume of the node's chunk, ``parents`` maps supervoxels to nodes, and
    ``resolution`` is in nm.
    """
    nm = np.asarray(resolution, np.float64)
    nodes = fastremap.remap(supervoxels, {0: 0, **parents})
    distances = edt.edt(nodes, anisotropy=tuple(nm.tolist()), black_border=False, parallel=1)
    mask = nodes == node
    rows = np.zeros(1, FEATURES)
    row = rows[0]
    coords = np.argwhere(mask)
    dts = distances[mask].astype(np.uint64)
    row["label"], row["size_nm3"] = node, len(coords)
    row["area_nm2"] = _area(mask, nm)
    row["max_dt_nm"], row["mean_dt_nm"] = dts.max(), dts.mean()
    row["rep_coord_nm"] = coords[np.argmax(central_scores(coords, dts, nm))]
    ends = np.array(mask.shape) - 1
    faces = np.array([np.sum(coords == 0, axis=0), np.sum(coords == ends, axis=0)])
    row["chunk_intersect_count"] = np.minimum(faces, 65535)
    if len(coords) * np.prod(nm) >= PCA_MIN_VOLUME_NM3:
        row["pca"], row["pca_val"] = principal_axes(coords * nm)
        row[LARGE.flag] = True
    return rows


def _area(mask: np.ndarray, nm: np.ndarray) -> float:
    area = 0.0
    for axis in range(3):
        faces = np.count_nonzero(np.diff(mask, axis=axis))
        area += faces * np.prod(np.delete(nm, axis))
    return area
