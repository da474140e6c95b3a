"""Tests of SQLite file formats: older ones are read and written; for newer ones, an error names the table."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2features.core.chunks import FileCounts
from l2features.core.errors import StoreError, StoreUnavailable, UnknownFormat
from l2features.core.ids import as_ids
from l2features.core.rows import Rows
from l2features.core.schema import FEATURES
from l2features.store.base import DONE, FAILED, ChunkRecord, Coverage, Store, open_store
from l2features.store.chunk_totals import totals_of
from l2features.store.notes import last_audit
from l2features.store.sqlite.records import FIRST as FIRST_RECORD
from l2features.store.sqlite.records import decode, describe, encode, new_format, own_format, padded, parse
from l2features.testing.stores import CHUNK, FIRST, GEOMETRY, LAYOUT, META, T0, features_of, served_values
from l2features.updates.freshness import read_updates

STORED = Path(__file__).parents[1] / "data" / "stored"
OLD = "l2cache_old"
OLDEST = LAYOUT.chunk_id(0, 0, 0)
FILES = FileCounts(8, 5, 2, 1, 1)


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Store]:
    """Yield a table in a SQLite file of format 1."""
    shutil.copy(STORED / "format_1.db", tmp_path)
    with closing(open_store(f"sqlite://{tmp_path}/format_1.db", OLD)) as store:
        yield store


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite://{tmp_path}/store.db", "t")) as store:
        store.create(META)
        store.write(features_of(range(FIRST, FIRST + 8)))
        store.put_chunk(ChunkRecord(CHUNK, DONE, T0, nodes=8), as_ids([5]))
        yield store


def change(store: Store, *statements: str) -> None:
    """Run SQL statements on a store's file directly."""
    with closing(sqlite3.connect(store.url.removeprefix("sqlite://"))) as db, db:
        for statement in statements:
            db.execute(statement)


def dump(store: Store) -> list[str]:
    with closing(sqlite3.connect(store.url.removeprefix("sqlite://"))) as db:
        return list(db.iterdump())


def expected_nodes() -> dict[str, Any]:
    nodes: dict[str, Any] = json.loads((STORED / "format_1.json").read_text())["nodes"]
    return nodes


def served_json(store: Store, ids: list[int]) -> list[Any]:
    """Return the served values of nodes, decoded from JSON."""
    found: list[Any] = json.loads(json.dumps(served_values(store.read(ids))))
    return found


# ------------------------------------------------------------------ the version before
def test_a_file_of_format_1_is_read(old: Store) -> None:
    nodes = expected_nodes()
    assert served_json(old, list(map(int, nodes))) == list(nodes.values())
    assert old.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK)).ids.tolist() == list(map(int, nodes))
    assert (old.meta(), old.geometry()) == (META, GEOMETRY)
    done = ChunkRecord(CHUNK, DONE, T0, nodes=20, orphans=3)
    failed = ChunkRecord(OLDEST, FAILED, T0, reason="chunk 0,0,0: corrupt, ü")
    assert list(old.chunk_records()) == [failed, done]
    assert old.coverage() == Coverage(1, 1, T0)
    totals = old.chunk_totals(timedelta(0), 1)
    assert totals == totals_of(old.chunk_records(), timedelta(0), 1)
    assert (totals.nodes, totals.uncounted, totals.failed) == (20, 1, [(OLDEST, failed.reason)])
    assert old.failures(as_ids([CHUNK, OLDEST])) == {OLDEST: failed.reason}
    assert not old.incomplete_chunks(as_ids([CHUNK, OLDEST])).any()
    segments = old.segments(CHUNK)
    assert segments is not None
    assert segments.tolist() == list(range(100, 120))
    updates, audit = read_updates(old), last_audit(old)
    assert updates
    assert audit
    assert ([u.name for u in updates.updaters], audit.expected, audit.complete) == (["old"], 20, True)


def test_reading_a_file_of_format_1_does_not_change_it(old: Store) -> None:
    assert list(old.chunk_records())
    assert old.read([FIRST]).found.all()
    old.close()
    assert Path(old.url.removeprefix("sqlite://")).read_bytes() == (STORED / "format_1.db").read_bytes()


