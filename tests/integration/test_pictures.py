"""Tests of Neuroglancer layers of L2 nodes, over HTTP: each node once, with its values and root."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tensorstore
from cloudvolume import Skeleton, from_cloudpath

from l2features.core.geometry import Chunk, Geometry
from l2features.core.ids import Ids, as_ids
from l2features.core.rows import Rows
from l2features.pictures.node_layers import NODE_LAYERS, PROPERTIES
from l2features.store.base import DONE, ChunkRecord, Meta, Store, node_segments
from l2features.testing.emulators import Emulator
from l2features.testing.reference import served
from l2features.testing.server import Server
from l2features.testing.stores import INSTANCE, PROJECT, chunk_rows, open_table
from tests.support.graph_roots import GEOMETRY, features_of_recording, roots_of_recording
from tests.support.jobs import Recordings, dataset_file, own_copy
from tests.support.precomputed_reader import Decoder


@dataclass
class Layers:
    """The layers' URL and geometry, their nodes' rows, each root's nodes, and each node's current root."""

    url: str
    geometry: Geometry
    rows: Rows
    roots: dict[int, list[int]]
    root_now: dict[int, int]

    def get(self, path: str) -> requests.Response:
        answer = requests.get(f"{self.url}/{path}", timeout=60)
        answer.raise_for_status()
        return answer

    def source(self, layer: str) -> Any:
        return from_cloudpath(f"precomputed://{self.url}/{layer}", progress=False)

    def drawn(self, layer: str) -> dict[int, np.ndarray]:
        """Return the expected annotation of each node that the layer can draw."""
        records, ids = NODE_LAYERS[layer].records(self.rows, self.geometry)
        return dict(zip(ids.tolist(), records, strict=True))


@pytest.fixture(scope="module")
def recorded(
    recordings: Recordings, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Layers]:
    """Serve the recorded graph, with the features of superseded nodes too."""
    config = dataset_file(
        tmp_path_factory.mktemp("recorded"),
        recordings.cv_path("fixture_v2"),
        graph=f"bigtable://{PROJECT}/{INSTANCE}/fixture_v2",
        chunk_size=None,
    )
    features = features_of_recording(recordings)
    with closing(open_table(config)) as store:
        store.create(Meta("fixture_v2", "", "2026-11-21 00:27:44", GEOMETRY))
        store.write(features)
        put_records(store, features["label"])
        rows = store.read(features["label"])
    recording = recordings.json("roots.json")
    now = {int(node): root for node, root in recording["l2_to_root"]["t1"].items()}
    roots = {root: sorted(entry["l2_ids"]) for root, entry in roots_of_recording(recordings).items()}
    with Server(config, emulator.environment()) as server:
        yield Layers(f"{server.api}/table/sample/precomputed", GEOMETRY, rows, roots, now)


def put_records(store: Store, ids: Ids) -> None:
    chunks, counts = np.unique(GEOMETRY.layout.chunk_ids(ids), return_counts=True)
    for chunk, count in zip(chunks.tolist(), counts.tolist(), strict=True):
        store.put_chunk(ChunkRecord(chunk, DONE, datetime.now(UTC), count))


@pytest.fixture(scope="module")
def sampled(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layers]:
    """Serve the sample, which has no graph: its roots are its segments."""
    config = own_copy(undisturbed, tmp_path_factory.mktemp("sampled"))
    with closing(open_table(config)) as store:
        geometry = store.geometry()
        assert geometry
        parts = [chunk_rows(store, Chunk(*xyz)) for xyz in np.ndindex(*geometry.grid)]
        rows = Rows(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("features", "present")))
        segments = node_segments(store, geometry.layout, rows.ids)
    roots: dict[int, list[int]] = {}
    for node, segment in zip(rows.ids.tolist(), segments.tolist(), strict=True):
        roots.setdefault(segment, []).append(node)
    now = dict(zip(rows.ids.tolist(), segments.tolist(), strict=True))
    with Server(config) as server:
        yield Layers(f"{server.api}/table/sample/precomputed", geometry, rows, roots, now)


@pytest.fixture(params=["recorded", "sampled"])
def layers(request: pytest.FixtureRequest) -> Layers:
    found: Layers = request.getfixturevalue(request.param)
    return found


def is_drawn(found: Any, drawn: dict[int, np.ndarray]) -> bool:
    """Return whether cloud-volume read each node's expected coordinates and properties, byte for byte."""
    expected = np.array([drawn[node] for node in found.ids.tolist()])
    columns = {"coordinates": found.geometry, **found.properties}
    assert set(columns) == {"coordinates", *(p.name for p in PROPERTIES)}
    return all(expected[name].tobytes() == values.tobytes() for name, values in columns.items())


