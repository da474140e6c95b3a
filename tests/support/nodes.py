"""Helpers that make data sets and graph tables from the recordings."""

from __future__ import annotations

import base64

import zstandard
from google.cloud import bigtable

from l2features.config.datasets import Dataset
from l2features.core.ids import as_ids, ids_of_row_keys
from l2features.ingest.compute import read_geometry
from l2features.ingest.node_features import NodeSource
from l2features.testing.stores import INSTANCE, PROJECT
from tests.support.jobs import Recordings

SOURCES = [
    ("fixture_v2", f"bigtable://{PROJECT}/{INSTANCE}/fixture_v2", "graphene"),
    ("fixture_v2", "graphene", "graphene"),
    ("fixture_v2", f"bigtable://{PROJECT}/{INSTANCE}/fixture_v2", "precomputed"),
    ("fixture_v1", f"bigtable://{PROJECT}/{INSTANCE}/fixture_v1", "graphene"),
    ("fixture_v1", "graphene", "graphene"),
    ("fixture_v1", f"bigtable://{PROJECT}/{INSTANCE}/fixture_v1", "precomputed"),
]


def entry(recordings: Recordings, table: str, graph: str, volume: str = "graphene") -> Dataset:
    """Return a data set of a recorded segmentation; its store is not used."""
    cv_path = recordings.cv_path(table)
    if volume == "precomputed":
        cv_path = f"precomputed://file://{recordings.layers}/{table}/ws"
    return Dataset(
        name="recorded", cv_path=cv_path, l2cache_id="unused", graph=graph, store="sqlite:///no/db"
    )


def open_nodes(dataset: Dataset) -> NodeSource:
    return NodeSource(dataset, read_geometry(dataset))


def strange_table(recordings: Recordings, name: str, cells: dict[int, bytes]) -> str:
    """Load a recorded graph into a new table; return its URL. ``cells``: new children cells by node id."""
    dump = recordings.dump("graph_v2.json.gz")
    for key, row in dump["rows"]:
        raw = base64.b64decode(key)
        node = int(ids_of_row_keys([raw])[0]) if raw.isdigit() and len(raw) == 20 else None
        for cell in row:
            if node in cells and base64.b64decode(cell[1]) == b"children":
                cell[2] = base64.b64encode(cells.pop(node)).decode()
    assert not cells
    client = bigtable.Client(project=PROJECT, admin=True)
    recordings.loader.load(client.instance(INSTANCE), dump, name)
    return f"bigtable://{PROJECT}/{INSTANCE}/{name}"


def packed(*supervoxels: int) -> bytes:
    return zstandard.compress(as_ids(supervoxels).astype("<u8").tobytes())