def test_a_file_of_format_1_is_written_on(old: Store) -> None:
    nodes = expected_nodes()
    added = features_of([FIRST + 50, FIRST + 3], seed=9)
    old.create(META)
    old.write(added)
    old.put_geometry(GEOMETRY)
    record = ChunkRecord(OLDEST, DONE, T0, 1, files=FILES, saturated={"area_nm2": 4})
    old.put_chunk(record)
    fresh = open_store(old.url, OLD)
    assert fresh.read([FIRST + 50, FIRST + 3]).features.tobytes() == added.tobytes()
    assert served_json(fresh, [FIRST, FIRST + 6]) == [nodes[str(FIRST)], nodes[str(FIRST + 6)]]
    assert list(fresh.chunk_records()) == [record, ChunkRecord(CHUNK, DONE, T0, nodes=20, orphans=3)]
    assert fresh.incomplete_chunks(as_ids([CHUNK, OLDEST])).tolist() == [False, True]
    assert (fresh.meta(), fresh.segments(CHUNK) is not None) == (META, True)
    fresh.close()


@pytest.fixture
def newer(old: Store) -> np.ndarray:
    """Write 300 rows in the current format to the table of format 1, and return them."""
    features = features_of(range(FIRST + 100, FIRST + 400), seed=4)
    old.create(META)
    old.write(features)
    return features


def test_rows_of_two_formats_are_read_in_the_requested_order(old: Store, newer: np.ndarray) -> None:
    older = sorted(map(int, expected_nodes()))
    absent = [FIRST + 400, FIRST + 90]
    ids = np.random.default_rng(1).permutation(as_ids([*older, *newer["label"].tolist(), *absent, *older]))
    unique, inverse = np.unique(ids, return_inverse=True)
    expected = Rows.joined(unique, [old.read(older), Rows.complete(newer)]).take(inverse)
    rows = old.read(ids)
    assert rows.features.tobytes() == expected.features.tobytes()
    assert np.array_equal(rows.present, expected.present)
    assert rows.found.sum() == len(ids) - len(absent)


def test_a_row_of_another_id_in_a_table_of_two_formats_is_an_error(old: Store, newer: np.ndarray) -> None:
    first, last = newer["label"][[0, -1]].tolist()
    copied = f'SELECT features FROM "{OLD}.nodes" WHERE id = {last}'
    change(old, f'UPDATE "{OLD}.nodes" SET features = ({copied}) WHERE id = {first}')
    with pytest.raises(StoreError, match="a row holds the record of another id"):
        old.read(newer["label"])


# ------------------------------------------------------------------ records
def test_records_of_the_same_length_are_distinguished() -> None:
    other = np.dtype([("label", "<u8"), ("size_nm3", "<u4"), ("pad", "V57")])
    assert other.itemsize == FEATURES.itemsize
    record = new_format({other.itemsize: other})
    assert record.itemsize == FEATURES.itemsize + 1
    features = features_of(range(FIRST, FIRST + 9))
    stored = encode(features, record)
    assert {len(row) for row in stored} == {record.itemsize}
    assert stored == encode(features, record)
    short = np.dtype([("label", "<u8"), ("size_nm3", "<u4")])
    formats = {record.itemsize: record, 12: short}
    assert own_format({12: short}) is None
    assert own_format(formats) is record
    mixed = decode([*stored[:4], np.array((FIRST + 9, 3), short).tobytes(), *stored[4:]], formats)
    assert mixed.ids.tolist() == [*range(FIRST, FIRST + 4), FIRST + 9, *range(FIRST + 4, FIRST + 9)]
    assert served_values(mixed)[4] == {"size_nm3": 3 * 10_240}
    assert np.delete(mixed.features, 4).tobytes() == features.tobytes()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "null",
        "[1]",
        '[["label","<u8",[]]]',
        '[["label","O",[]]]',
        '[["label","<u8",[]],["x","<u4",[]]]',
    ],
)
def test_malformed_descriptions(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a JSON list of|unknown|has no field"):
        parse(text, 200)


def test_a_field_of_another_type_is_unknown() -> None:
    text = describe(FEATURES)
    assert parse(text, FEATURES.itemsize) == FEATURES == FIRST_RECORD
    assert parse(text, 80) == padded(FEATURES, 80)
    with pytest.raises(ValueError, match=r"'pca_val' .*is unknown: expected"):
        parse(text.replace('"pca_val","<f4"', '"pca_val","<f8"'), 200)
    with pytest.raises(ValueError, match=r"has 69 bytes, expected 60"):
        parse(text, 60)


# ------------------------------------------------------------------ damage
@pytest.mark.parametrize("size", [0, 68, 70, 73, 138])
def test_a_row_of_another_length_is_an_error(table: Store, size: int) -> None:
    change(table, f'UPDATE "t.nodes" SET features = zeroblob({size}) WHERE id = {FIRST + 2}')
    said = f"table t in {table.url}: a row has {size} bytes, expected 69"
    with pytest.raises(StoreError, match=said):
        table.read([FIRST + 1, FIRST + 2])
    with pytest.raises(StoreError, match=said):
        table.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK))
    assert table.read([FIRST + 1]).found.all()


