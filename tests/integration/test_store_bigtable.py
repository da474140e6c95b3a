"""Tests of what is specific to the Bigtable store."""

from __future__ import annotations

import itertools
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.bigtable.data import ReadRowsQuery, RowMutationEntry, SetCell

from l2features.core.chunks import NO_FILES
from l2features.core.errors import StoreError, UnknownFormat
from l2features.core.ids import as_ids, row_keys
from l2features.core.schema import NAMES
from l2features.store.base import DONE, FAILED, ChunkRecord, Store, open_store
from l2features.store.bigtable.cells import newest_attributes
from l2features.store.bigtable.row_stream import Connection
from l2features.testing.emulators import Emulator
from l2features.testing.store_suite import StoreSuite
from l2features.testing.stores import (
    CHUNK,
    FIRST,
    GEOMETRY,
    INSTANCE,
    LAYOUT,
    META,
    PROJECT,
    STORE_URL,
    T0,
    features_of,
    make_table,
    raw_table,
    served_values,
    versions,
)


class TestBigtableStore(StoreSuite):
    @pytest.fixture
    def store_url(self, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr("l2features.store.bigtable.bigtable_store.SCAN_ROWS", 4)
        return STORE_URL


def test_repeated_writes_leave_one_version_of_each_cell(bigtable_store: Store) -> None:
    features = features_of([FIRST + i for i in range(7)])
    raw = raw_table(bigtable_store.name)
    for _ in range(3):  # as kvdbclient writes: without a time, so that the server gives one
        cells = [SetCell("0", name, b"old") for name in (*NAMES, "left_over")]
        raw.bulk_mutate_rows([RowMutationEntry(key, cells) for key in row_keys(features["label"])])
    first = row_keys(features["label"])[0]
    assert versions(bigtable_store.name)[first, b"size_nm3"] >= 2
    for seed in (1, 2, 2):
        bigtable_store.write(features_of(features["label"], seed))
        bigtable_store.put_chunk(ChunkRecord(CHUNK, FAILED, T0, reason="x"))
        bigtable_store.put_chunk(ChunkRecord(CHUNK, DONE, T0, nodes=seed), as_ids([1]))
        bigtable_store.stamp(META)
    found = versions(bigtable_store.name)
    assert set(found.values()) == {1}
    nodes = [qualifier for key, qualifier in found if key == first]
    assert sorted(nodes) == sorted(name.encode() for name in NAMES)
    assert {qualifier for key, qualifier in found if key.startswith(b"chunk_")} == {b"done", b"segments"}
    assert b"0" * 20 not in {key for key, _ in found}


def test_a_new_table_has_the_families_of_kvdbclient(bigtable_store: Store) -> None:
    from google.cloud import bigtable

    admin = bigtable.Client(project=PROJECT, admin=True)
    found = admin.instance(INSTANCE).table(bigtable_store.name).list_column_families()
    rules = {name: family.gc_rule for name, family in found.items()}
    assert sorted(rules) == ["0", "1", "2", "3", "4"]
    assert rules["1"].max_num_versions == 1
    assert rules["3"].max_age.days == 365
    assert rules["0"] is rules["2"] is rules["4"] is None


def test_older_tables_without_meta_are_readable(emulator: Emulator) -> None:
    name = f"l2_older_{os.getpid()}"
    make_table(name, ("0",))
    size = SetCell("0", b"size_nm3", b"\x07\0\0\0")
    mark = SetCell("0", b"size_nm3", bytes(8))
    keys = row_keys(as_ids([FIRST, FIRST + 1]))
    raw_table(name).bulk_mutate_rows(
        [RowMutationEntry(k, [c]) for k, c in zip(keys, (size, mark), strict=True)]
    )
    store = open_store(STORE_URL, name)
    assert store.meta() is None
    rows = store.read([FIRST, FIRST + 1, FIRST + 2])
    assert served_values(rows) == [{"size_nm3": 7 * 10_240}, {"size_nm3": 0}, {}]
    assert len(store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK))) == 2
    store.write(features_of([FIRST]))
    store.create(META)
    assert store.meta() == META
    store.close()


