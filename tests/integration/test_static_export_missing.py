"""Tests of static exports of versions whose nodes mostly have no features."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2features.pictures.node_layers import NODE_LAYERS
from l2features.store.base import Meta
from l2features.testing.stores import open_table
from l2features.testing.version_files import NodeRows, VersionWriter
from l2features.versions.folders import Folder
from tests.support.jobs import dataset_file
from tests.support.known_roots import FIRST_ROOT, GEOMETRY, features_in_chunks
from tests.support.static_export import SMALL, StaticLayer, run_export, uneven_indexes
from tests.support.version_chains import node_ids


def export_without_features(folder: Path, without: Any, group_rows: int, *flags: object) -> Path:
    """Export a version of 6,000 nodes. In chunks where ``without(x, y, z)`` is true, they lack features."""
    ids = node_ids(6_000)
    features = features_in_chunks(ids)
    missing = np.flatnonzero(without(*GEOMETRY.layout.chunk_coordinates(ids).T))
    roots = np.uint64(FIRST_ROOT) + np.arange(len(ids), dtype=np.uint64) % np.uint64(200)
    versions = Folder(str(folder / "versions"))
    nodes = NodeRows.of(roots, features, missing)
    VersionWriter(versions, GEOMETRY, 1, group_rows).write(1, nodes)
    config = dataset_file(folder, "precomputed://file:///nowhere", versions=versions.url)
    with closing(open_table(config)) as store:
        store.create(Meta("known", "", "2026-11-21 00:27:44", GEOMETRY))
    done = run_export(config, folder / "export", 1, *flags)
    assert done.returncode == 0, done.stderr
    return folder / "export"


@pytest.mark.parametrize("wanted", [10_000, 14_000])
def test_files_have_the_wanted_size_where_most_nodes_are_missing(tmp_path: Path, wanted: int) -> None:
    """Put all nodes without features on one side of the volume."""
    flags = ("--shard_size", wanted, "--cell_nodes", 25)
    output = export_without_features(tmp_path, lambda x, y, z: y >= 4, 500, *flags)
    uneven, several = uneven_indexes(output, wanted)
    assert (uneven, len(several) > 5) == ({}, True)


@pytest.mark.parametrize("group_rows", [20_000, 50])
def test_nodes_are_exported_whatever_a_sample_has(tmp_path: Path, group_rows: int) -> None:
    """The export samples a file whose first 4,000 nodes, or most row groups, have no features."""
    output = export_without_features(tmp_path, lambda x, y, z: x < 9, group_rows, *SMALL)
    for name in NODE_LAYERS:
        layer = StaticLayer(output / name)
        found = layer.spatial()
        assert len(found) > 300
        assert found == {node: one._replace(related={}) for node, one in layer.by_id().items()}