def test_a_row_of_another_id_is_an_error(table: Store) -> None:
    change(table, f'UPDATE "t.nodes" SET features = zeroblob(69) WHERE id = {FIRST + 2}')
    with pytest.raises(StoreError, match="a row holds the record of another id"):
        table.read([FIRST, FIRST + 2])


@pytest.mark.parametrize("files", ["{", "[]", '{"found": 1}', "null"])
def test_totals_name_the_chunk_of_a_malformed_record(table: Store, files: str) -> None:
    table.put_chunk(ChunkRecord(OLDEST, DONE, T0))
    table.put_chunk(ChunkRecord(CHUNK, DONE, T0))
    change(table, f"UPDATE \"t.chunks\" SET files = '{files}' WHERE id = {CHUNK}")
    with pytest.raises(StoreError, match=f"table t in .*: the record of chunk {CHUNK} cannot be read"):
        table.chunk_totals(timedelta(0), 1)


# ------------------------------------------------------------------ newer versions
USES: list[Callable[[Store], Any]] = [
    lambda store: store.read([FIRST]),
    lambda store: store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK)),
    lambda store: store.write(features_of([FIRST])),
    lambda store: store.delete(FIRST, FIRST),
    lambda store: store.create(META),
    lambda store: store.stamp(META),
    lambda store: store.meta(),
    lambda store: store.geometry(),
    lambda store: store.put_geometry(GEOMETRY),
    lambda store: store.put_chunk(ChunkRecord(CHUNK, DONE, T0)),
    lambda store: store.chunk_states(as_ids([CHUNK])),
    lambda store: store.incomplete_chunks(as_ids([CHUNK])),
    lambda store: store.failures(as_ids([CHUNK])),
    lambda store: list(store.chunk_records()),
    lambda store: store.coverage(),
    lambda store: store.chunk_totals(timedelta(0), 1),
    lambda store: store.segments(CHUNK),
    lambda store: store.note("audit"),
    lambda store: store.put_note("audit", "{}"),
    lambda store: store.ping(),
]


@pytest.mark.parametrize("part", ["table", "nodes", "chunks", "notes"])
def test_a_table_of_a_newer_format_is_refused_by_name(table: Store, part: str) -> None:
    table.ping()
    change(table, f"UPDATE formats SET version = 9 WHERE name = 'T' AND part = '{part}'")
    before = dump(table)
    for use in USES:
        with pytest.raises(UnknownFormat, match=f"table t in {table.url}: {part}: format 9, expected"):
            use(table)
    assert dump(table) == before
    change(table, "UPDATE formats SET version = 2 WHERE part IN ('nodes', 'chunks')")
    change(table, "UPDATE formats SET version = 1 WHERE part IN ('table', 'notes')")
    assert table.read([FIRST]).found.all()


def test_a_part_that_is_unknown_is_refused_by_name(table: Store) -> None:
    change(table, "INSERT INTO formats VALUES ('t', 'meshes', 0, 1, '')")
    with pytest.raises(UnknownFormat, match=r"table t in .*: meshes: format 1, expected 0 at most"):
        table.read([FIRST])


def test_a_newer_table_does_not_stop_the_others_of_its_file(table: Store) -> None:
    with closing(open_store(table.url, "other")) as other:
        other.create(META)
        change(table, "UPDATE formats SET version = 9 WHERE name = 'other'")
        assert table.read([FIRST]).found.all()
        with pytest.raises(UnknownFormat, match="table other in "):
            other.read([FIRST])


def test_an_unknown_format_is_not_a_transient_error(table: Store) -> None:
    change(table, "UPDATE formats SET version = 9")
    with pytest.raises(StoreError) as error:
        table.ping()
    assert not isinstance(error.value, StoreUnavailable)
