"""Tests of node ids: layers, chunk coordinates, chunk ids and row keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2features.core.ids import IdLayout, as_ids, ids_of_row_keys, row_keys

V2 = IdLayout({1: 10, 2: 10, 3: 9, 4: 8})
V1 = IdLayout({1: 8, 2: 2, 3: 1, 4: 1})
WIDE = IdLayout({1: 16, 2: 18, 200: 4})
NARROW = IdLayout({1: 0, 2: 5}, layer_bits=4)
LONG = IdLayout({1: (17, 0, 0), 2: (3, 20, 11), 3: 4})
LAYOUTS = pytest.mark.parametrize(
    "layout", [V2, V1, WIDE, NARROW, LONG], ids=["v2", "v1", "wide", "narrow", "long"]
)


def assemble(layout: IdLayout, layer: int, xyz: tuple[int, int, int], segment: int) -> int:
    """Assemble an id field by field from the definition, with Python's integers."""
    node, left = layer, 64 - layout.layer_bits
    per_axis = layout.spatial_bits[layer]
    for value, bits in zip(xyz, [per_axis] * 3 if isinstance(per_axis, int) else per_axis, strict=True):
        node, left = node << bits | value, left - bits
    return node << left | segment


@st.composite
def nodes(draw: st.DrawFn, layout: IdLayout) -> tuple[int, tuple[int, int, int], int]:
    layer = draw(st.sampled_from(sorted(layout.spatial_bits)))
    x, y, z = (draw(st.integers(0, (1 << bits) - 1)) for bits in layout.axis_bits(layer))
    return layer, (x, y, z), draw(st.integers(0, (1 << layout.segment_bits(layer)) - 1))


@pytest.mark.parametrize(
    ("node", "layer", "xyz", "segment"),
    [
        (144115188075855873, 2, (0, 0, 0), 1),
        (72057594037927937, 1, (0, 0, 0), 1),
        (2 << 56 | 3 << 46 | 1 << 36 | 7 << 26 | 5, 2, (3, 1, 7), 5),
        (2**64 - 1, 255, (1, 1, 1), (1 << 53) - 1),
        (2**63, 128, (0, 0, 0), 0),
    ],
)
def test_parts_of_known_ids(node: int, layer: int, xyz: tuple[int, int, int], segment: int) -> None:
    layout = IdLayout({1: 10, 2: 10, 128: 1, 255: 1})
    ids = np.array([node], dtype=np.uint64)
    assert layout.layers(ids).tolist() == [layer]
    assert layout.chunk_coordinates(ids).tolist() == [list(xyz)]
    assert layout.segments(ids).tolist() == [segment]
    assert layout.chunk_ids(ids).tolist() == [node - segment]
    assert layout.chunk_ids(ids).dtype == layout.segments(ids).dtype == np.uint64


@LAYOUTS
@given(data=st.data())
def test_mixed_layers_come_apart_and_together(layout: IdLayout, data: st.DataObject) -> None:
    parts = data.draw(st.lists(nodes(layout), max_size=8))
    ids = as_ids([assemble(layout, *part) for part in parts])
    assert layout.layers(ids).tolist() == [layer for layer, _, _ in parts]
    assert layout.chunk_coordinates(ids).tolist() == [list(xyz) for _, xyz, _ in parts]
    assert layout.segments(ids).tolist() == [segment for _, _, segment in parts]
    chunk_ids = [assemble(layout, layer, xyz, 0) for layer, xyz, _ in parts]
    assert layout.chunk_ids(ids).tolist() == chunk_ids
    assert [layout.chunk_id(*xyz, layer=layer) for layer, xyz, _ in parts] == chunk_ids


@LAYOUTS
@given(data=st.data())
def test_last_id_ends_the_chunk(layout: IdLayout, data: st.DataObject) -> None:
    layer, xyz, _ = data.draw(nodes(layout))
    last = layout.last_id(assemble(layout, layer, xyz, 0))
    assert last == assemble(layout, layer, xyz, (1 << layout.segment_bits(layer)) - 1)


def test_chunk_ids_of_many_coordinates() -> None:
    xyz = np.array([(0, 0, 0), (1, 2, 3), (1023, 1023, 1023)])
    ids = V2.chunk_id_array(xyz)
    assert ids.dtype == np.uint64
    np.testing.assert_array_equal(V2.chunk_coordinates(ids), xyz)
    assert V2.chunk_id_array(np.empty((0, 3))).shape == (0,)


@pytest.mark.parametrize(
    ("xyz", "layer", "message"),
    [
        ((4, 0, 0), 2, r"chunk \(4, 0, 0\) does not fit into 2 bits per axis of layer 2"),
        ((0, -1, 0), 2, r"chunk \(0, -1, 0\) does not fit"),
        ((0, 0, 2), 3, r"chunk \(0, 0, 2\) does not fit into 1 bits per axis of layer 3"),
        ((0, 1, 0), 9, r"chunk \(0, 1, 0\) does not fit into 17 \+ 0 \+ 0 bits of layer 9"),
        ((0, 0, 0), 7, r"layer 7 is unknown: expected one of \[1, 2, 3, 4\]"),
    ],
)
def test_chunks_that_have_no_id(xyz: tuple[int, int, int], layer: int, message: str) -> None:
    layout = IdLayout({9: (17, 0, 0)}) if layer == 9 else V1
    with pytest.raises(ValueError, match=message):
        layout.chunk_id(*xyz, layer=layer)


