"""Tests of attribute responses as JSON, Arrow and Parquet: JSON equals that of PCGL2Cache."""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from l2features.core.geometry import Geometry
from l2features.core.ids import IdLayout, as_ids
from l2features.core.rows import Rows
from l2features.core.schema import ATTRIBUTES, FEATURES, NAMES
from l2features.query import answers
from l2features.query.answers import arrow_schema, arrow_stream, arrow_table, json_parts, parquet
from l2features.query.reader import Status
from l2features.testing.reference import decode_cells, served

FIXTURE = Geometry((16, 16, 40), (1024, 512, 20), (160, 128, 48), (64, 64, 32), IdLayout({2: 10}))
NODE = 144115188075855873
SORTED_NAMES = sorted(NAMES)


def json_of(rows: Rows, names: Sequence[str] = NAMES, **options: Any) -> str:
    return b"".join(json_parts(rows, FIXTURE, names, **options)).decode()


def table_of(rows: Rows, names: Sequence[str] = NAMES, reasons: Mapping[int, str] | None = None) -> Any:
    return arrow_table(rows, FIXTURE, names, np.zeros(len(rows), dtype=np.int8), reasons or {})


def plain_json(rows: Rows, names: Sequence[str] = NAMES) -> dict[str, Any]:
    by_id = dict(zip(rows.ids.tolist(), served(rows, FIXTURE, names), strict=True))
    return {str(node): by_id[node] for node in sorted(by_id)}


def random_rows(n: int, seed: int = 3) -> Rows:
    """Return rows with shuffled ids: a third without principal axes, some not computed, and some missing."""
    rng = np.random.default_rng(seed)
    features = np.zeros(n, dtype=FEATURES)
    for name in NAMES:
        shape = features[name].shape
        features[name] = rng.normal(size=shape) if name == "pca" else rng.integers(1, 60_000, shape)
    features["label"] = rng.permutation(np.arange(n, dtype=np.uint64)) + np.uint64(NODE)
    place = np.arange(n)
    features["has_pca"] = place % 3 != 0
    features["size_nm3"][place % 11 == 5] = 0
    rows = Rows.complete(features)
    rows.present[place % 7 == 3] = False
    return rows


# ------------------------------------------------------------------ against the recorded server
@pytest.fixture(scope="module")
def genuine(shared: Callable[[str], Path]) -> dict[int, dict[bytes, bytes]]:
    """Return each node's cells from the recorded PCGL2Cache table."""
    with gzip.open(shared("cave") / "cache.json.gz", "rt") as f:
        rows = {base64.b64decode(key): cells for key, cells in json.load(f)["rows"]}
    return {
        int(key): {base64.b64decode(q): base64.b64decode(value) for _, q, value, _ in cells}
        for key, cells in rows.items()
        if key.isdigit()
    }


def recorded_answers() -> dict[str, tuple[dict[str, list[str]], str]]:
    """Return query and body of each recorded attributes request that was answered with 200, by name."""
    from tests.support.jobs import shared_folder

    index = shared_folder() / "cave" / "http" / "index.json"
    if not index.exists():
        return {}
    answered = {}
    for exchange in json.loads(index.read_text())["exchanges"]:
        request, response = exchange["request"], exchange["response"]
        url = urlsplit(request["path"])
        if response["status"] == 200 and request["method"] == "POST" and url.path.endswith("/attributes"):
            body = response.get("body_decoded") or response["body"]
            answered[exchange["name"]] = (parse_qs(url.query), body)
    return answered


RECORDED = recorded_answers()


@pytest.mark.parametrize("name", RECORDED)
def test_we_write_what_the_genuine_server_does(genuine: dict[int, dict[bytes, bytes]], name: str) -> None:
    query, expected = RECORDED[name]
    names = [n.strip() for n in query.get("attribute_names", [",".join(NAMES)])[0].split(",")]
    as_str = query.get("int64_as_str", [""])[0] in {"true", "True", "1"}
    nodes = [int(node) for node in json.loads(expected)]
    rows = Rows.empty(as_ids([*reversed(nodes), *nodes]))
    for i, node in enumerate(rows.ids.tolist()):
        decode_cells(rows, i, genuine.get(node, {}).items())
    assert json_of(rows, names, int64_as_str=as_str) == expected


