"""Tests of rows: encoding to cells, decoding, and columns as served."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from l2features.core.geometry import Geometry
from l2features.core.ids import IdLayout
from l2features.core.rows import NOT_COMPUTED, Rows, encode_cells, served_column
from l2features.core.schema import ATTRIBUTES, FEATURES, NAMES, Attribute
from l2features.testing.reference import decode_cells

LAYOUT = IdLayout({2: 10})
FIXTURE = Geometry((16, 16, 40), (1024, 512, 20), (160, 128, 48), (64, 64, 32), LAYOUT)
NODE = 144115188075855873


def one_row(**values: Any) -> np.ndarray:
    """One computed row without principal axes, with these values."""
    row = np.zeros(1, dtype=FEATURES)
    for name, value in {"label": NODE, "size_nm3": 1, **values}.items():
        row[name] = value
    return row


def decoded(cells: dict[str, bytes]) -> Rows:
    rows = Rows.empty([NODE])
    decode_cells(rows, 0, [(name.encode(), value) for name, value in cells.items()])
    return rows


def names_present(rows: Rows) -> set[str]:
    return set(np.array(NAMES)[rows.present[0]].tolist())


@pytest.mark.parametrize(
    ("name", "value", "cell"),
    [
        ("size_nm3", 2**32 - 1, "ffffffff"),
        ("area_nm2", 258, "02010000"),
        ("max_dt_nm", 65_535, "ffff"),
        ("mean_dt_nm", 1.5, "003e"),
        ("rep_coord_nm", (1, 2, 770), "010002000203"),
        ("chunk_intersect_count", ((1, 2, 3), (4, 5, 65_535)), "0100020003000400" + "0500ffff"),
        ("pca", np.eye(3), "003c000000000000003c000000000000003c"),
        ("pca_val", (1, 0.5, 0), "0000803f0000003f00000000"),
    ],
)
def test_bytes_of_each_attribute(name: str, value: Any, cell: str) -> None:
    row = one_row(has_pca=True, **{name: value})
    (cells,) = encode_cells(row)
    assert dict(cells)[name.encode()].hex() == cell
    rows = decoded({name: bytes.fromhex(cell)})
    np.testing.assert_array_equal(rows.features[name], row[name])
    assert names_present(rows) == {name}


@settings(suppress_health_check=[HealthCheck.filter_too_much])  # it draws 16-bit floats by rejection
@given(hnp.arrays(FEATURES, st.integers(0, 5), elements=hnp.from_dtype(FEATURES, allow_nan=False)))
def test_rows_come_back(features: np.ndarray) -> None:
    for name in ("pca", "pca_val"):
        features[name][~features["has_pca"]] = 0
    for name in (*NAMES, "has_pca"):
        features[name][features["size_nm3"] == 0] = 0
    rows = Rows.empty(features["label"])
    for i, cells in enumerate(encode_cells(features)):
        decode_cells(rows, i, cells)
    assert rows.features.tobytes() == features.tobytes()
    np.testing.assert_array_equal(rows.present, Rows.complete(features).present)


def test_cells_are_in_the_order_of_the_attribute_table() -> None:
    (cells,) = encode_cells(one_row())
    assert [key for key, _ in cells] == [a.key for a in ATTRIBUTES]
    assert [len(value) for _, value in cells] == [4, 4, 2, 2, 6, 12, 0, 0]


def test_encoding_does_not_depend_on_the_memory_layout() -> None:
    rows = np.concatenate([one_row(area_nm2=i, pca=np.full((3, 3), i), has_pca=True) for i in range(6)])
    assert list(encode_cells(rows[::2])) == list(encode_cells(rows))[::2]


def test_the_mark_could_not_compute() -> None:
    assert list(encode_cells(one_row(size_nm3=0, area_nm2=7))) == [[(b"size_nm3", NOT_COMPUTED)]]
    rows = decoded({"size_nm3": bytes(8)})
    assert (rows.found.tolist(), rows.not_computed.tolist()) == ([True], [True])
    assert names_present(rows) == {"size_nm3"}
    assert served_column(rows, FIXTURE, "size_nm3")[0].tolist() == [0]


@pytest.mark.parametrize(
    ("cells", "present"),
    [
        ({}, set()),
        ({"pca": b"", "pca_val": b""}, set()),
        ({"size_nm3": b"\x05\0\0\0", "pca": b"", "pca_val": b""}, {"size_nm3"}),
        ({"max_dt_nm": b"\x05\0", "mean_dt_nm": b"\0\x3c"}, {"max_dt_nm", "mean_dt_nm"}),
        ({"size_nm3": b"\x05\0\0\0", "later": b"anything", "": b"", "SIZE_NM3": b"1"}, {"size_nm3"}),
    ],
    ids=["nothing", "empty pca only", "empty pca", "partial", "unknown qualifiers"],
)
def test_what_is_present(cells: dict[str, bytes], present: set[str]) -> None:
    rows = decoded(cells)
    assert names_present(rows) == present
    assert rows.found.tolist() == [bool(present)]
    assert rows.not_computed.tolist() == [False]
    assert {name for name in NAMES if served_column(rows, FIXTURE, name)[1].any()} == present


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("size_nm3", 0),
        ("size_nm3", 5),
        ("size_nm3", 16),
        ("area_nm2", 8),
        ("mean_dt_nm", 0),
        ("pca", 9),
        ("pca_val", 4),
    ],
)
def test_values_of_the_wrong_length(name: str, length: int) -> None:
    expected = {a.name: a.nbytes for a in ATTRIBUTES}[name]
    with pytest.raises(ValueError, match=f"row {NODE}: {name} has {length} bytes, expected {expected}"):
        decoded({name: b"\x01" * length})


def test_eight_bytes_of_a_size_are_zero_or_wrong() -> None:
    with pytest.raises(ValueError, match="size_nm3 has 8 bytes, expected 4"):
        decoded({"size_nm3": b"\x01" + bytes(7)})


@pytest.mark.parametrize(
    ("resolution", "voxels", "volume"),
    [
        ((16, 16, 40), 2**32 - 1, (2**32 - 1) * 10_240),
        ((1021, 1021, 1021), 2**32 - 1, (2**32 - 1) * 1021**3),
        ((16.0, 16.0, 40.0), 7, 71_680),
        ((4.5, 4.5, 33.3), 1000, 674_325),
    ],
)
def test_sizes_are_exact(resolution: tuple[float, float, float], voxels: int, volume: int) -> None:
    rows = Rows.complete(one_row(size_nm3=voxels))
    values, present = served_column(rows, replace(FIXTURE, resolution=resolution), "size_nm3")
    assert (values.dtype, values.tolist(), present.tolist()) == (np.uint64, [volume], [True])


@pytest.mark.parametrize("step", [1700, 1700.5])
def test_sizes_that_do_not_fit(step: float) -> None:
    rows = Rows.complete(one_row(size_nm3=2**32 - 1))
    with pytest.raises(
        ValueError, match=r"4294967295 voxels of .* nm\^3 each: expected a volume below 2\^64 nm\^3"
    ):
        served_column(rows, replace(FIXTURE, resolution=(step, step, step)), "size_nm3")


def test_positions() -> None:
    rows = Rows.complete(one_row(label=LAYOUT.chunk_id(1, 2, 3) + 5, rep_coord_nm=(1, 2, 3)))
    geometry = Geometry((4.5, 4.5, 33.3), (10, 0, -5), (160, 128, 48), (64, 64, 32), LAYOUT)
    values, present = served_column(rows, geometry, "rep_coord_nm")
    assert values.tolist() == [[(10 + 64 + 1) * 4.5, (128 + 2) * 4.5, (-5 + 96 + 3) * 33.3]]
    assert present.tolist() == [True]


def test_an_id_of_an_unknown_layer_has_no_position() -> None:
    rows = Rows.complete(np.concatenate([one_row(label=1 << 60), one_row()]))
    assert served_column(rows, FIXTURE, "rep_coord_nm")[1].tolist() == [False, True]
    assert served_column(rows, FIXTURE, "area_nm2")[1].tolist() == [True, True]


@pytest.mark.parametrize(
    ("name", "stored", "value"),
    [
        ("mean_dt_nm", np.inf, 65_504.0),
        ("mean_dt_nm", np.nan, None),
        ("pca", np.full((3, 3), -np.inf), np.full((3, 3), -65_504.0).tolist()),
        ("pca", [[1, 0, 0], [0, 1, 0], [0, 0, np.nan]], None),
        ("pca_val", (np.inf, 1, 0), [float(np.finfo(np.float32).max), 1.0, 0.0]),
    ],
)
def test_values_that_are_not_finite(name: str, stored: Any, value: Any) -> None:
    rows = Rows.complete(one_row(has_pca=True, **{name: stored}))
    values, present = served_column(rows, FIXTURE, name)
    assert present.tolist() == [value is not None]
    if value is not None:
        assert values[0].tolist() == value


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda a: a.name)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_columns_have_the_type_of_the_attribute_table(attribute: Attribute, n: int) -> None:
    values, present = served_column(Rows.complete(np.repeat(one_row(), n)), FIXTURE, attribute.name)
    assert (values.dtype, values.shape) == (attribute.served_dtype, (n, *attribute.shape))
    assert values.flags.c_contiguous
    assert present.shape == (n,)
