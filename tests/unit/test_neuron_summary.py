"""Tests of summaries of roots against sums in plain Python, node by node."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pytest

from l2features.core.geometry import Geometry
from l2features.core.ids import IdLayout
from l2features.core.rows import Rows, served_column
from l2features.core.schema import FEATURES, NAMES
from l2features.neurons.neuron_summary import (
    GRAPH_SUMMARIES,
    MEASURES,
    SATURATED,
    SUMMARIES,
    SUMMARY,
    Measure,
    summarize,
    summary_objects,
    summary_table,
)
from l2features.query.answers import parquet
from l2features.query.reader import Status

GEOMETRY = Geometry((16.0, 16.0, 40.0), (100, 50, 7), (300, 300, 60), (64, 64, 32), IdLayout({1: 10, 2: 10}))
COUNTS = [0, 40, 1, 0, 0, 7, 300, 2, 0]
NOTHING: dict[str, Any] = {m.name: None if m.dtype.kind == "f" else 0 for m in SUMMARY if not m.needs_graph}


def nodes_of_roots(counts: list[int] = COUNTS, seed: int = 0) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Return random nodes of every status, grouped by root: rows, status, and the offset of each root."""
    rng, n = np.random.default_rng(seed), sum(counts)
    features = np.zeros(n, dtype=FEATURES)
    chunks = rng.integers(0, GEOMETRY.grid, (n, 3))
    features["label"] = GEOMETRY.layout.chunk_id_array(chunks) + rng.integers(1, 1000, n).astype(np.uint64)
    features["size_nm3"] = rng.integers(1, 2**31, n)
    features["area_nm2"] = rng.integers(0, 2**32, n)
    features["max_dt_nm"] = rng.choice([3, 500, SATURATED], n)
    features["mean_dt_nm"] = features["max_dt_nm"] / 2
    features["rep_coord_nm"] = rng.integers(0, 32, (n, 3))
    status = rng.choice([*[Status.READY] * 6, *Status], n).astype(np.int8)
    rows = Rows.complete(features)
    rows.present[status != Status.READY] = False
    return rows, status, np.cumsum([0, *counts])


def plain_summary(rows: Rows, status: np.ndarray, geometry: Geometry = GEOMETRY) -> dict[str, Any]:
    """Return one root's summary by a loop over its nodes."""
    columns = [served_column(rows, geometry, n)[0].tolist() for n in ("size_nm3", "area_nm2", "max_dt_nm")]
    columns += [served_column(rows, geometry, n)[0].tolist() for n in ("mean_dt_nm", "rep_coord_nm")]
    ready = [row for row, s in zip(zip(*columns, strict=True), status, strict=True) if s == Status.READY]
    clear = [row for row in ready if row[2] != SATURATED]
    corners = np.array([geometry.layout.chunk_coordinates(rows.ids)]).reshape(-1, 3)[status != Status.NOT_L2]
    low = np.array(geometry.voxel_offset) + corners * geometry.chunk_size
    high = np.minimum(low + geometry.chunk_size, np.add(geometry.voxel_offset, geometry.voxel_size))
    found = dict(NOTHING)
    found |= {
        "n_nodes": len(rows),
        "n_empty": sum(s == Status.EMPTY for s in status),
        "n_missing": sum(s not in (Status.READY, Status.EMPTY) for s in status),
        "n_saturated": len(ready) - len(clear),
        "size_nm3": sum(row[0] for row in ready),
        "area_nm2": sum(row[1] for row in ready),
    }
    if clear:
        found["max_dt_nm"] = max(row[2] for row in clear)
        found["mean_dt_nm"] = sum(row[0] * row[3] for row in clear) / sum(row[0] for row in clear)
    if len(corners):
        found["chunk_bounds_nm"] = (np.array([low.min(0), high.max(0)]) * geometry.resolution).tolist()
    if ready:
        places, weights = (
            np.array([row[4] for row in ready]),
            np.array([row[0] for row in ready], dtype=float),
        )
        found["rep_bounds_nm"] = [places.min(0).tolist(), places.max(0).tolist()]
        found["centroid_nm"] = np.average(places, axis=0, weights=weights).tolist()
        covariance = np.atleast_2d(np.cov(places.T, aweights=weights, ddof=0))
        found["extents_nm"] = np.sqrt(np.linalg.eigvalsh(covariance).clip(0))[::-1].tolist()
    return found


def is_close(ours: Any, expected: Any, measure: Measure) -> bool:
    if expected is None or measure.dtype.kind != "f":
        return bool(ours == expected)
    return bool(ours is not None and np.allclose(ours, expected, rtol=1e-9, atol=1e-3))


def test_summaries_equal_sums_over_nodes() -> None:
    rows, status, starts = nodes_of_roots()
    summaries = summary_objects(summarize(rows, status, starts, GEOMETRY))
    assert len(summaries) == len(COUNTS)
    for found, (a, b) in zip(summaries, pairwise(starts), strict=True):
        expected = plain_summary(rows[a:b], status[a:b])
        assert list(found) == list(expected)
        assert not [n for n in found if not is_close(found[n], expected[n], MEASURES[n])]