def test_the_recorded_answers_are_many() -> None:
    from tests.support.jobs import shared_folder

    if shared_folder().is_dir():
        assert len(RECORDED) >= 25


# ------------------------------------------------------------------ against the plain way
IDS = st.one_of(st.integers(NODE, NODE + 9), st.integers(0, 2**64 - 1))


@st.composite
def any_rows(draw: st.DrawFn) -> Rows:
    """Draw rows with any values, also infinite, NaN or missing ones. Rows of the same id are equal."""
    features = draw(hnp.arrays(FEATURES, st.integers(0, 6), elements=hnp.from_dtype(FEATURES)))
    features["label"] = draw(st.lists(IDS, min_size=len(features), max_size=len(features)))
    whole = st.sampled_from([True, False, None])
    patterns = draw(st.lists(whole, min_size=len(features), max_size=len(features)))
    present = draw(hnp.arrays(bool, (len(features), len(NAMES))))
    for i, pattern in enumerate(patterns):
        present[i] = present[i] if pattern is None else pattern
    first = {node: i for i, node in reversed(list(enumerate(features["label"].tolist())))}
    same = np.array([first[node] for node in features["label"].tolist()], dtype=int)
    return Rows(features[same], present[same])


@settings(suppress_health_check=[HealthCheck.filter_too_much])  # it draws 16-bit floats by rejection
@given(any_rows(), st.sets(st.sampled_from(NAMES)))
def test_any_rows_are_written_as_the_plain_way_does(rows: Rows, names: set[str]) -> None:
    text = json_of(rows, list(names))
    assert json.dumps(json.loads(text)) == json.dumps(plain_json(rows, list(names)))
    values = table_of(rows, list(names)).to_pylist()
    assert [row["id"] for row in values] == rows.ids.tolist()
    for row, expected in zip(values, served(rows, FIXTURE, list(names)), strict=True):
        assert {key: value for key, value in row.items() if key in names and value is not None} == expected


