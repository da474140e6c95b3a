"""Tests of totals of chunk records: sums taken from Bigtable's cells equal sums over decoded records."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2features.core.chunks import FileCounts
from l2features.core.errors import StoreError, UnknownFormat
from l2features.core.ids import as_ids
from l2features.store.base import DONE, FAILED, ChunkRecord
from l2features.store.bigtable.cells import chunk_cells, chunk_records_of, micros_of
from l2features.store.bigtable.record_sums import add_records
from l2features.store.bigtable.row_arrays import AnyCells
from l2features.store.chunk_totals import ChunkTotals, totals_of

NOW = datetime(2026, 11, 30, tzinfo=UTC)
WINDOW = timedelta(minutes=10)
DONE_TEXT = '{"format":2,"nodes":5,"orphans":1,"reason":"","files":{},"saturated":{}}'

files = st.sampled_from([FileCounts(), FileCounts(64, 64), FileCounts(64, 60, 4), FileCounts(8, 7, 0, 0, 1)])
done = st.builds(
    ChunkRecord,
    chunk_id=st.just(0),
    state=st.just(DONE),
    time=st.integers(0, 1200).map(lambda s: NOW - timedelta(seconds=s)),
    nodes=st.integers(0, 1 << 40),
    orphans=st.integers(0, 9),
    files=files,
    saturated=st.dictionaries(st.sampled_from(["area_nm2", "max_dt_nm"]), st.integers(1, 99)),
)
failed = st.builds(
    ChunkRecord,
    chunk_id=st.just(0),
    state=st.just(FAILED),
    time=st.just(NOW),
    nodes=st.just(0),
    orphans=st.just(0),
    reason=st.text(max_size=20),
)


def part_of(cells: list[tuple[int, datetime, bytes, bytes]]) -> AnyCells:
    ids, times, names, values = zip(*cells, strict=True) if cells else ((), (), (), ())
    micros = np.array([micros_of(time) for time in times], dtype=np.int64)
    return AnyCells(len(ids), b"", None, True, as_ids(ids), micros, list(names), list(values))


def cells_of(records: list[ChunkRecord]) -> list[tuple[int, datetime, bytes, bytes]]:
    return [(i, r.time, *chunk_cells(r, None)[0]) for i, r in enumerate(records, start=1)]


def one_by_one(part: AnyCells) -> ChunkTotals:
    return totals_of(chunk_records_of(part, "here"), WINDOW, 3)


def summed(*parts: AnyCells) -> ChunkTotals:
    totals = ChunkTotals(WINDOW, 3)
    for part in parts:
        add_records(totals, part, "here")
    totals.drop_old()
    return totals


@given(st.lists(done | failed, max_size=30), st.integers(0, 30))
def test_sums_equal_those_of_records(records: list[ChunkRecord], cut: int) -> None:
    cells = cells_of(records)
    expected = one_by_one(part_of(cells))
    found = summed(part_of(cells[:cut]), part_of(cells[cut:]))
    assert found == expected


@pytest.mark.parametrize(
    "text",
    [
        '{"nodes":5,"orphans":1,"reason":""}',
        '{"format":1,"nodes":5,"orphans":1,"reason":"","files":{},"saturated":{}}',
        '{"format":2,"orphans":1,"nodes":5,"reason":"","files":{},"saturated":{}}',
        '{"format": 2, "nodes": 5, "orphans": 1, "reason": "", "files": {}, "saturated": {}}',
        '{"format":2,"nodes":5,"orphans":1,"reason":"","files":{},"saturated":{},"nodes":7}',
        '{"format":2,"nodes":"5","orphans":true,"reason":"","files":{},"saturated":{}}',
        '{"format":2,"nodes":18446744073709551615,"orphans":1,"reason":"","files":{},"saturated":{}}',
    ],
)
def test_other_texts_are_read_one_by_one(text: str) -> None:
    part = part_of([(1, NOW, b"done", DONE_TEXT.encode()), (2, NOW, b"done", text.encode())])
    assert summed(part) == one_by_one(part)
    assert summed(part).nodes == 5 + int(json.loads(text)["nodes"])


def test_sums_may_exceed_64_bits() -> None:
    text = DONE_TEXT.replace('"nodes":5,"orphans":1', f'"nodes":{1 << 62},"orphans":{1 << 62}')
    part = part_of([(i, NOW, b"done", text.encode()) for i in range(1, 5)])
    assert summed(part) == one_by_one(part)
    assert (summed(part).nodes, summed(part).orphans) == (1 << 64, 1 << 64)


def test_only_the_first_cell_of_a_row_counts() -> None:
    part = part_of([(1, NOW, b"done", DONE_TEXT.encode()), (1, NOW, b"failed", DONE_TEXT.encode())])
    assert (summed(part).done, summed(part).n_failed) == (1, 0)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (DONE_TEXT.replace('"format":2', '"format":3'), UnknownFormat),
        (DONE_TEXT.replace('"format":2', '"format":2.0'), UnknownFormat),
        (DONE_TEXT.replace('"nodes":5', '"nodes":null'), StoreError),
        (DONE_TEXT.replace('"files":{}', '"files":{"others":1}'), StoreError),
        (DONE_TEXT.replace('"files":{}', '"files":{"read":"all"}'), StoreError),
        (DONE_TEXT.replace('"files":{}', '"files":{"read":[1]}'), StoreError),
        (f"{DONE_TEXT},{DONE_TEXT}", StoreError),
        ("1,2", StoreError),
        ("", StoreError),
    ],
)
def test_malformed_records_are_named(text: str, error: type[StoreError]) -> None:
    part = part_of([(1, NOW, b"done", DONE_TEXT.encode()), (2, NOW, b"done", text.encode())])
    with pytest.raises(error, match="the record of chunk 2"):
        summed(part)
