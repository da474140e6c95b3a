"""Tests of the genuine fafbseg, FlyWire's client, with neurons that have missing or empty nodes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caveclient import CAVEclient

from l2features.config.datasets import load_dataset
from l2features.store.base import open_store
from l2features.testing.cave_deployment import CaveDeployment
from l2features.testing.reference import served
from l2features.testing.server import Server
from l2features.testing.small_table import DATASET, EMPTY, GEOMETRY, node_ids, small_table
from l2features.testing.stores import STORE_URL

DATASTACK = "flywire_fafb_public"
RESOLUTION = (4, 4, 40)
ALL = node_ids().tolist()
MARKED, READY = ALL[::EMPTY], [node for i, node in enumerate(ALL) if i % EMPTY]
MISSING = [ALL[-1] + 1, ALL[-1] + 2]
ROOTS = {
    "with all": [*READY[:10], *MARKED[:3], *MISSING],
    "with nothing": [*MARKED[:2], *MISSING],
    "with one node": [MARKED[0], READY[0], MISSING[0]],
    "whole": READY[10:20],
}
"""L2 ids of neurons with ready, empty and missing nodes."""
IDS = {name: (7 << 56) + i for i, name in enumerate(ROOTS, 1)}


@pytest.fixture(scope="module", params=["sqlite", "bigtable"])
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data sets file of a table with empty nodes, in each kind of store."""
    config = small_table(tmp_path_factory.mktemp("fafbseg"))
    if request.param == "bigtable":
        request.getfixturevalue("emulator")
        copy_to_bigtable(config)
    return config


def copy_to_bigtable(config: Path) -> None:
    dataset = load_dataset(DATASET, config)
    source = open_store(dataset.store, dataset.l2cache_id)
    copy = open_store(STORE_URL, f"l2_fafbseg_{os.getpid()}")
    meta = source.meta()
    assert meta
    copy.create(meta)
    copy.write(source.read(node_ids()).features)
    entries = json.loads(config.read_text())
    entries[DATASET] |= {"store": STORE_URL, "l2cache_id": copy.name}
    config.write_text(json.dumps(entries))
    source.close()
    copy.close()


@pytest.fixture(scope="module")
def values(config: Path) -> dict[int, dict[str, Any]]:
    """Return the served values of each node that is neither missing nor empty."""
    dataset = load_dataset(DATASET, config)
    store = open_store(dataset.store, dataset.l2cache_id)
    rows = store.read(np.array(READY, dtype=np.uint64))
    store.close()
    return dict(zip(rows.ids.tolist(), served(rows, GEOMETRY), strict=True))


@pytest.fixture(scope="module")
def flywire(config: Path) -> Iterator[Any]:
    """Yield fafbseg's module, whose client connects to our server, not CAVE's."""
    from fafbseg import flywire

    neurons = {IDS[name]: nodes for name, nodes in ROOTS.items()}
    with Server(config) as server, pytest.MonkeyPatch.context() as patch:
        cv_path = f"graphene://https://nowhere/segmentation/table/{DATASET}"
        deployment = CaveDeployment(DATASTACK, server.url, cv_path, RESOLUTION, neurons)
        ours = partial(CAVEclient, server_address=deployment.url, write_server_cache=False)
        patch.setattr("fafbseg.flywire.utils.CAVEclient", ours)
        patch.setattr("fafbseg.flywire.utils.cave_clients", {})
        yield flywire
        assert any(path.endswith("/leaves") for path in deployment.asked)
        deployment.stop()


def ready_of(name: str) -> list[int]:
    return [node for node in ROOTS[name] if node in READY]


def voxel(position: list[float]) -> list[int]:
    return [int(at // step) for at, step in zip(position, RESOLUTION, strict=True)]


@pytest.mark.parametrize("name", ROOTS)
def test_get_l2_info(flywire: Any, values: dict[int, dict[str, Any]], name: str) -> None:
    info = flywire.get_l2_info(IDS[name], progress=False).iloc[0]
    ready = [values[node] for node in ready_of(name)]
    assert info["root_id"] == IDS[name]
    assert info["l2_chunks"] == len(ROOTS[name])
    assert info["chunks_missing"] == len(ROOTS[name]) - len(ready)
    assert info["size_um3"] == pytest.approx(sum(v["size_nm3"] for v in ready) / 1e9)
    assert info["area_um2"] == pytest.approx(sum(v["area_nm2"] for v in ready) / 1e6)
    assert info["length_um"] == pytest.approx(sum(v["max_dt_nm"] for v in ready) / 1e3)
    assert (info["bounds_nm"] is None) == (not ready)


def test_get_l2_info_of_several_neurons(flywire: Any) -> None:
    info = flywire.get_l2_info(list(IDS.values()), progress=False)
    assert info["root_id"].tolist() == sorted(IDS.values())
    assert info["chunks_missing"].tolist() == [len(ROOTS[name]) - len(ready_of(name)) for name in ROOTS]


@pytest.mark.parametrize("name", ROOTS)
def test_get_l2_chunk_info(flywire: Any, values: dict[int, dict[str, Any]], name: str) -> None:
    info = flywire.l2.get_l2_chunk_info(np.array(ROOTS[name]), progress=False)
    ready = sorted(ready_of(name))
    assert [int(node) for node in info["id"]] == ready
    assert info["size_nm3"].tolist() == [values[node]["size_nm3"] for node in ready]
    assert info[["x", "y", "z"]].to_numpy().tolist() == [voxel(values[n]["rep_coord_nm"]) for n in ready]
    axes = [values[node].get("pca", [[None] * 3])[0] for node in ready]
    assert info[["vec_x", "vec_y", "vec_z"]].to_numpy().tolist() == axes


@pytest.mark.parametrize("name", ROOTS)
def test_find_anchor_loc(flywire: Any, values: dict[int, dict[str, Any]], name: str) -> None:
    found = flywire.find_anchor_loc(IDS[name], progress=False).iloc[0]
    ready = ready_of(name)
    largest = max((values[node]["size_nm3"] for node in ready), default=0)
    places = [voxel(values[node]["rep_coord_nm"]) for node in ready if values[node]["size_nm3"] == largest]
    assert found["root_id"] == IDS[name]
    place = [found["x"], found["y"], found["z"]]
    assert place in places if ready else place == [None] * 3


def test_dotprops_have_the_nodes_with_axes(flywire: Any, values: dict[int, dict[str, Any]]) -> None:
    neuron = flywire.get_l2_dotprops(IDS["with all"], min_size=1, progress=False)[0]
    with_axes = [values[node]["rep_coord_nm"] for node in ready_of("with all") if "pca" in values[node]]
    assert sorted(neuron.points.tolist()) == sorted(with_axes)


def test_get_l2_graph(flywire: Any) -> None:
    graph = flywire.get_l2_graph(IDS["with all"], progress=False)
    assert set(graph.nodes) == set(ROOTS["with all"])