@pytest.mark.parametrize("per_part", [1, 7, 50, 10_000])
@pytest.mark.parametrize("names", [NAMES, ["rep_coord_nm"], ["pca_val", "pca"], []])
def test_parts_make_one_object(monkeypatch: pytest.MonkeyPatch, per_part: int, names: list[str]) -> None:
    monkeypatch.setattr(answers, "ROWS_PER_PART", per_part)
    rows = random_rows(50)
    parts = list(json_parts(rows, FIXTURE, names))
    assert len(parts) == -(-50 // per_part) + 1
    assert b"".join(parts).decode() == json.dumps(plain_json(rows, names), separators=(",", ":")) + "\n"


@pytest.mark.parametrize("value", [-0.0, 5.960464477539063e-08, 65_504.0, 0.1, 1 / 3])
def test_floats_are_those_that_are_stored(value: float) -> None:
    rows = Rows.complete(np.zeros(1, dtype=FEATURES))
    rows.features["label"], rows.features["mean_dt_nm"], rows.features["pca_val"] = NODE, value, value
    rows.present[:] = True
    written = json.loads(json_of(rows))[str(NODE)]
    assert str(written["mean_dt_nm"]) == str(float(np.float16(value)))
    assert list(map(str, written["pca_val"])) == [str(float(np.float32(value)))] * 3


@pytest.mark.parametrize("name", [a.name for a in ATTRIBUTES if a.dtype.itemsize == 2])
def test_every_number_of_16_bits_has_one_text(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Check all 65,536 values: JSON made row by row equals JSON made column by column."""
    numbers = np.arange(1 << 16, dtype=np.uint16).view(FEATURES[name].base)
    features = np.zeros(len(numbers), dtype=FEATURES)
    features["label"] = np.arange(len(features), dtype=np.uint64) + np.uint64(NODE)
    features["size_nm3"], features["has_pca"] = 1, True
    features[name] = numbers.reshape(-1, *[1] * (features[name].ndim - 1))
    rows = Rows.complete(features)
    by_column = json_of(rows, [name])
    monkeypatch.setattr(answers, "FEW_ROWS", len(rows))
    assert json_of(rows, [name]) == by_column


# ------------------------------------------------------------------ special requests
def test_no_ids() -> None:
    rows = Rows.empty([])
    assert json_of(rows) == "{}\n"
    assert json_of(rows, status=np.zeros(0, dtype=np.int8), reasons={}) == "{}\n"
    table = table_of(rows)
    assert (table.num_rows, table.schema) == (0, arrow_schema(FIXTURE))
    assert pa.ipc.open_stream(arrow_stream(table)).read_all().equals(table)
    assert pq.read_table(io.BytesIO(parquet(table))).column_names == table.column_names


def test_ids_that_have_nothing() -> None:
    rows = Rows.empty([2**64 - 1, NODE, 0, 2**63])
    assert json_of(rows) == f'{{"0":{{}},"{NODE}":{{}},"{2**63}":{{}},"{2**64 - 1}":{{}}}}\n'
    table = table_of(rows)
    table.validate(full=True)
    assert table["id"].to_pylist() == [2**64 - 1, NODE, 0, 2**63]
    assert all(table[name].null_count == 4 for name in NAMES)


def test_a_row_that_could_not_be_computed() -> None:
    features = np.zeros(1, dtype=FEATURES)
    features["label"] = NODE
    rows = Rows.complete(features)
    assert json_of(rows) == f'{{"{NODE}":{{"size_nm3":0}}}}\n'
    assert json_of(rows, int64_as_str=True) == f'{{"{NODE}":{{"size_nm3":"0"}}}}\n'
    assert json_of(rows, ["area_nm2"]) == f'{{"{NODE}":{{}}}}\n'
    assert {k: v for k, v in table_of(rows).to_pylist()[0].items() if v is not None} == {
        "id": NODE,
        "size_nm3": 0,
        "status": "ready",
    }


def test_sizes_as_strings_are_exact() -> None:
    features = np.zeros(2, dtype=FEATURES)
    features["label"], features["size_nm3"] = [NODE, NODE + 1], [2**32 - 1, 1]
    geometry = replace(FIXTURE, resolution=(1021, 1021, 1021))
    volume = 1021**3
    parts = list(json_parts(Rows.complete(features), geometry, ["size_nm3"], int64_as_str=True))
    expected = {
        str(NODE): {"size_nm3": str((2**32 - 1) * volume)},
        str(NODE + 1): {"size_nm3": str(volume)},
    }
    assert json.loads(b"".join(parts)) == expected


# ------------------------------------------------------------------ status
def test_status_and_reasons() -> None:
    rows = random_rows(10)
    rows.present[:5] = False
    rows.features["label"] = NODE + np.arange(10)[::-1]
    status = np.array([1, 1, 2, 3, 4, 0, 0, 0, 0, 0], dtype=np.int8)
    ids = rows.ids.tolist()
    reasons = {ids[3]: 'not "layer 2", é', ids[4]: "timeout", NODE - 1: "not asked for"}
    expected = plain_json(rows, ["size_nm3"])
    for node, value in zip(ids, status.tolist(), strict=True):
        expected[str(node)]["status"] = Status(value).name.lower()
        if node in reasons:
            expected[str(node)]["reason"] = reasons[node]
    text = json_of(rows, ["size_nm3"], status=status, reasons=reasons)
    assert json.dumps(json.loads(text)) == json.dumps(expected)
    table = arrow_table(rows, FIXTURE, ["size_nm3"], status, reasons)
    assert table["status"].to_pylist() == [Status(value).name.lower() for value in status.tolist()]
    assert table["reason"].to_pylist() == [reasons.get(node) for node in ids]
    for back in (
        pa.ipc.open_stream(arrow_stream(table)).read_all(),
        pq.read_table(io.BytesIO(parquet(table))),
    ):
        assert back.to_pylist() == table.to_pylist()


def test_status_without_any_attribute() -> None:
    rows = Rows.empty([NODE])
    status = np.array([Status.MISSING], dtype=np.int8)
    assert json_of(rows, [], status=status) == f'{{"{NODE}":{{"status":"missing"}}}}\n'


def test_without_status_the_json_says_nothing_of_it() -> None:
    assert "reason" not in json_of(Rows.empty([NODE]), reasons={NODE: "because"})


# ------------------------------------------------------------------ tables
def test_types_units_and_what_places_the_nodes() -> None:
    schema = table_of(random_rows(3)).schema
    assert schema.names == ["id", *SORTED_NAMES, "status", "reason"]
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        "id": "uint64",
        "area_nm2": "uint32",
        "chunk_intersect_count": "fixed_size_list<item: fixed_size_list<item: uint16>[3]>[2]",
        "max_dt_nm": "uint16",
        "mean_dt_nm": "float",
        "pca": "fixed_size_list<item: fixed_size_list<item: float>[3]>[3]",
        "pca_val": "fixed_size_list<item: float>[3]",
        "rep_coord_nm": "fixed_size_list<item: double>[3]",
        "size_nm3": "uint64",
        "status": "dictionary<values=string, indices=int8, ordered=0>",
        "reason": "string",
    }
    for attribute in ATTRIBUTES:
        expected = {b"unit": attribute.served_unit.encode(), b"description": attribute.meaning.encode()}
        assert schema.field(attribute.name).metadata == expected
    about = {key.decode(): json.loads(value) for key, value in schema.metadata.items()}
    assert about == {
        "units": {a.name: a.served_unit for a in ATTRIBUTES},
        "resolution": [16, 16, 40],
        "voxel_offset": [1024, 512, 20],
        "chunk_size": [64, 64, 32],
    }


def test_the_order_and_the_repeats_of_a_request_are_kept() -> None:
    rows = random_rows(6)
    again = [4, 0, 4, 5, 5, 1]
    table = table_of(Rows(rows.features[again], rows.present[again]))
    assert table["id"].to_pylist() == rows.ids[again].tolist()
    assert table.to_pylist() == [table_of(rows).to_pylist()[i] for i in again]


@pytest.mark.parametrize("n", [0, 1, 8, 9, 100])
def test_tables_come_back_from_their_bytes(n: int) -> None:
    table = table_of(random_rows(n))
    table.validate(full=True)
    back = pa.ipc.open_stream(arrow_stream(table)).read_all()
    assert back.equals(table, check_metadata=True)
    file = pq.read_table(io.BytesIO(parquet(table)))
    file.validate(full=True)
    assert file.to_pylist() == table.to_pylist()
    assert file.schema.metadata == table.schema.metadata
    assert file.schema.field("pca").metadata[b"unit"] == b"1"
    assert str(file.schema.field("pca").type).startswith("list<")


def test_parquet_with_columns_that_are_all_null_or_all_there() -> None:
    rows = random_rows(20)
    for present in (False, True):
        rows.present[:] = present
        file = pq.read_table(io.BytesIO(parquet(table_of(rows))))
        assert file.to_pylist() == table_of(rows).to_pylist()
        assert {file[name].null_count for name in NAMES} == {0 if present else 20}


def test_tables_in_pandas() -> None:
    rows = random_rows(12)
    frame = table_of(rows).to_pandas()
    assert frame["id"].dtype == np.uint64
    assert frame["id"].tolist() == rows.ids.tolist()
    assert set(frame["status"]) == {"ready"}
    expected = served(rows, FIXTURE)
    for i, position in enumerate(frame["rep_coord_nm"]):
        assert (None if position is None else position.tolist()) == expected[i].get("rep_coord_nm")
