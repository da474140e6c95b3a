"""Tests of the bytes of Neuroglancer layers: records, lists and skeletons, decoded value by value."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from l2features.core.ids import as_ids
from l2features.core.rows import Rows
from l2features.core.schema import FEATURES, NAMES
from l2features.neurons.neuron_summary import GRAPH_SUMMARIES
from l2features.neurons.node_graph import NeuronGraph
from l2features.neurons.skeleton import skeletonize
from l2features.pictures.annotations import (
    AnnotationLayer,
    Property,
    annotation_list,
    hashes,
    larger_first,
    one_annotation,
    scattered,
)
from l2features.pictures.node_layers import NODE_LAYERS, ROOT
from l2features.pictures.segment_list import segment_list
from l2features.pictures.skeleton_layer import skeleton_bytes, skeleton_info
from l2features.query.reader import Status
from l2features.testing.reference import served
from tests.support.known_roots import GEOMETRY, chain, features_in_chunks, random_roots
from tests.support.precomputed_reader import Decoder, decode_skeleton

ROOTS = random_roots((200,))
((FIRST, IDS),) = ROOTS.items()
NODES, AXES = NODE_LAYERS["nodes"], NODE_LAYERS["axes"]


@pytest.fixture
def rows() -> Rows:
    """Return rows of which one is missing, every seventh is empty, and every third has no axes."""
    found = Rows.complete(features_in_chunks(IDS))
    found.present[10] = False
    return found


def f4(value: float) -> float:
    return float(np.float32(value))


def expected_properties(values: dict[str, Any]) -> dict[str, float]:
    faces = [count for side in values["chunk_intersect_count"] for count in side]
    return {
        "size_um3": f4(values["size_nm3"] * 1e-9),
        "area_um2": f4(values["area_nm2"] * 1e-6),
        "max_dt_nm": values["max_dt_nm"],
        "mean_dt_nm": f4(values["mean_dt_nm"]),
        "n_faces_touched": sum(count > 0 for count in faces),
    }


def test_info_leaves_nothing_out() -> None:
    info = NODES.annotations.info(GEOMETRY, [ROOT], 17)
    assert set(info) == {
        *("@type", "dimensions", "lower_bound", "upper_bound", "annotation_type"),
        *("properties", "relationships", "by_id", "spatial"),
    }
    assert [p["id"] for p in info["properties"]] == [
        *("size_um3", "area_um2", "max_dt_nm", "mean_dt_nm", "n_faces_touched")
    ]
    (level,) = info["spatial"]
    assert (level["key"], level["grid_shape"], level["limit"]) == ("chunks", [10, 10, 10], 17)
    covered = np.multiply(level["grid_shape"], level["chunk_size"]) + info["lower_bound"]
    assert (covered >= info["upper_bound"]).all()
    assert level["chunk_size"] == [64 * 16, 64 * 16, 32 * 40]
    assert NODES.annotations.info(GEOMETRY, [], 0)["spatial"][0]["limit"] == 1


@pytest.mark.parametrize(("grid", "has_overview"), [((16, 16, 16), False), ((100, 100, 50), True)])
def test_a_view_of_many_chunks_reads_none(grid: tuple[int, ...], has_overview: bool) -> None:
    """Neuroglancer wants one node per 8 x 8 pixels. It reads chunks only if the overview has fewer nodes."""
    size = tuple(np.multiply(grid, GEOMETRY.chunk_size).tolist())
    geometry = replace(GEOMETRY, voxel_size=size)
    info = NODES.annotations.info(geometry, [ROOT], 300)
    assert info["spatial"][-1]["key"] == "chunks"
    assert [level["key"] for level in info["spatial"][:-1]] == ["overview"] * has_overview
    if has_overview:
        overview, chunks = info["spatial"]
        extent = np.subtract(info["upper_bound"], info["lower_bound"])
        assert (np.multiply(overview["grid_shape"], overview["chunk_size"]) == extent).all()
        density = overview["limit"] / math.prod(overview["chunk_size"])
        for in_view, reads in ((1_000, True), (4_000, True), (4_200, False), (500_000, False)):
            wanted = 1920 * 1080 / 8**2 / (in_view * math.prod(chunks["chunk_size"]))
            assert (density < wanted) == reads


def test_nodes_have_the_values_of_their_rows(rows: Rows) -> None:
    records, ids = NODES.records(rows, GEOMETRY)
    decoder = Decoder(NODES.annotations.info(GEOMETRY, [ROOT], 1))
    found = decoder.listed(annotation_list(records, ids))
    values = dict(zip(rows.ids.tolist(), served(rows, GEOMETRY), strict=True))
    left_out = {int(IDS[10]), *IDS[6::7].tolist()}
    assert set(found) == set(IDS.tolist()) - left_out
    for node, drawn in found.items():
        assert drawn.points == [tuple(map(f4, values[node]["rep_coord_nm"]))]
        assert drawn.properties == expected_properties(values[node])


def test_axes_are_rods_along_the_first_principal_axis(rows: Rows) -> None:
    records, ids = AXES.records(rows, GEOMETRY)
    decoder = Decoder(AXES.annotations.info(GEOMETRY, [ROOT], 1))
    values = dict(zip(rows.ids.tolist(), served(rows, GEOMETRY), strict=True))
    with_axes = {node for node, known in values.items() if "pca" in known}
    assert 0 < len(with_axes) < len(values)
    found = decoder.listed(annotation_list(records, ids))
    assert set(found) == with_axes
    for node, drawn in found.items():
        one, other = map(np.array, drawn.points)
        known = values[node]
        voxels = min(known["size_nm3"] // (16 * 16 * 40), 10_000)
        deviation = known["pca_val"][0] / math.sqrt(max(voxels - 1, 1))
        span = math.sqrt(12) * deviation * np.array(known["pca"][0])
        assert (one + other) / 2 == pytest.approx(
            known["rep_coord_nm"], rel=1e-5, abs=np.abs(span).max() * 1e-6
        )
        assert other - one == pytest.approx(span, rel=1e-3, abs=1.0)
        assert drawn.properties == expected_properties(known)


def test_a_rod_is_as_long_as_its_axis() -> None:
    """Check that the line of a rod of 1 x 1 x 30 voxels is as long as the rod."""
    row = np.zeros(1, FEATURES)
    row["label"], row["size_nm3"], row["rep_coord_nm"], row["has_pca"] = 2 << 56 | 1, 30, (1, 1, 15), True
    places = (np.arange(30) - 14.5) * 40
    row["pca"][0, 0], row["pca_val"][0, 0] = (0, 0, 1), np.linalg.norm(places)
    (record,), _ = AXES.records(Rows.complete(row), GEOMETRY)
    assert record["coordinates"][5] - record["coordinates"][2] == pytest.approx(30 * 40, rel=0.02)


def test_an_absent_attribute_is_nan() -> None:
    rows = Rows.complete(features_in_chunks(IDS[:3]))
    rows.present[1, NAMES.index("mean_dt_nm")] = False
    records, _ = NODES.records(rows, GEOMETRY)
    assert np.isnan(records["mean_dt_nm"]).tolist() == [False, True, False]
    rows.present[2, NAMES.index("rep_coord_nm")] = False
    assert len(NODES.records(rows, GEOMETRY)[0]) == 2


@pytest.mark.parametrize("layer", [NODES, AXES])
def test_one_annotation_has_its_relationships(rows: Rows, layer: Any) -> None:
    records, _ = layer.records(rows, GEOMETRY)
    decoder = Decoder(layer.annotations.info(GEOMETRY, [ROOT, "other"], 1))
    body = one_annotation(records[:1], [as_ids([FIRST, 2**64 - 1]), as_ids([])])
    assert decoder.by_id(body).related == {ROOT: [FIRST, 2**64 - 1], "other": []}
    assert decoder.by_id(body)[:2] == decoder.annotation(records[:1].tobytes())[:2]


def test_records_are_aligned_to_four_bytes() -> None:
    names = ("a", "u1"), ("b", "<u2"), ("c", "<f4"), ("d", "u1")
    properties = larger_first([Property(name, np.dtype(kind), "") for name, kind in names])
    assert [p.name for p in properties] == ["c", "b", "a", "d"]
    for count, size in ((0, 12), (1, 16), (2, 20), (3, 20), (4, 20)):
        layer = AnnotationLayer("POINT", properties[:count])
        assert layer.dtype.itemsize == size
    record = np.zeros(1, AnnotationLayer("POINT", properties).dtype)
    record["coordinates"], record["c"], record["b"], record["a"], record["d"] = (1, 2, 3), 4, 5, 6, 7
    assert struct.unpack("<4fHBB", record.tobytes()) == (1, 2, 3, 4, 5, 6, 7)


def test_the_order_of_a_cell_is_random_and_repeatable() -> None:
    ids = np.arange(1, 10_001, dtype=np.uint64) + np.uint64(2 << 56)
    order = scattered(ids)
    assert sorted(order.tolist()) == list(range(10_000))
    assert ids[order].tolist() == ids[::-1][scattered(ids[::-1])].tolist()
    halves = [np.mean(order[k : k + 1000] < 5000) for k in range(0, 10_000, 1000)]
    assert all(0.42 < half < 0.58 for half in halves)
    assert hashes(as_ids([0, 1, 2**64 - 1])).tolist() == [0, 0x5692161D100B05E5, 0xB4D055FCF2CBBD7B]


@pytest.mark.parametrize("nodes", [1, 200])
def test_skeletons_have_the_values_of_their_nodes(nodes: int) -> None:
    ids = IDS[:nodes]
    rows = Rows.complete(features_in_chunks(ids))
    status = np.where(rows.not_computed, Status.EMPTY, Status.READY).astype(np.int8)
    graph = NeuronGraph.of(FIRST, ids, chain(ids), rows, status, GEOMETRY)
    skeleton, info = skeletonize(graph), skeleton_info()
    found = decode_skeleton(info, skeleton_bytes(graph))
    assert found.vertices == [tuple(map(f4, vertex)) for vertex in skeleton.vertices.tolist()]
    assert found.edges == [tuple(edge) for edge in skeleton.edges.tolist()]
    assert list(found.attributes) == ["radius", "max_dt_nm", "size", "area"]
    radius = np.nan_to_num(skeleton.segment_radius_nm.astype(np.float32))
    assert found.attributes["radius"] == tuple(radius.tolist())
    values = dict(zip(rows.ids.tolist(), served(rows, GEOMETRY), strict=True))
    for name, attribute in (("max_dt_nm", "max_dt_nm"), ("size", "size_nm3"), ("area", "area_nm2")):
        expected = [f4(values[node].get(attribute, 0)) for node in skeleton.l2_ids.tolist()]
        assert found.attributes[name] == tuple(expected)


def test_a_list_of_segments() -> None:
    summaries = np.zeros(2, GRAPH_SUMMARIES)
    summaries["size_nm3"], summaries["cable_length_nm"] = (5 * 10**12, 0), (1500, 0)
    summaries["n_nodes"], summaries["n_missing"], summaries["n_empty"] = (7, 1), (2, 0), (1, 0)
    info = segment_list(as_ids([2**64 - 1, 5]), summaries)
    assert info["@type"] == "neuroglancer_segment_properties"
    assert info["inline"]["ids"] == [str(2**64 - 1), "5"]
    columns = {column["id"]: column for column in info["inline"]["properties"]}
    assert columns["volume_um3"]["values"] == [5000.0, 0.0]
    assert columns["cable_length_um"]["values"] == [1.5, 0.0]
    assert [columns[name]["values"] for name in ("n_nodes", "n_missing", "n_empty")] == [
        [7, 1],
        [2, 0],
        [1, 0],
    ]
    assert {column["data_type"] for column in columns.values()} == {"float32", "uint32"}
