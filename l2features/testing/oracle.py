"""Reference implementation of the features, label by label: slow and obvious."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import edt
import fastremap
import numpy as np

from ..core.schema import FEATURES, LARGE, PCA_MAX_SAMPLES

GOLDEN_PATH = Path(__file__).parent / "golden.npz"


def plain_features(labels: np.ndarray, resolution: Sequence[float]) -> np.ndarray:
    """Return the expected rows of :func:`l2features.compute_features`."""
    ids = fastremap.unique(labels)
    ids = ids[ids != 0]
    rows = np.zeros(len(ids), FEATURES)
    rows["label"] = ids
    dense = fastremap.remap(labels, {0: 0, **{label: i + 1 for i, label in enumerate(ids.tolist())}})
    dense = dense.astype(np.uint32)
    nm = np.asarray(resolution, np.float64)
    distances = whole_distances(dense, resolution)
    areas = surface_areas(dense, len(ids), nm)
    for number, coords in voxels_by_label(dense):
        row = rows[number - 1]
        row["size_nm3"] = len(coords)
        row["area_nm2"] = min(areas[number], 2**32 - 1)
        _fill_distances(row, coords, distances[tuple(coords.T)], nm, dense.shape)
        row["chunk_intersect_count"] = np.minimum(_border_counts(coords, dense.shape), 65535)
        if len(coords) * np.prod(nm) / 1e9 >= 0.01:
            row["pca"], row["pca_val"] = principal_axes(coords * nm)
            row[LARGE.flag] = True
    return rows


def whole_distances(volume: np.ndarray, resolution: Sequence[float]) -> np.ndarray:
    """Return each voxel's distance to the nearest voxel of another label, in whole nm; 0 for label 0.

    Lengths are counted in the largest unit that divides all three resolutions. Squared distances are then
    integers, and float32 is exact for those below 2^24. Distances are rounded down.
    """
    exact = [Fraction(str(float(r))) for r in resolution]
    below = math.lcm(*(r.denominator for r in exact))
    unit = math.gcd(*(int(r * below) for r in exact))
    steps = tuple(float(r * below / unit) for r in exact)
    squares = edt.edtsq(np.asfortranarray(volume), anisotropy=steps, black_border=False, parallel=1)
    return np.floor(np.sqrt(squares.astype(np.float64) * unit**2) / below)


def voxels_by_label(dense: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each label except 0 with its voxels (n, 3), in C order."""
    flat = dense.ravel(order="C")
    order = np.argsort(flat, kind="stable")
    ends = np.cumsum(np.bincount(flat))
    for number in range(1, len(ends)):
        indices = order[ends[number - 1] : ends[number]]
        yield number, np.stack(np.unravel_index(indices, dense.shape), axis=-1)


def surface_areas(dense: np.ndarray, n_labels: int, nm: np.ndarray) -> np.ndarray:
    """Return the area of each label's faces to other labels, shape (n_labels + 1,), in whole nm^2.

    Label 0 counts as another label. Areas are rounded down.
    """
    areas = np.zeros(n_labels + 1)
    for axis in range(3):
        below = np.moveaxis(dense, axis, 0)[:-1]
        above = np.moveaxis(dense, axis, 0)[1:]
        faces = np.concatenate([below[below != above], above[below != above]])
        areas += np.bincount(faces, minlength=n_labels + 1) * np.prod(np.delete(nm, axis))
    return np.floor(areas)


