"""Tests of the routes of chunks and bounds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
import pytest

from l2features.core.errors import ReadTimeout
from l2features.core.ids import Ids
from l2features.query.box_lookup import RegionReader, VoxelBox
from l2features.store.base import DONE, FAILED, ChunkRecord
from tests.support.known_roots import GEOMETRY, random_roots
from tests.support.neuron_api import ARROW, NeuronApi, neuron_api

ROOTS = random_roots((200,))
NODES: Ids = ROOTS[next(iter(ROOTS))]
CHUNKS = GEOMETRY.layout.chunk_coordinates(NODES)
TIME = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NeuronApi:
    return neuron_api(tmp_path, monkeypatch, ROOTS, max_chunks=500, max_ids=150)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NeuronApi]:
    """Yield a server shared by the tests that change nothing."""
    with pytest.MonkeyPatch.context() as patch:
        yield neuron_api(tmp_path_factory.mktemp("api"), patch, ROOTS, max_chunks=500, max_ids=150)


def record(api: NeuronApi, xyz: Any, state: str = DONE, reason: str = "") -> None:
    chunk_id = GEOMETRY.layout.chunk_id(*xyz)
    api.store.put_chunk(ChunkRecord(chunk_id, state, TIME, reason=reason))


def features(api: NeuronApi, ids: Ids) -> Any:
    return api.post("attributes", json={"l2_ids": ids[:150].tolist()}).json


def test_bounds_that_take_long_are_too_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the time limit of the request, and that of its read."""
    slow = neuron_api(tmp_path, monkeypatch, ROOTS, max_chunks=500, root_timeout_s=0.2)
    scan = type(slow.store).scan_chunk

    def scan_slowly(*arguments: Any) -> Any:
        time.sleep(0.15)
        return scan(*arguments)

    monkeypatch.setattr(type(slow.store), "scan_chunk", scan_slowly)
    answers = [slow.get("nodes?bounds=0-640_0-640_0-32") for _ in range(3)]
    assert [(one.status_code, one.json["code"]) for one in answers] == [(503, "too_slow")] * 3
    entry = slow.client.application.extensions["l2cache"].datasets["sample"].entry
    box, reader = VoxelBox.parse("0-64_0-64_0-32"), RegionReader(slow.store, entry, GEOMETRY, 100)
    with pytest.raises(ReadTimeout, match="not all chunks were read in time"):
        reader.box(box, until=time.monotonic() - 1)


def test_nodes_of_a_chunk(api: NeuronApi) -> None:
    xyz = CHUNKS[0].tolist()
    inside = NODES[(xyz == CHUNKS).all(axis=1)]
    place = "_".join(map(str, xyz))
    found = api.get(f"chunk/{place}/nodes")
    assert found.status_code == 200
    assert found.json == features(api, inside)
    table = pa.ipc.open_stream(api.get(f"chunk/{place}/nodes", Accept=ARROW).data).read_all()
    assert table.column("id").to_pylist() == inside.tolist()
    assert set(table.column("status").to_pylist()) <= {"ready", "empty"}
    only = api.get(f"chunk/{place}/nodes?attribute_names=max_dt_nm&with_status=true").json
    assert {name for node in only.values() for name in node} <= {"max_dt_nm", "status"}


def test_nodes_in_bounds_are_those_whose_coordinate_lies_inside(api: NeuronApi) -> None:
    known = api.store.read(NODES)
    voxels = GEOMETRY.origins(CHUNKS) + known.features["rep_coord_nm"]
    computed = ~known.not_computed
    rng, counts = np.random.default_rng(3), []
    for _ in range(8):
        start = rng.integers(-50, 400, 3)
        stop = start + rng.integers(100, 400, 3)
        bounds = "_".join(f"{a}-{b}" for a, b in zip(start, stop, strict=True))
        inside = ((voxels >= start) & (voxels < stop)).all(axis=1) & computed
        found = api.get(f"nodes?bounds={bounds}&partial=true")
        if inside.sum() > 150:
            assert (found.status_code, found.json["value"]) == (413, str(inside.sum()))
        else:
            assert found.json == features(api, NODES[inside])
        counts.append(inside.sum())
    assert max(counts) > 10


def test_bounds_end_before_their_end(api: NeuronApi) -> None:
    place = int(np.flatnonzero(~api.store.read(NODES).not_computed)[0])
    x, y, z = (
        GEOMETRY.origins(CHUNKS[place : place + 1])[0] + api.store.read(NODES).features["rep_coord_nm"][place]
    )
    for dx, expected in ((0, 1), (1, 0), (-1, 0)):
        one = api.get(f"nodes?bounds={x + dx}-{x + dx + 1}_{y}-{y + 1}_{z}-{z + 1}&partial=1").json
        assert (str(NODES[place]) in one) == expected