def test_cloud_volume_reads_every_valid_node_once(layers: Layers) -> None:
    source, drawn = layers.source("nodes"), layers.drawn("nodes")
    found = source.get_by_bbox(source.meta.bounds)
    expected = {node for node in drawn if node in layers.root_now}
    assert len(expected) > 20
    assert sorted(found.ids.tolist()) == sorted(expected)
    assert is_drawn(found, drawn)


@pytest.mark.parametrize("layer", ["nodes", "axes"])
def test_every_valid_node_is_in_one_cell(layers: Layers, layer: str) -> None:
    """Decode the layers ourselves: cloud-volume 12.15 cannot read layer ``axes``, which draws lines."""
    decoder, drawn = Decoder(layers.get(f"{layer}/info").json()), layers.drawn(layer)
    (level,) = decoder.info["spatial"]
    found: list[int] = []
    for cell in np.ndindex(*level["grid_shape"]):
        body = layers.get(f"{layer}/{level['key']}/{'_'.join(map(str, cell))}").content
        nodes = list(decoder.listed(body))
        assert body[8 : -8 * len(nodes) or None] == b"".join(drawn[node].tobytes() for node in nodes)
        found += nodes
    assert sorted(found) == sorted(node for node in drawn if node in layers.root_now)


def test_the_values_are_those_of_the_rows(layers: Layers) -> None:
    """Compare with the reference values, not with our library's records."""
    decoder = Decoder(layers.get("nodes/info").json())
    values = dict(zip(layers.rows.ids.tolist(), served(layers.rows, layers.geometry), strict=True))
    (level,) = decoder.info["spatial"]
    largest, seen = 0, 0
    for cell in np.ndindex(*level["grid_shape"]):
        listed = decoder.listed(layers.get(f"nodes/{level['key']}/{'_'.join(map(str, cell))}").content)
        largest, seen = max(largest, len(listed)), seen + len(listed)
        lower = np.add(decoder.info["lower_bound"], np.multiply(cell, level["chunk_size"]))
        for node, one in listed.items():
            assert one.points == [tuple(values[node]["rep_coord_nm"])]
            inside = np.subtract(one.points[0], lower)
            assert ((inside >= 0) & (inside < level["chunk_size"])).all()
            assert one.properties["size_um3"] == np.float32(values[node]["size_nm3"] * 1e-9)
            assert one.properties["max_dt_nm"] == values[node]["max_dt_nm"]
    assert seen > 20
    _, counts = np.unique(layers.geometry.layout.chunk_ids(layers.rows.ids), return_counts=True)
    assert largest <= level["limit"] == counts.max()


def test_every_root_is_related_to_its_nodes(layers: Layers) -> None:
    """Check retired roots too."""
    drawn = layers.drawn("nodes")
    found = layers.source("nodes").get_by_relationship("root", list(layers.roots))
    assert set(found) == set(layers.roots)
    for root, nodes in found.items():
        assert nodes.ids.tolist() == [node for node in layers.roots[root] if node in drawn]
        assert is_drawn(nodes, drawn)


