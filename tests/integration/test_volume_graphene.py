"""Tests of graphene:// segmentations: their geometry, chunk size and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from l2features.config.datasets import load_dataset
from l2features.core.errors import ConfigError
from l2features.core.geometry import Chunk
from l2features.ingest.compute import read_geometry
from l2features.testing.layers import open_volume, read_whole
from tests.support.jobs import Recordings, dataset_file


@pytest.mark.parametrize(("name", "layer_1", "layer_2"), [("fixture_v2", 10, 10), ("fixture_v1", 8, 2)])
def test_the_geometry_of_a_graphs_server(
    recordings: Recordings, tmp_path: Path, name: str, layer_1: int, layer_2: int
) -> None:
    dataset = load_dataset(
        "sample", dataset_file(tmp_path, recordings.cv_path(name), graph="graphene", chunk_size=None)
    )
    volume = open_volume(dataset)
    geometry = read_geometry(dataset)
    assert (geometry.voxel_offset, geometry.voxel_size, geometry.chunk_size) == (
        (1024, 512, 20),
        (160, 128, 48),
        (64, 64, 32),
    )
    assert (geometry.layout.spatial_bits[1], geometry.layout.spatial_bits[2]) == (layer_1, layer_2)
    with np.load(recordings.folder / f"watershed_{name[-2:]}.npz") as data:
        expected = data["ws"][128:, 64:128, :32]
    labels = read_whole(volume, Chunk(2, 1, 0), geometry).labels
    np.testing.assert_array_equal(labels[:32], expected)
    assert not labels[32:].any()


def test_a_chunk_size_that_the_graph_does_not_have(recordings: Recordings, tmp_path: Path) -> None:
    dataset = load_dataset(
        "sample", dataset_file(tmp_path, recordings.cv_path("fixture_v2"), graph="graphene")
    )
    message = r"chunk_size: .* has \[32, 32, 16\], but graphene://\S+ has \[64, 64, 32\]"
    with pytest.raises(ConfigError, match=message):
        read_geometry(dataset)