def test_roots_do_not_depend_on_their_neighbours() -> None:
    rows, status, starts = nodes_of_roots()
    together = summarize(rows, status, starts, GEOMETRY)
    for i, (a, b) in enumerate(pairwise(starts)):
        alone = summarize(rows[a:b], status[a:b], np.array([0, b - a]), GEOMETRY)
        assert alone.tobytes() == together[i : i + 1].tobytes()


@pytest.mark.parametrize("status", [Status.MISSING, Status.EMPTY, Status.NOT_L2, Status.FAILED])
def test_a_root_without_features(status: Status) -> None:
    rows, _, starts = nodes_of_roots([5])
    if status == Status.NOT_L2:
        rows.features["label"] = np.arange(5) + (7 << 56)
    (found,) = summary_objects(summarize(rows, np.full(5, status, np.int8), starts, GEOMETRY))
    named = "n_empty" if status == Status.EMPTY else "n_missing"
    bounds = None if status == Status.NOT_L2 else found["chunk_bounds_nm"]
    assert found == NOTHING | {"n_nodes": 5, named: 5, "chunk_bounds_nm": bounds}


def test_no_roots() -> None:
    rows, status, _ = nodes_of_roots([])
    assert summarize(rows, status, np.array([0]), GEOMETRY).shape == (0,)
    assert summarize(rows, status, np.array([0, 0]), GEOMETRY)["n_nodes"].tolist() == [0]


def test_attributes_that_a_row_lacks() -> None:
    """Check that a missing area adds nothing, and that the node's size still counts."""
    rows, status, starts = nodes_of_roots([3])
    status[:] = Status.READY
    rows.present[:] = True
    rows.present[1] = [name != "area_nm2" for name in NAMES]
    (found,) = summary_objects(summarize(rows, status, starts, GEOMETRY))
    assert found["area_nm2"] == rows.features["area_nm2"][[0, 2]].astype(int).sum()
    assert found["size_nm3"] == rows.features["size_nm3"].astype(int).sum() * 16 * 16 * 40


def test_a_volume_beyond_64_bits() -> None:
    rows, status, starts = nodes_of_roots([4])
    status[:] = Status.READY
    rows.features["size_nm3"], rows.present[:] = 2**31 - 1, True
    wide = Geometry(
        (2000.0, 1000.0, 1100.0), (0, 0, 0), GEOMETRY.voxel_size, GEOMETRY.chunk_size, GEOMETRY.layout
    )
    exact = summarize(rows[:3], status[:3], np.array([0, 3]), wide)["size_nm3"]
    assert exact.tolist() == [3 * (2**31 - 1) * 2_200_000_000]
    with pytest.raises(ValueError, match=r"volume of 1\.89e\+19 nm\^3: expected less than 2\^64 nm\^3"):
        summarize(rows, status, starts, wide)


def test_large_integers_as_strings() -> None:
    (found,) = summary_objects(summarize(*nodes_of_roots([30]), GEOMETRY), int64_as_str=True)
    (plain,) = summary_objects(summarize(*nodes_of_roots([30]), GEOMETRY))
    changed = {name for name in found if found[name] != plain[name]}
    assert changed == {"size_nm3", "area_nm2"} == {m.name for m in SUMMARY if m.dtype == np.uint64}
    assert all(found[name] == str(plain[name]) for name in changed)
    assert json.loads(orjson.dumps(found)) == found


@pytest.mark.parametrize("dtype", [SUMMARIES, GRAPH_SUMMARIES], ids=["features", "graph"])
def test_arrow_has_the_values_of_json(dtype: np.dtype) -> None:
    summaries = np.zeros(len(COUNTS), dtype=dtype)
    for name in SUMMARIES.names or ():
        summaries[name] = summarize(*nodes_of_roots(), GEOMETRY)[name]
    roots = np.arange(len(COUNTS), dtype=np.uint64) + np.uint64(2**63)
    table = summary_table(roots, summaries)
    assert table.column_names == ["root_id", *(dtype.names or ())]
    objects = [
        {"root_id": root, **o} for root, o in zip(roots.tolist(), summary_objects(summaries), strict=True)
    ]
    assert table.to_pylist() == objects
    for measure in (MEASURES[name] for name in dtype.names or ()):
        about = {b"unit": measure.unit.encode(), b"description": measure.meaning.encode()}
        assert table.schema.field(measure.name).metadata == about
    assert len(parquet(table)) > 0


def test_summaries_need_no_heavy_packages() -> None:
    code = (
        "import sys, l2features.neurons.neuron_summary; "
        "print(*(m for m in ('scipy', 'numba', 'cloudvolume', 'apache_beam', 'pyarrow') if m in sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []
