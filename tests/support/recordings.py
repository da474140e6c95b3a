"""Helpers that ingest recorded graphs and check the features against the recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from l2features.core.rows import Rows
from l2features.store.base import Store, open_store
from l2features.testing.stores import STORE_URL
from tests.support.ingest_jobs import run_ingest
from tests.support.jobs import Recordings, dataset_file

EXACT = ("size_nm3", "area_nm2", "max_dt_nm", "mean_dt_nm", "chunk_intersect_count")


def ingest(
    folder: Path, recordings: Recordings, graph: str, source: str, cv_path: str | None = None
) -> Store:
    """Run the ingest command on a recorded graph, at the recording's time T0, and return the open store."""
    table = f"l2_{graph}_{abs(hash((source, cv_path))) % 10**8}"
    source = source.format(graph=graph)
    config = dataset_file(
        folder,
        cv_path or recordings.cv_path(graph),
        graph=source,
        store=STORE_URL,
        l2cache_id=table,
        chunk_size=None,
    )
    t0 = recordings.json("l2_children.json")["t0"].replace("T", " ")[:19]
    done = run_ingest(config, "--create", "--timestamp", t0)
    assert done.returncode == 0, done.stderr
    return open_store(STORE_URL, table)


def check_values(rows: Rows, expected: dict[str, Any]) -> None:
    """Check that rows have exactly the expected ids, with their values."""
    assert sorted(rows.ids.tolist()) == sorted(int(i) for i in expected)
    for row in rows.features:
        want = expected[str(row["label"])]
        for name in EXACT:
            np.testing.assert_array_equal(
                row[name], np.array(want[name], dtype=row[name].dtype), err_msg=name
            )
        assert bool(row["has_pca"]) == bool(want["pca_val"])
        if want["pca_val"]:
            rtol = 0.04 if want["pca_random"] else 2e-6
            np.testing.assert_allclose(row["pca_val"], want["pca_val"], rtol=rtol, atol=0.01)
        if "pca_val_all_voxels" in want:
            scale = np.sqrt((10_000 - 1) / (want["size_nm3"] - 1))
            np.testing.assert_allclose(
                row["pca_val"], np.array(want["pca_val_all_voxels"]) * scale, rtol=1e-5
            )


def valid_at_t0(recordings: Recordings, graph: str) -> dict[str, Any]:
    if graph == "fixture_v1":
        return dict(recordings.json("features_v1.json")["features"])
    features = recordings.json("features.json")["features"]
    return {i: f for i, f in features.items() if f["valid_at_t0"]}