def test_every_root_is_related_to_its_axes(layers: Layers) -> None:
    decoder, drawn = Decoder(layers.get("axes/info").json()), layers.drawn("axes")
    for root, nodes in layers.roots.items():
        listed = decoder.listed(layers.get(f"axes/rel_root/{root}").content)
        assert list(listed) == [node for node in nodes if node in drawn]


def test_every_node_is_found_by_its_id_with_its_root_now(layers: Layers) -> None:
    drawn = layers.drawn("nodes")
    found = layers.source("nodes").get_by_id(list(drawn))
    assert set(found) == set(drawn)
    for node, one in found.items():
        root = layers.root_now.get(node)
        assert one.relationships["rel_root"].tolist() == ([root] if root else [])


def test_skeletons_are_those_of_the_roots(layers: Layers) -> None:
    info = layers.get("skeletons/info").json()
    largest = max(layers.roots, key=lambda root: len(layers.roots[root]))
    smallest = min(layers.roots, key=lambda root: len(layers.roots[root]))
    for root in (largest, smallest):
        body = layers.get(f"skeletons/{root}").content
        skeleton = Skeleton.from_precomputed(body, segid=root, vertex_attributes=info["vertex_attributes"])
        expected: Any = requests.get(
            f"{layers.url.removesuffix('precomputed')}root/{root}/skeleton", timeout=60
        ).json()
        assert np.allclose(skeleton.vertices, expected["vertices"])
        assert skeleton.edges.tolist() == expected["edges"]
        at = np.searchsorted(layers.rows.ids, as_ids(expected["l2_ids"]))
        assert skeleton.max_dt_nm.tolist() == layers.rows.features["max_dt_nm"][at].tolist()


def test_segments_sort_by_their_measures(layers: Layers) -> None:
    roots = list(layers.roots)[:20]
    info = layers.get(f"segment_properties/{','.join(map(str, roots))}/info").json()
    columns = {column["id"]: column["values"] for column in info["inline"]["properties"]}
    assert info["inline"]["ids"] == [str(root) for root in sorted(roots)]
    assert columns["n_nodes"] == [len(layers.roots[root]) for root in sorted(roots)]
    assert set(columns["n_missing"]) == {0}


@pytest.mark.parametrize("layer", ["nodes", "axes"])
def test_tensorstore_reads_every_node_by_its_cell_its_id_and_its_root(layers: Layers, layer: str) -> None:
    store = tensorstore.KvStore.open({"driver": "http", "base_url": f"{layers.url}/{layer}/"}).result()
    decoder, drawn = Decoder(json.loads(store.read("info").result().value)), layers.drawn(layer)
    expected = {node: decoder.annotation(record.tobytes()) for node, record in drawn.items()}
    (level,) = decoder.info["spatial"]
    cells = [store.read(f"{level['key']}/{x}_{y}_{z}") for x, y, z in np.ndindex(*level["grid_shape"])]
    found = [item for cell in cells for item in decoder.listed(cell.result().value).items()]
    valid = {node: one for node, one in expected.items() if node in layers.root_now}
    assert sorted(found) == sorted(valid.items())
    for node, one in expected.items():
        root = layers.root_now.get(node)
        related = {"root": [root] if root else []}
        assert decoder.by_id(store.read(f"by_id/{node}").result().value) == one._replace(related=related)
    for root, nodes in layers.roots.items():
        listed = decoder.listed(store.read(f"rel_root/{root}").result().value)
        assert listed == {node: expected[node] for node in nodes if node in drawn}
    unknown = int(layers.rows.ids.max()) + 1
    assert store.read(f"by_id/{unknown}").result().state == "missing"


def test_a_root_that_is_missing_is_no_data(recorded: Layers) -> None:
    for path in ("nodes/rel_root", "axes/rel_root", "skeletons"):
        assert requests.get(f"{recorded.url}/{path}/{(4 << 56) + 999_999}", timeout=60).status_code == 404
