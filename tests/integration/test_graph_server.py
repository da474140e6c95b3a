"""Tests of graph servers whose info lacks keys or has newer ones."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2features.config.datasets import Dataset
from l2features.core.errors import ConfigError, L2FeaturesError
from l2features.core.geometry import Chunk
from l2features.core.ids import as_ids
from l2features.graph.graphene import cloudpath
from l2features.ingest.compute import ChunkSource, read_geometry
from l2features.ingest.node_features import NodeSource
from l2features.ingest.source import open_dataset_graph
from l2features.ingest.steps import prepare
from l2features.testing.emulators import Emulator
from l2features.testing.graph_server import GraphServer, read_recorded, write_layer
from l2features.testing.graph_tables import meta_table
from l2features.testing.layers import open_volume, read_whole

T0 = datetime(2026, 11, 21, 0, 27, 44, tzinfo=UTC)
TABLE = "fixture_v2"
CHUNK = Chunk(0, 0, 0)


class Served:
    """The recorded graph on a server whose info each test can change."""

    def __init__(self, folder: Path, layer: Path) -> None:
        self.info = write_layer(folder / "watershed_v2.npz", layer)
        self.graphs = read_recorded(folder / "graph_v2.json.gz", self.info)
        self.server = GraphServer(self.graphs)

    def dataset(self, change: Callable[[dict[str, Any]], object], folder: Path, **keys: Any) -> Dataset:
        """Return a data set of the graph, with ``change`` applied to a copy of the recorded info."""
        info = copy.deepcopy(self.info)
        change(info)
        self.graphs[TABLE].info = info
        entry = {
            "name": "d",
            "cv_path": f"graphene://http://127.0.0.1:{self.server.server_port}/segmentation/table/{TABLE}",
            "l2cache_id": "l2",
            "store": f"sqlite://{folder}/l2.db",
            **keys,
        }
        return Dataset.model_validate(entry)


@pytest.fixture(scope="module")
def served(shared: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(shared("cave"), tmp_path_factory.mktemp("layers") / "ws")
    threading.Thread(target=served.server.serve_forever, daemon=True).start()
    yield served
    served.server.shutdown()
    served.server.server_close()


def without(*path: str) -> Callable[[dict[str, Any]], object]:
    *parents, last = path
    return lambda info: _at(info, parents).pop(last)


def setting(value: object, *path: str) -> Callable[[dict[str, Any]], object]:
    *parents, last = path
    return lambda info: _at(info, parents).update({last: value})


def _at(info: dict[str, Any], parents: list[str]) -> dict[str, Any]:
    for key in parents:
        info = info[key]
    return info


BITS = {str(layer): 10 for layer in range(255)}
READABLE = {
    "as recorded": lambda info: info,
    "no cv_mip": without("graph", "cv_mip"),
    "cv_mip null": setting(None, "graph", "cv_mip"),
    "no n_bits_for_layer_id": without("graph", "n_bits_for_layer_id"),
    "no n_layers": without("graph", "n_layers"),
    "no app": without("app"),
    "app without versions": setting({}, "app"),
    "only v1": setting({"supported_api_versions": [1]}, "app"),
    "a newer version too": setting({"supported_api_versions": [0, 1, 2]}, "app"),
    "chunk size of floats": setting([64.0, 64.0, 32.0], "graph", "chunk_size"),
    "bits of every layer, 0 too": setting(BITS, "graph", "spatial_bit_masks"),
    "no chunks_start_at_voxel_offset": without("chunks_start_at_voxel_offset"),
    "ocdbt_seg false": setting(False, "graph", "ocdbt_seg"),
    "ocdbt_kvstore_spec null": setting(None, "graph", "ocdbt_kvstore_spec"),
}


@pytest.mark.parametrize("change", READABLE.values(), ids=READABLE)
def test_infos_that_are_read(served: Served, tmp_path: Path, change: Any) -> None:
    """Check that a chunk has one row per graph node, equal to the row computed when that id is requested."""
    dataset = served.dataset(change, tmp_path)
    geometry = read_geometry(dataset)
    rows = ChunkSource(dataset, geometry, T0).compute(CHUNK).features
    graph, nodes = open_dataset_graph(dataset), NodeSource(dataset, geometry)
    assert len(rows) > 10
    assert graph.nodes(geometry, CHUNK, T0).tolist() == rows["label"].tolist()
    assert nodes.compute(CHUNK, as_ids(rows["label"])).features.tobytes() == rows.tobytes()
    graph.close()
    nodes.close()


def refuses(dataset: Dataset, message: str) -> None:
    with pytest.raises(L2FeaturesError, match=message) as caught:
        prepare(dataset, "2026-11-21 00:27:44", create=True)
    assert "\n" not in str(caught.value)
    assert "KeyError" not in str(caught.value)
    assert not list(Path(dataset.store.removeprefix("sqlite://")).parent.glob("*.db"))


@pytest.mark.parametrize(
    "path",
    [("graph",), ("graph", "chunk_size"), ("graph", "spatial_bit_masks"), ("data_dir",), ("scales",)],
    ids=".".join,
)
def test_keys_that_are_needed_are_named(served: Served, tmp_path: Path, path: tuple[str, ...]) -> None:
    refuses(
        served.dataset(without(*path), tmp_path), rf"segmentation/table/{TABLE}: .* lacks key '{path[-1]}'"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            setting({"supported_api_versions": [0]}, "app"),
            r"supports API versions \[0\]: expected 1 among",
        ),
        (setting(True, "graph", "ocdbt_seg"), "keeps its supervoxels in an OCDBT fork"),
        (
            setting({"driver": "ocdbt"}, "graph", "ocdbt_kvstore_spec"),
            "keeps its supervoxels in an OCDBT fork",
        ),
        (setting(2, "graph", "cv_mip"), r"cannot open .* mip 2: expected the index of a scale, 0 to 0"),
        (
            setting([64, 64], "graph", "chunk_size"),
            "expected the info of a PyChunkedGraph: not enough values",
        ),
        (setting({"1": 60, "2": 60}, "graph", "spatial_bit_masks"), "60 bits per axis does not fit"),
    ],
)
def test_infos_that_are_refused(served: Served, tmp_path: Path, change: Any, message: str) -> None:
    refuses(served.dataset(change, tmp_path), message)


def test_a_server_and_a_table_that_contradict_each_other(
    served: Served, tmp_path: Path, emulator: Emulator
) -> None:
    """Check a table with another chunk size, and one made from another mip."""
    table = meta_table()
    message = r"chunk_size: graphene://\S+ has \[64, 64, 32\], but bigtable://\S+ has \[32, 32, 32\]"
    refuses(served.dataset(lambda info: info, tmp_path, graph=table), message)
    other = meta_table(mip=1)
    refuses(
        served.dataset(lambda info: info, tmp_path, graph=other),
        r"mip 0 of graphene://\S+ is read, but bigtable://\S+ was made from mip 1",
    )


def test_a_flat_data_set_needs_no_api(served: Served, tmp_path: Path) -> None:
    """With ``graph="flat"``, any API version of the server is accepted, but an OCDBT fork is refused."""
    dataset = served.dataset(setting({"supported_api_versions": [0]}, "app"), tmp_path, graph="flat")
    labels = read_whole(open_volume(dataset), CHUNK, read_geometry(dataset)).labels
    assert np.count_nonzero(labels)
    fork = served.dataset(setting(True, "graph", "ocdbt_seg"), tmp_path, graph="flat")
    with pytest.raises(ConfigError, match="OCDBT fork"):
        open_volume(fork)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("graphene://https://h/segmentation/1.0/t/", "graphene://https://h/segmentation/api/v1/t"),
        ("graphene://https://h:1/segmentation/table/t?x=1", "graphene://https://h:1/segmentation/api/v1/t"),
        ("graphene://middleauth+https://h/a/api/v1/table/t", "graphene://https://h/a/api/v1/t"),
        ("graphene://https://h/segmentation/api/v1/table", "graphene://https://h/segmentation/api/v1/table"),
        ("graphene://https://h/else/where", "graphene://https://h/else/where"),
        ("graphene://h/segmentation/table/t", "graphene://h/segmentation/table/t"),
    ],
)
def test_the_path_that_cloud_volume_opens(path: str, asked: str) -> None:
    assert cloudpath(path) == asked


@pytest.mark.parametrize(
    "path", ["graphene://https://127.0.0.1:9/else/where", "graphene://h/segmentation/table/t"]
)
def test_paths_that_are_no_graph(path: str) -> None:
    dataset = Dataset(name="d", cv_path=path, l2cache_id="l2", graph="graphene", store="sqlite:///no/db")
    with pytest.raises(L2FeaturesError, match=f"cannot open {re.escape(path)}"):
        open_volume(dataset)
