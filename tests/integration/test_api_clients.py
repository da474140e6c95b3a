"""Tests of the genuine clients, unchanged, with our server over each kind of table."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caveclient import CAVEclient

from l2features.core.ids import Ids
from l2features.core.schema import NAMES
from l2features.store.base import Meta, open_store
from l2features.testing.cave_deployment import CaveDeployment
from l2features.testing.server import Server
from l2features.testing.stores import STORE_URL
from tests.support.api_clients import DATASTACK, TABLE
from tests.support.jobs import Recordings
from tests.support.recordings import ingest

RESOLUTION, OFFSET, CHUNK_SIZE = (16, 16, 40), (1024, 512, 20), (64, 64, 32)
UNKNOWN = 144115188075860872
MOST_TIES = 3


def copied_to_sqlite(folder: Path, ids: Ids) -> dict[str, str]:
    genuine = open_store(STORE_URL, "l2cache_fixture").read(ids)
    url = f"sqlite://{folder}/l2cache.db"
    store = open_store(url, "l2cache_fixture")
    store.create(Meta(TABLE, "graphene://", "2026-01-01 00:00:00"))
    store.write(genuine.features[genuine.found])
    store.close()
    return {"store": url, "l2cache_id": "l2cache_fixture"}


@pytest.fixture(scope="module")
def expected(recordings: Recordings) -> dict[int, dict[str, Any]]:
    features = recordings.json("features.json")["features"]
    return {int(i): values for i, values in features.items() if values["valid_at_t0"]}


@pytest.fixture(scope="module", params=["recorded table", "sqlite", "our batch"])
def client(
    request: pytest.FixtureRequest,
    recordings: Recordings,
    expected: dict[int, dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[CAVEclient]:
    folder = tmp_path_factory.mktemp("clients")
    cv_path = recordings.cv_path(TABLE)
    if request.param == "sqlite":
        keys = copied_to_sqlite(folder, np.array(sorted(expected), dtype=np.uint64))
    elif request.param == "our batch":
        keys = {"store": STORE_URL, "l2cache_id": ingest(folder, recordings, TABLE, "graphene").name}
    else:
        keys = {"store": STORE_URL, "l2cache_id": "l2cache_fixture"}
    config = folder / "served.yml"
    config.write_text(json.dumps({TABLE: {"cv_path": cv_path, **keys}}))
    with Server(config) as server:
        deployment = CaveDeployment(DATASTACK, server.url, cv_path, RESOLUTION)
        token = "0123456789abcdef" * 2
        yield CAVEclient(DATASTACK, server_address=deployment.url, auth_token=token, write_server_cache=False)
        deployment.stop()


@pytest.fixture(scope="module")
def positions(client: CAVEclient, expected: dict[int, dict[str, Any]]) -> dict[int, list[float]]:
    """Return positions in nm, as recorded. In our ingest, up to `MOST_TIES` differ, because voxels tie."""
    data = client.l2cache.get_l2data(sorted(expected), attributes=["rep_coord_nm"])
    found = {int(node): values["rep_coord_nm"] for node, values in data.items()}
    other = [node for node, values in expected.items() if found[node] != position(node, values)]
    assert len(other) <= (
        MOST_TIES if "l2_fixture" in client.l2cache.table_mapping()[TABLE]["l2cache_id"] else 0
    )
    return found


def position(node: int, values: dict[str, Any]) -> list[float]:
    """Return a recorded position as nm coordinates."""
    chunk = [node >> shift & 1023 for shift in (46, 36, 26)]
    return [
        (o + c * s + at) * nm
        for o, c, s, at, nm in zip(OFFSET, chunk, CHUNK_SIZE, values["rep_coord_nm"], RESOLUTION, strict=True)
    ]


def test_caveclient_get_l2data(
    client: CAVEclient, expected: dict[int, dict[str, Any]], positions: dict[int, list[float]]
) -> None:
    data = client.l2cache.get_l2data(np.array(sorted(expected), dtype=np.uint64))
    assert [int(i) for i in data] == sorted(expected)
    for node, values in expected.items():
        got = data[str(node)]
        assert list(got) == sorted(got)
        assert set(NAMES) - set(got) == (set() if values["pca_val"] else {"pca", "pca_val"})
        assert got["size_nm3"] == values["size_nm3"] * 10_240
        assert got["rep_coord_nm"] == positions[node]
        for name in ("area_nm2", "max_dt_nm", "mean_dt_nm", "chunk_intersect_count"):
            assert got[name] == values[name], name
        if values["pca_val"]:
            np.testing.assert_allclose(got["pca_val"], values["pca_val"], rtol=0.05, atol=0.01)


def test_caveclient_ids_it_does_not_know(client: CAVEclient, expected: dict[int, dict[str, Any]]) -> None:
    node = min(expected)
    data = client.l2cache.get_l2data([UNKNOWN, node, node], attributes=["size_nm3"])
    assert data == {str(node): {"size_nm3": expected[node]["size_nm3"] * 10_240}, str(UNKNOWN): {}}


def test_caveclient_get_l2data_table(
    client: CAVEclient, expected: dict[int, dict[str, Any]], positions: dict[int, list[float]]
) -> None:
    table = client.l2cache.get_l2data_table(sorted(expected))
    assert table.index.tolist() == sorted(expected)
    sizes = [expected[node]["size_nm3"] * 10_240 for node in sorted(expected)]
    assert table["size_nm3"].tolist() == sizes
    corners = [positions[node] for node in sorted(expected)]
    assert table[[f"rep_coord_nm_{axis}" for axis in "xyz"]].to_numpy().tolist() == corners


def test_caveclient_attributes_and_tables(client: CAVEclient) -> None:
    assert sorted(client.l2cache.attributes) == sorted(NAMES)
    assert list(client.l2cache.table_mapping()) == [TABLE]
    assert client.l2cache.has_cache()


def test_pcg_skel(
    client: CAVEclient,
    expected: dict[int, dict[str, Any]],
    positions: dict[int, list[float]],
    recordings: Recordings,
) -> None:
    from cloudvolume import CloudVolume
    from pcg_skel import features, pcg_skel
    from pcg_skel.chunk_cache import check_l2cache, get_locs_remote

    nodes = sorted(expected)
    check_l2cache.cache.clear()
    places, cached = get_locs_remote([*nodes, UNKNOWN], client)
    assert cached.tolist() == [True] * len(nodes) + [False]
    assert places.tolist() == [positions[node] for node in nodes]

    chain = np.array(list(itertools.pairwise(nodes)), dtype=np.int64)
    volume = CloudVolume(recordings.cv_path(TABLE), use_https=False, progress=False)
    neuron = pcg_skel.pcg_meshwork(1, client=client, cv=volume, level2_graph=chain, require_complete=True)
    features.add_volumetric_properties(neuron, client)
    properties = neuron.anno.vol_prop.df
    wanted = {node: expected[node] for node in neuron.anno.lvl2_ids.df["lvl2_id"].tolist()}
    assert len(wanted) == len(nodes)
    assert sorted(properties["size_nm3"].tolist()) == sorted(v["size_nm3"] * 10_240 for v in wanted.values())
    assert sorted(properties["area_nm2"].tolist()) == sorted(v["area_nm2"] for v in wanted.values())