def _fill_distances(
    row: np.void, coords: np.ndarray, distances: np.ndarray, nm: np.ndarray, shape: tuple[int, ...]
) -> None:
    if len(coords) == np.prod(shape):
        row["max_dt_nm"], row["mean_dt_nm"] = 65535, 65504
        row["rep_coord_nm"] = [(n - 1) // 2 for n in shape]
        return
    dts = distances.astype(np.uint64)
    row["max_dt_nm"] = min(dts.max(), 65535)
    row["mean_dt_nm"] = min(dts.mean(), 65504)
    row["rep_coord_nm"] = coords[np.argmax(central_scores(coords, dts, nm))]


def central_scores(coords: np.ndarray, dts: np.ndarray, nm: np.ndarray) -> np.ndarray:
    """Return the score of each voxel of a label, (n,). The representative voxel has the largest score."""
    from_centre = np.linalg.norm((coords - np.mean(coords, axis=0)) * nm, axis=1)
    return dts * (1 - from_centre / from_centre.max()) if len(coords) > 1 else dts


def central_voxels(mask: np.ndarray, resolution: Sequence[float]) -> np.ndarray:
    """Return the voxels in ``mask`` with the largest `central_scores`, (n, 3), in C order.

    Distances are computed only in the mask's bounding box, grown by one voxel. They are the same as in the
    whole volume.
    """
    coords = np.argwhere(mask)
    ends = zip(coords.min(axis=0).tolist(), coords.max(axis=0).tolist(), strict=True)
    near = mask[tuple(slice(max(first - 1, 0), last + 2) for first, last in ends)]
    distances = whole_distances(near, resolution)
    scores = central_scores(coords, distances[near].astype(np.uint64), np.asarray(resolution, np.float64))
    return coords[scores == scores.max()]


def _border_counts(coords: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.stack([np.sum(coords == 0, axis=0), np.sum(coords == np.array(shape) - 1, axis=0)])


def principal_axes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a tuple for points (n, 3) in nm: the axes, one per row; the singular values.

    With fewer than three points, the last axes and values are zero.
    """
    from sklearn.decomposition import PCA

    axes, values = np.zeros((3, 3)), np.zeros(3)
    n = min(len(points), 3)
    if n > 1:
        pca = PCA(n, svd_solver="full" if len(points) < 1000 else "auto").fit(points)
        axes[:n], values[:n] = pca.components_, pca.singular_values_
    leading = np.argmax(np.abs(axes), axis=1)
    axes *= np.where(axes[range(3), leading] < 0, -1, 1)[:, None]
    sampled = min(len(points), PCA_MAX_SAMPLES)
    return axes, values * np.sqrt((sampled - 1) / max(len(points) - 1, 1))


def check_equal(rows: np.ndarray, expected: np.ndarray) -> None:
    """Assert that rows are equal. Principal axes may differ slightly, or freely if not `has_clear_axes`."""
    assert rows.dtype == expected.dtype
    for name in FEATURES.names or ():
        if name not in ("pca", "pca_val"):
            np.testing.assert_array_equal(rows[name], expected[name], err_msg=name)
    values = expected["pca_val"].astype(np.float64)
    largest = values[:, :1] if len(values) else values
    np.testing.assert_array_less(np.abs(rows["pca_val"] - values), 1e-5 * values + 2e-6 * largest + 0.01)
    clear = has_clear_axes(values, expected["pca"])
    np.testing.assert_allclose(rows["pca"][clear], expected["pca"][clear], atol=2e-3, rtol=0)


def has_clear_axes(values: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return whether axes (n, 3, 3) with singular values (n, 3) have clear directions and signs, (n,)."""
    apart = np.all(np.abs(np.diff(values, axis=1)) > 0.02 * values[:, :1], axis=1) & (values[:, 2] > 0)
    entries = np.sort(np.abs(axes.astype(np.float64)), axis=2)
    return apart & np.all(entries[:, :, 2] - entries[:, :, 1] > 4e-3, axis=1)


def make_blobs(random: np.random.Generator, shape: tuple[int, int, int], n: int) -> np.ndarray:
    """Return a volume (uint32) of n touching blobs; some are in pieces, some are cut by the border."""
    centres = random.uniform(0, 1, (n, 3)) * shape
    nearest = np.full(shape, np.inf)
    volume = np.zeros(shape, np.uint32)
    for centre in centres:
        stretch = random.uniform(0.5, 2, 3)
        x, y, z = np.ogrid[: shape[0], : shape[1], : shape[2]]
        offsets = [(axis - at) * factor for axis, at, factor in zip((x, y, z), centre, stretch, strict=True)]
        distance = np.sqrt(offsets[0] ** 2 + offsets[1] ** 2 + offsets[2] ** 2)
        won = distance < nearest
        nearest[won] = distance[won]
        volume[won] = random.integers(0, n)
    volume[nearest > np.quantile(nearest, 0.8)] = 0
    return volume


def write_golden() -> None:
    """Write golden.npz, a chunk with its expected features: ``python -m l2features.testing.oracle``."""
    volume = make_blobs(np.random.default_rng(0), (48, 40, 32), 24)
    volume[10, 3:30, 5] = 77
    volume[0, 0, 0] = volume[-1, -1, -1] = 78
    volume[20:24, 20:24, 20:24] = 79
    resolution = (16, 16, 40)
    rows = plain_features(volume, resolution)
    GOLDEN_PATH.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN_PATH, volume=volume, resolution=resolution, rows=rows)


if __name__ == "__main__":
    write_golden()