def test_only_the_newest_version_of_family_0_is_read(emulator: Emulator) -> None:
    name = f"l2_versions_{os.getpid()}"
    make_table(name, ("0", "1"))
    cells = [SetCell("0", b"size_nm3", bytes([n, 0, 0, 0]), n * 1000) for n in (1, 3, 2)]
    cells.append(SetCell("1", b"size_nm3", b"\x09\0\0\0", 9000))
    first, second = row_keys(as_ids([FIRST, FIRST + 1]))
    entries = [RowMutationEntry(first, cells), RowMutationEntry(second, cells[-1:])]
    raw_table(name).bulk_mutate_rows(entries)
    store = open_store(STORE_URL, name)
    rows = store.read([FIRST, FIRST + 1])
    assert rows.found.tolist() == [True, False]
    assert rows.features["size_nm3"].tolist() == [3, 0]
    store.close()


@pytest.mark.parametrize("value", [b"\x01\x02\x03", b""])
def test_a_broken_cell_is_an_error_of_the_store(bigtable_store: Store, value: bytes) -> None:
    raw_table(bigtable_store.name).mutate_row(row_keys(as_ids([FIRST]))[0], SetCell("0", b"area_nm2", value))
    for read in (
        lambda: bigtable_store.read([FIRST]),
        lambda: bigtable_store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK)),
    ):
        with pytest.raises(StoreError, match=f"row {FIRST}: area_nm2 has {len(value)} bytes, expected 4"):
            read()


def chunk_cell(store: Store, value: bytes, qualifier: str = "done") -> None:
    """Write a cell of a chunk's row directly, without our store."""
    key = b"chunk_" + row_keys(as_ids([CHUNK]))[0]
    raw_table(store.name).mutate_row(key, SetCell("0", qualifier, value, 1_795_220_864_368_000))


def test_older_records_are_read(bigtable_store: Store) -> None:
    chunk_cell(bigtable_store, b'{"nodes":12,"orphans":3,"reason":""}')
    [record] = bigtable_store.chunk_records()
    assert (record.nodes, record.orphans, record.files, dict(record.saturated)) == (12, 3, NO_FILES, {})
    assert bigtable_store.incomplete_chunks(as_ids([CHUNK])).tolist() == [False]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b'{"format":3,"nodes":1,"orphans":0,"reason":""}', "format 3, expected 2 at most"),
        (b'{"format":"x"}', "format 'x', expected 2 at most"),
        (b'{"format":2,"nodes":1}', "cannot be read"),
        (b'{"format":2,"nodes":1,"orphans":0,"reason":"","files":{"other":1}}', "cannot be read"),
        (b"[]", "cannot be read"),
        (b"", "cannot be read"),
        (b"\xff", "cannot be read"),
    ],
)
def test_records_of_newer_formats_are_refused_by_name(bigtable_store: Store, value: bytes, said: str) -> None:
    what = f"table {bigtable_store.name}: the record of chunk {CHUNK}"
    for state in (DONE, FAILED):
        chunk_cell(bigtable_store, value, state)
    for read in (
        lambda: list(bigtable_store.chunk_records()),
        lambda: bigtable_store.failures(as_ids([CHUNK])),
    ):
        with pytest.raises(StoreError, match=f"{what}.*{said}") as error:
            read()
        assert isinstance(error.value, UnknownFormat) == ("format " in said)


def test_a_geometry_of_a_newer_format_is_refused_by_name(bigtable_store: Store) -> None:
    for value in (b'{"format":9}', b'{"format":0}'):
        raw_table(bigtable_store.name).mutate_row(b"geometry", SetCell("0", b"geometry", value))
        for read in (bigtable_store.geometry, bigtable_store.meta):
            said = f"table {bigtable_store.name}: the geometry: format {value[10:11].decode()}, expected"
            with pytest.raises(UnknownFormat, match=said):
                read()


def test_truncated_segments(bigtable_store: Store) -> None:
    chunk_cell(bigtable_store, b"123", "segments")
    with pytest.raises(StoreError, match=f"chunk {CHUNK}: the segments have 3 bytes"):
        bigtable_store.segments(CHUNK)