def test_a_request_is_never_shortened(
    api: NeuronApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = "0-640_0-640_0-320"
    computed = int((~api.store.read(NODES).not_computed).sum())
    few = neuron_api(tmp_path, monkeypatch, ROOTS, max_chunks=1000, max_ids=150)
    answer = few.get(f"nodes?bounds={whole}&partial=true")
    assert (answer.status_code, answer.json["code"]) == (413, "too_many_nodes")
    assert (answer.json["value"], answer.json["limit"]) == (str(computed), 150)
    answer = api.get(f"nodes?bounds={whole}")
    assert (answer.status_code, answer.json["code"]) == (413, "too_many_chunks")
    assert (answer.json["value"], answer.json["limit"], answer.json["field"]) == ("1000", 500, "bounds")
    huge = "-999999999999999999-999999999999999999"
    assert api.get(f"nodes?bounds={huge}_{huge}_{huge}").json["value"] == "1000"


def test_chunks_that_are_not_ingested(api: NeuronApi) -> None:
    empty = next(xyz for xyz in np.ndindex(*GEOMETRY.grid) if not np.equal(xyz, CHUNKS).all(axis=1).any())
    place, x = "_".join(map(str, empty)), GEOMETRY.origins([empty])[0]
    bounds = "_".join(f"{a}-{a + 1}" for a in x)
    for path in (f"chunk/{place}/nodes?", f"nodes?bounds={bounds}&"):
        answer = api.get(path)
        assert (answer.status_code, answer.json["code"]) == (404, "chunk_not_computed")
        assert "is not ingested" in answer.json["message"]
        assert api.get(f"{path}partial=true").json == {}
    record(api, empty, FAILED, "no file")
    assert "no file" in api.get(f"chunk/{place}/nodes").json["message"]
    record(api, empty)
    for path in (f"chunk/{place}/nodes", f"nodes?bounds={bounds}"):
        assert api.get(path).json == {}


def test_bounds_outside_the_volume_have_no_node(unchanged: NeuronApi) -> None:
    for bounds in ("640-900_0-10_0-10", "-50--10_0-10_0-10"):
        answer = unchanged.get(f"nodes?bounds={bounds}")
        assert (answer.status_code, answer.json) == (200, {})


@pytest.mark.parametrize(
    "bounds",
    [
        *("", "0-1_0-1", "0-1_0-1_0-1_0-1", "1-0_0-1_0-1", "0-0_0-1_0-1", "a-b_0-1_0-1", "0.5-1_0-1_0-1"),
        *("0-1,0-1,0-1", "0-1_0-1_0-" + "9" * 30, "0-1_0-1_0-1\n", "\u0660-1_0-1_0-1"),
    ],
)
def test_malformed_bounds(unchanged: NeuronApi, bounds: str) -> None:
    answer = unchanged.get(f"nodes?{urlencode({'bounds': bounds})}")
    assert (answer.status_code, answer.json["code"]) == (422, "invalid_parameter")
    assert answer.json["field"] == "bounds"
    assert answer.json["message"].startswith(f"bounds={bounds!r}: expected three ranges of voxels")


def test_missing_bounds(unchanged: NeuronApi) -> None:
    answer = unchanged.get("nodes")
    assert (answer.status_code, answer.json["code"], answer.json["field"]) == (
        422,
        "missing_parameter",
        "bounds",
    )


@pytest.mark.parametrize(
    "chunk", ["1_2", "1_2_3_4", "-1_0_0", "a_b_c", "1.5_0_0", "1,2,3", "1_2_\u0663", "9" * 20]
)
def test_malformed_chunks(unchanged: NeuronApi, chunk: str) -> None:
    answer = unchanged.get(f"chunk/{chunk}/nodes")
    assert (answer.status_code, answer.json["field"]) == (422, "chunk")


@pytest.mark.parametrize("chunk", ["10_0_0", "999999999_0_0", "0_0_10"])
def test_chunks_outside_the_grid(unchanged: NeuronApi, chunk: str) -> None:
    answer = unchanged.get(f"chunk/{chunk}/nodes")
    assert (answer.status_code, answer.json["code"], answer.json["field"]) == (404, "unknown_chunk", "chunk")


def test_unknown_attributes(unchanged: NeuronApi) -> None:
    for path in ("nodes?bounds=0-1_0-1_0-1&", "chunk/0_0_0/nodes?"):
        answer = unchanged.get(f"{path}attribute_names=color")
        assert (answer.status_code, answer.json["field"]) == (422, "attribute_names")