def test_ids_of_an_unknown_layer() -> None:
    ids = as_ids([144115188075855873, 9 << 56])
    assert V1.layers(ids).tolist() == [2, 9]
    for method in (V1.chunk_coordinates, V1.segments, V1.chunk_ids):
        with pytest.raises(ValueError, match="layer 9 is unknown"):
            method(ids)


@pytest.mark.parametrize(
    "bits", [{0: 3}, {256: 3}, {2: -1}, {2: 19}, {2: (56, 0, 0)}, {2: (-1, 5, 5)}, {2: (20, 20, 16)}]
)
def test_layouts_that_cannot_be(bits: dict[int, Any]) -> None:
    with pytest.raises(ValueError, match="does not fit into 64 bits"):
        IdLayout(bits)


@pytest.mark.parametrize(
    "values",
    [
        [2**63, 2**64 - 1, 0],
        (np.uint64(2**63), 2**64 - 1, np.int64(0)),
        np.array([2**63, 2**64 - 1, 0], dtype=np.uint64),
        np.array([2**63, 2**64 - 1, 0], dtype=">u8"),
        np.array([2**63, 2**64 - 1, 0], dtype=object),
        np.array([2**63, 9, 2**64 - 1, 9, 0], dtype=np.uint64)[::2],
    ],
)
def test_large_ids_survive(values: Any) -> None:
    ids = as_ids(values)
    assert ids.dtype == np.dtype("<u8")
    assert ids.tolist() == [2**63, 2**64 - 1, 0]


@pytest.mark.parametrize("value", [-1, 2**64, 1.0, float(2**60), "5", True, None, np.float64(3), b"1"])
def test_what_is_no_id(value: Any) -> None:
    with pytest.raises(ValueError, match="is not an id: expected an integer from 0 to 18446744073709551615"):
        as_ids([1, value])


def test_ids_that_nulls_have_made_floats() -> None:
    with pytest.raises(ValueError, match="a column with nulls may have become floats"):
        as_ids(np.array([2**60 + 1, np.nan]))


@pytest.mark.parametrize("values", [np.array([1.0]), np.array([-1]), np.array([True]), "12", 7, None])
def test_what_are_no_ids(values: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        as_ids(values)


@pytest.mark.parametrize(
    ("node", "key"),
    [
        (0, b"00000000000000000000"),
        (144115188075855873, b"00144115188075855873"),
        (2**63, b"09223372036854775808"),
        (2**64 - 1, b"18446744073709551615"),
    ],
)
def test_row_keys(node: int, key: bytes) -> None:
    assert row_keys(as_ids([node])) == [key]
    assert ids_of_row_keys([key]).tolist() == [node]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_row_keys_come_back_and_sort_like_ids(values: list[int]) -> None:
    keys = row_keys(as_ids(values))
    assert keys == [b"%020d" % value for value in values]
    ids = ids_of_row_keys(keys)
    assert (ids.dtype, ids.tolist()) == (np.uint64, values)
    assert [int(key) for key in sorted(keys)] == sorted(values)


@pytest.mark.parametrize(
    "key", [b"", b"meta", b"144115188075855873", b"+0144115188075855873", b"18446744073709551616", b"9" * 20]
)
def test_what_is_no_row_key(key: bytes) -> None:
    with pytest.raises(ValueError, match="is not a row key"):
        ids_of_row_keys([b"0" * 20, key])


@pytest.mark.parametrize(
    ("children", "watershed"),
    [("l2_children.json", "watershed_v2.npz"), ("l2_children_v1.json", "watershed_v1.npz")],
)
def test_recorded_ids_lie_in_their_chunks(
    shared: Callable[[str], Path], children: str, watershed: str
) -> None:
    recorded = json.loads((shared("cave") / children).read_text())["l2"]
    with np.load(shared("cave") / watershed) as data:
        layout = IdLayout(dict(data["spatial_bits"].tolist()))
        volume, chunk_size = data["ws"], data["chunk_size"]
    assert len(recorded) >= 159
    l2_ids = as_ids([int(i) for i in recorded])
    chunks = np.array([node["chunk"] for node in recorded.values()])
    assert set(layout.layers(l2_ids).tolist()) == {2}
    np.testing.assert_array_equal(layout.chunk_coordinates(l2_ids), chunks)
    for node, chunk in zip(recorded.values(), chunks, strict=True):
        supervoxels = as_ids(node["supervoxels"])
        assert set(layout.layers(supervoxels).tolist()) == {1}
        assert (layout.chunk_coordinates(supervoxels) == chunk).all()
    voxels = np.argwhere(volume)
    np.testing.assert_array_equal(layout.chunk_coordinates(volume[tuple(voxels.T)]), voxels // chunk_size)