class Evil:
    """An object whose unpickling creates the folder ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("row", ["evil", "evil inside", "list", "keys missing", "no pickle", "geometry"])
def test_a_meta_row_is_not_trusted(bigtable_store: Store, tmp_path: Path, row: str) -> None:
    evil = Evil(tmp_path / "made")
    key, value = {
        "evil": (b"meta", pickle.dumps(evil)),
        "evil inside": (b"meta", pickle.dumps({"graph_id": evil, "cv_path": "", "timestamp": ""})),
        "list": (b"meta", pickle.dumps([1, 2])),
        "keys missing": (b"meta", pickle.dumps({"graph_id": "x"})),
        "no pickle": (b"meta", b"{}"),
        "geometry": (b"geometry", b"[1]"),
    }[row]
    raw_table(bigtable_store.name).mutate_row(key, SetCell("0", key, value))
    with pytest.raises(StoreError, match=rf"table {bigtable_store.name}: the row '{key.decode()}' is not"):
        bigtable_store.meta()
    with pytest.raises(StoreError, match="is not"):
        bigtable_store.create(META)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_only_the_columns_asked_for_are_sent(bigtable_store: Store, n: int) -> None:
    features = features_of([FIRST])
    bigtable_store.write(features)
    for names in itertools.combinations(NAMES, n):
        query = ReadRowsQuery(row_filter=newest_attributes(names))
        [row] = [r for r in raw_table(bigtable_store.name).read_rows(query) if r.row_key.isdigit()]
        assert {cell.qualifier.decode() for cell in row.cells} == set(names)


def test_roots_and_segments_that_are_malformed_or_newer(bigtable_store: Store) -> None:
    bigtable_store.put_root_cells({8: {"a": b"1"}})
    raw = raw_table(bigtable_store.name)
    raw.mutate_row(b"root_" + row_keys(as_ids([7]))[0], SetCell("0", b"a", b"\x02new"))
    with pytest.raises(UnknownFormat, match="cell 'a' of root 7: format 2, expected 1 at most"):
        bigtable_store.root_cells(as_ids([7, 8]), ["a"])
    raw.mutate_row(b"segment_" + row_keys(as_ids([7]))[0], SetCell("0", bytes(8), b"1234"))
    with pytest.raises(StoreError, match="segment 7: a stored node id has 4 bytes, expected 8"):
        bigtable_store.segment_nodes(as_ids([7]), 1)


def test_repeated_writes_of_roots_and_segments_leave_one_version(bigtable_store: Store) -> None:
    for i in range(3):
        bigtable_store.put_root_cells({7: {"a": b"%d" % i, "b": b"2"}})
        bigtable_store.put_chunk(ChunkRecord(CHUNK, DONE, T0), as_ids([1, 2 + i]))
        bigtable_store.index_segments(CHUNK, as_ids([1, 2 + i]))
    found = versions(bigtable_store.name)
    assert set(found.values()) == {1}
    keys = {key for key, _ in found if key.startswith((b"root_", b"segment_"))}
    assert keys == {b"root_%020d" % 7, b"segment_%020d" % 1, b"segment_%020d" % 4}


def test_row_keys_without_an_id(bigtable_store: Store) -> None:
    bigtable_store.write(features_of([FIRST]))
    key = row_keys(as_ids([FIRST]))[0] + b"x"
    raw_table(bigtable_store.name).mutate_row(key, SetCell("0", b"size_nm3", bytes(4)))
    assert bigtable_store.read([FIRST]).found.all()
    said = re.escape(f"the row key {key!r} is not an id of 20 digits")
    with pytest.raises(StoreError, match=f"table {bigtable_store.name}: {said}"):
        bigtable_store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK))


def test_an_older_table_gets_a_geometry_and_no_meta(emulator: Emulator) -> None:
    name = f"l2_geometry_{os.getpid()}"
    make_table(name, ("0",))
    store = open_store(STORE_URL, name)
    assert store.geometry() is None
    store.put_geometry(GEOMETRY)
    assert store.geometry() == GEOMETRY
    assert store.meta() is None
    store.close()


def test_a_channel_to_the_real_service_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIGTABLE_EMULATOR_HOST", raising=False)
    credentials = AnonymousCredentials()
    monkeypatch.setattr("google.auth.default", lambda *_, **__: (credentials, "p"))
    connection = Connection("p", "i", "t", 0.5)
    assert connection.table.client.transport.grpc_channel is not None
    connection.close()
