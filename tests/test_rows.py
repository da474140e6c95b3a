"""Rows: their cells as bytes, both ways, and what a client sees of them."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from l2features.geometry import Geometry
from l2features.ids import IdLayout, as_ids
from l2features.rows import NOT_COMPUTED, Rows, decode_cells, encode_cells, served
from l2features.schema import ATTRIBUTES, FEATURES, NAMES

FIXTURE = Geometry((16, 16, 40), (1024, 512, 20), (160, 128, 48), (64, 64, 32), IdLayout({2: 10}))
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
    assert served(rows, (16, 16, 40), [(0, 0, 0)]) == [{"size_nm3": 0}]


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
    assert set(served(rows, (1, 1, 1), [(0, 0, 0)])[0]) == present


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


def test_a_size_beyond_32_bits_is_served_exactly() -> None:
    rows = Rows.complete(one_row(size_nm3=2**32 - 1))
    (values,) = served(rows, (16, 16, 40), [(0, 0, 0)], ["size_nm3"])
    assert values == {"size_nm3": (2**32 - 1) * 10_240}
    assert isinstance(values["size_nm3"], int)


def test_a_resolution_that_is_not_whole() -> None:
    rows = Rows.complete(one_row(size_nm3=1000, rep_coord_nm=(1, 2, 3)))
    (values,) = served(rows, (4.5, 4.5, 33.3), [(10, 0, -5)], ["size_nm3", "rep_coord_nm"])
    assert values["size_nm3"] == 674_325
    assert values["rep_coord_nm"] == pytest.approx([49.5, 9.0, -66.6])


# ------------------------------------------------------------------ against the recorded server
INT64_AS_STR = {"true", "True", "1"}


@pytest.fixture(scope="module")
def genuine(shared: Callable[[str], Path]) -> dict[int, dict[bytes, bytes]]:
    """The cells of every node of the recorded cache table."""
    with gzip.open(shared("cave") / "cache.json.gz", "rt") as f:
        rows = {base64.b64decode(key): cells for key, cells in json.load(f)["rows"]}
    return {
        int(key): {base64.b64decode(q): base64.b64decode(value) for _, q, value, _ in cells}
        for key, cells in rows.items()
        if key.isdigit()
    }


def recorded_answers() -> list[str]:
    """Names of the recorded requests for attributes that were answered."""
    from .conftest import shared_folder

    index = shared_folder() / "cave" / "http" / "index.json"
    if not index.exists():
        return []
    exchanges = json.loads(index.read_text())["exchanges"]
    return [
        e["name"]
        for e in exchanges
        if e["response"]["status"] == 200
        and e["request"]["method"] == "POST"
        and urlsplit(e["request"]["path"]).path.endswith("/attributes")
    ]


@pytest.mark.parametrize("name", recorded_answers())
def test_we_serve_what_the_genuine_server_does(
    shared: Callable[[str], Path], genuine: dict[int, dict[bytes, bytes]], name: str
) -> None:
    exchanges = json.loads((shared("cave") / "http" / "index.json").read_text())["exchanges"]
    (exchange,) = [e for e in exchanges if e["name"] == name]
    query = parse_qs(urlsplit(exchange["request"]["path"]).query)
    names = [n.strip() for n in query.get("attribute_names", [",".join(NAMES)])[0].split(",")]
    answer = exchange["response"]
    expected = json.loads(answer.get("body_decoded") or answer["body"])
    rows = Rows.empty(as_ids([int(i) for i in expected]))
    for i, node in enumerate(rows.ids.tolist()):
        decode_cells(rows, i, genuine.get(node, {}).items())
    layer_2 = rows.ids[FIXTURE.layout.layers(rows.ids) == 2]
    origins = np.zeros((len(rows), 3), dtype=np.int64)
    origins[np.isin(rows.ids, layer_2)] = FIXTURE.origins(FIXTURE.layout.chunk_coordinates(layer_2))
    values = served(rows, FIXTURE.resolution, origins, names)
    if query.get("int64_as_str", [""])[0] in INT64_AS_STR:
        values = [v | {"size_nm3": str(v["size_nm3"])} for v in values]
    ours = json.dumps(dict(zip(map(str, rows.ids.tolist()), values, strict=True)))
    assert ours == json.dumps(expected)


def test_the_recorded_answers_are_many() -> None:
    from .conftest import shared_folder

    if shared_folder().is_dir():
        assert len(recorded_answers()) >= 25
