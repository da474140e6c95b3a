"""The stores: one contract, and what is special to each kind."""

from __future__ import annotations

import itertools
import os
import pickle
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2features.errors import ConfigError, StoreError, TableExists, TableNotFound
from l2features.geometry import Geometry
from l2features.ids import IdLayout, as_ids, row_keys
from l2features.rows import Rows
from l2features.schema import FEATURES, NAMES
from l2features.store import DONE, FAILED, ChunkRecord, Meta, Store, open_store

from .conftest import INSTANCE, PROJECT, STORE_URL
from .emulator import Emulator, free_port
from .plain import served

LAYOUT = IdLayout({2: 10})
GEOMETRY = Geometry((16.0, 16.0, 40.0), (1024, 512, 20), (160, 128, 48), (64, 64, 32), LAYOUT)
META = Meta("fixture", "precomputed://file:///seg", "2026-11-21 00:27:44", GEOMETRY)
META_REST = (META.cv_path, META.timestamp, GEOMETRY)
CHUNK = LAYOUT.chunk_id(1, 0, 1)
FIRST = CHUNK + 1
T0 = datetime(2026, 11, 21, 0, 27, 44, 368_000, UTC)
counter = itertools.count()


def features_of(ids: Any, seed: int = 1) -> np.ndarray:
    """Computed rows with random values; every third has no principal axes, every seventh is not computed."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(len(ids), dtype=FEATURES)
    for name in NAMES:
        values = rng.integers(1, 60_000, rows[name].shape)
        rows[name] = values / 7 if rows.dtype[name].base.kind == "f" else values
    rows["label"], place = as_ids(ids), np.arange(len(ids))
    rows["has_pca"] = place % 3 != 2
    for name in ("pca", "pca_val"):
        rows[name][~rows["has_pca"]] = 0
    for name in (*NAMES, "has_pca"):
        rows[name][place % 7 == 6] = 0
    return rows


def served_values(rows: Rows) -> list[dict[str, Any]]:
    return served(rows, GEOMETRY)


@pytest.fixture(params=["sqlite", "bigtable"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Opens stores, of a table that is not there unless it is named."""
    kind, opened = request.param, []
    if kind == "bigtable":
        request.getfixturevalue("emulator")

    def new(name: str | None = None) -> Store:
        url = STORE_URL if kind == "bigtable" else f"sqlite://{tmp_path}/store.db"
        opened.append(open_store(url, name or f"l2_{kind}_{os.getpid()}_{next(counter)}"))
        return opened[-1]

    yield new
    for store in opened:
        store.close()


@pytest.fixture
def store(new_store: Callable[..., Store]) -> Store:
    store = new_store()
    store.create(META)
    return store


# ------------------------------------------------------------------ tables and their meta
def test_create_twice_and_with_another_meta(store: Store) -> None:
    store.write(features_of([FIRST]))
    store.create(META)
    assert store.meta() == META
    for other in (Meta("other", *META_REST), Meta("fixture", META.cv_path, "2020-01-01 00:00:00", GEOMETRY)):
        with pytest.raises(TableExists, match=rf"table {store.name} is in .* already, with another meta"):
            store.create(other)
    assert store.meta() == META
    assert store.read([FIRST]).found.all()


def test_meta_may_lack_the_geometry_and_be_stamped_again(new_store: Callable[..., Store]) -> None:
    store = new_store()
    plain = Meta("fixture", "graphene://x", "2026-11-21 00:27:44")
    store.create(plain)
    assert store.meta() == plain
    store.stamp(META)
    assert store.meta() == META
    assert new_store(store.name).meta() == META
    assert META.time == datetime(2026, 11, 21, 0, 27, 44, tzinfo=UTC)


def test_a_table_that_is_not_there(new_store: Callable[..., Store]) -> None:
    new_store().create(META)  # another table of the same store
    store, record = new_store(), ChunkRecord(CHUNK, DONE, T0)
    for use in (
        store.meta,
        lambda: store.read([FIRST]),
        lambda: store.write(features_of([FIRST])),
        lambda: store.stamp(META),
        lambda: store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK)),
        lambda: store.put_chunk(record),
        lambda: store.chunk_states(as_ids([CHUNK])),
        lambda: list(store.chunk_records()),
        lambda: store.segments(CHUNK),
    ):
        with pytest.raises(TableNotFound, match=f"table {store.name}.* not found"):
            use()


def test_tables_of_a_store_are_apart(store: Store, new_store: Callable[..., Store]) -> None:
    for name in (f"{store.name}.nodes", f"{store.name}-b"):
        other = new_store(name)
        other.create(Meta("b", *META_REST))
        assert not other.read([FIRST]).found.any()
        other.write(features_of([FIRST]))
        other.put_chunk(ChunkRecord(CHUNK, DONE, T0))
    assert not store.read([FIRST]).found.any()
    assert list(store.chunk_records()) == []
    assert store.meta() == META


# ------------------------------------------------------------------ rows
@pytest.mark.parametrize("n", [1, 7, 5_500])
def test_rows_come_back_as_they_were_written(store: Store, n: int) -> None:
    features = features_of(np.arange(FIRST, FIRST + n, dtype=np.uint64))
    store.write(features)
    rows = store.read(features["label"])
    assert rows.features.tobytes() == features.tobytes()
    np.testing.assert_array_equal(rows.present, Rows.complete(features).present)
    scanned = store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK))
    assert scanned.features.tobytes() == features.tobytes()


def test_rows_come_in_the_order_asked_for(store: Store) -> None:
    features = features_of([FIRST + i for i in range(5)])
    store.write(features[::-1])
    asked = [FIRST + i for i in (3, 0, 99, 3, 4, 0, 77)]
    rows = store.read(asked)
    assert rows.ids.tolist() == asked
    assert rows.found.tolist() == [True, True, False, True, True, True, False]
    expected = served_values(Rows.complete(features))
    assert served_values(rows) == [expected[i] if i < 5 else {} for i in (3, 0, 99, 3, 4, 0, 77)]


@pytest.mark.parametrize("ids", [[], (), np.empty(0, dtype=np.uint64)])
def test_empty_reads_and_writes(store: Store, ids: Any) -> None:
    store.write(features_of([]))
    assert (len(store.read(ids)), store.read(ids).features.dtype) == (0, FEATURES)
    assert store.read([FIRST, FIRST + 1]).found.tolist() == [False, False]
    assert len(store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK))) == 0
    assert store.chunk_states(as_ids([])).tolist() == []
    assert list(store.chunk_records()) == []


@pytest.mark.parametrize(
    "names", [("size_nm3",), ("pca",), ("pca_val", "area_nm2"), NAMES, tuple(reversed(NAMES)), ("none",), ()]
)
def test_columns(store: Store, names: tuple[str, ...]) -> None:
    features = features_of([FIRST + i for i in range(8)])
    store.write(features)
    expected = [
        {name: value for name, value in row.items() if name in names}
        for row in served_values(Rows.complete(features))
    ]
    assert served_values(store.read(features["label"], names)) == expected
    scanned = store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK), names)
    by_id = dict(zip(scanned.ids.tolist(), served_values(scanned), strict=True))
    assert [by_id.get(i, {}) for i in features["label"].tolist()] == expected


def test_a_scan_keeps_to_its_chunk(store: Store) -> None:
    last = LAYOUT.last_id(CHUNK)
    inside = [CHUNK, FIRST, FIRST + 10**6, last - 1, last]
    around = [CHUNK - 1, last + 1, 2 * CHUNK, 5, 2**63 + FIRST]
    store.write(features_of(inside[::-1] + around))
    assert store.scan_chunk(CHUNK, last).ids.tolist() == inside
    assert store.scan_chunk(last + 1, LAYOUT.last_id(last + 1)).ids.tolist() == [last + 1]


def test_ids_beyond_the_signed_range(store: Store) -> None:
    ids = [1, 2**63 - 1, 2**63, 2**63 + 5, 2**64 - 1]
    features = features_of(ids)
    store.write(features)
    assert store.read(ids).features.tobytes() == features.tobytes()
    assert store.scan_chunk(2**63, 2**64 - 1).ids.tolist() == ids[2:]
    store.put_chunk(ChunkRecord(2**64 - 8, DONE, T0), as_ids([2**64 - 1, 2**63]))
    assert store.chunk_states(as_ids([2**64 - 8, 5])).tolist() == [DONE, ""]
    assert [record.chunk_id for record in store.chunk_records()] == [2**64 - 8]
    segments = store.segments(2**64 - 8)
    assert segments is not None
    assert (segments.dtype, segments.tolist()) == (np.uint64, [2**64 - 1, 2**63])


def test_a_row_is_replaced_as_a_whole(store: Store) -> None:
    store.write(features_of([FIRST], seed=1))
    second = features_of([FIRST], seed=2)
    second["has_pca"] = second["pca"] = second["pca_val"] = 0
    store.write(second)
    assert served_values(store.read([FIRST])) == served_values(Rows.complete(second))
    not_computed = np.zeros(1, dtype=FEATURES)
    not_computed["label"] = FIRST
    store.write(not_computed)
    assert store.read([FIRST]).not_computed.tolist() == [True]
    assert served_values(store.read([FIRST])) == [{"size_nm3": 0}]


# ------------------------------------------------------------------ chunks
def test_chunk_records(store: Store) -> None:
    done = ChunkRecord(CHUNK, DONE, T0, nodes=12, orphans=3)
    failed = ChunkRecord(LAYOUT.chunk_id(0, 0, 0), FAILED, T0, reason='corrupt: "x", ü\n')
    store.put_chunk(done, as_ids([5, 9]))
    store.put_chunk(failed)
    assert sorted(store.chunk_records(), key=lambda r: r.chunk_id) == [failed, done]
    later = ChunkRecord(failed.chunk_id, DONE, T0, nodes=1)
    store.put_chunk(later)
    assert later in list(store.chunk_records())
    assert failed not in list(store.chunk_records())
    assert store.chunk_states(as_ids([CHUNK, 7, failed.chunk_id, CHUNK])).tolist() == [DONE, "", DONE, DONE]


def test_segments(store: Store) -> None:
    for segments in ([], [3], [2**63, 7, 2**64 - 1]):
        store.put_chunk(ChunkRecord(CHUNK, DONE, T0), as_ids(segments))
        read = store.segments(CHUNK)
        assert read is not None
        assert read.tolist() == segments
    store.put_chunk(ChunkRecord(CHUNK, DONE, T0))
    assert store.segments(CHUNK) is None
    assert store.segments(CHUNK + 1) is None


def test_states_of_ten_thousand_chunks(store: Store) -> None:
    chunk_ids = LAYOUT.chunk_id_array(np.argwhere(np.ones((25, 20, 20))))
    for i in range(0, 10_000, 1_000):
        store.put_chunk(ChunkRecord(int(chunk_ids[i]), (DONE, FAILED)[i // 1_000 % 2], T0, nodes=i))
    states = store.chunk_states(chunk_ids)
    assert (states.shape, (states == "").sum()) == ((10_000,), 9_990)
    assert states[::1_000].tolist() == [DONE, FAILED] * 5
    assert sum(record.nodes for record in store.chunk_records()) == 45_000


# ------------------------------------------------------------------ all kinds
def test_an_open_store_can_be_pickled(store: Store) -> None:
    store.write(features_of([FIRST]))
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.url, copy.name, copy.meta()) == (store.url, store.name, META)
    assert copy.read([FIRST]).found.all()
    copy.close()


def test_a_closed_store_opens_again(store: Store) -> None:
    store.close()
    store.write(features_of([FIRST]))
    store.close()
    assert store.read([FIRST]).found.all()


@pytest.mark.parametrize(
    ("url", "name", "message"),
    [
        ("mysql://x/y", "t", "expected bigtable://project/instance or sqlite:///path/file.db"),
        ("", "t", "expected bigtable://"),
        ("bigtable://p", "t", "expected bigtable://project/instance"),
        ("bigtable://p/i/t", "t", "expected bigtable://project/instance"),
        ("sqlite://relative.db", "t", "expected sqlite:///path/file.db with an absolute path"),
        ("sqlite:///folder/", "t", "expected sqlite:///path/file.db"),
        ("sqlite:///a.db", "", "table name '': expected 1 to 50"),
        ("sqlite:///a.db", 'x"; DROP TABLE', "expected 1 to 50"),
        ("sqlite:///a.db", "x" * 51, "expected 1 to 50"),
    ],
)
def test_urls_and_names_that_cannot_be(url: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_store(url, name)


# ------------------------------------------------------------------ Bigtable
def raw_table(name: str) -> Any:
    """The table by the data client, past our store."""
    from google.cloud.bigtable.data import BigtableDataClient

    return BigtableDataClient(project=PROJECT).get_table(INSTANCE, name)


def versions(name: str) -> dict[tuple[bytes, bytes], int]:
    """Number of cell versions of every (row, column) of a table."""
    from google.cloud.bigtable.data import ReadRowsQuery

    out: dict[tuple[bytes, bytes], int] = {}
    for row in raw_table(name).read_rows(ReadRowsQuery()):
        for cell in row.cells:
            out[row.row_key, cell.qualifier] = out.get((row.row_key, cell.qualifier), 0) + 1
    return out


def make_table(name: str, families: tuple[str, ...]) -> Any:
    from google.cloud import bigtable

    table = bigtable.Client(project=PROJECT, admin=True).instance(INSTANCE).table(name)
    table.create(column_families=dict.fromkeys(families))
    return table


@pytest.fixture
def bigtable_store(emulator: Emulator) -> Iterator[Store]:
    store = open_store(STORE_URL, f"l2_only_{os.getpid()}_{next(counter)}")
    store.create(META)
    yield store
    store.close()


def test_repeated_writes_leave_one_version_of_each_cell(bigtable_store: Store) -> None:
    from google.cloud.bigtable.data import RowMutationEntry, SetCell

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
    from google.cloud.bigtable.data import RowMutationEntry, SetCell

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
    from google.cloud.bigtable.data import RowMutationEntry, SetCell

    name = f"l2_versions_{os.getpid()}"
    make_table(name, ("0", "1"))
    cells = [SetCell("0", b"size_nm3", bytes([n, 0, 0, 0]), n * 1000) for n in (1, 3, 2)]
    cells.append(SetCell("1", b"size_nm3", b"\x09\0\0\0", 9000))
    raw_table(name).bulk_mutate_rows([RowMutationEntry(row_keys(as_ids([FIRST]))[0], cells)])
    store = open_store(STORE_URL, name)
    assert store.read([FIRST]).features["size_nm3"].tolist() == [3]
    store.close()


@pytest.mark.parametrize("value", [b"\x01\x02\x03", b""])
def test_a_broken_cell_is_an_error_of_the_store(bigtable_store: Store, value: bytes) -> None:
    from google.cloud.bigtable.data import SetCell

    raw_table(bigtable_store.name).mutate_row(row_keys(as_ids([FIRST]))[0], SetCell("0", b"area_nm2", value))
    for read in (
        lambda: bigtable_store.read([FIRST]),
        lambda: bigtable_store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK)),
    ):
        with pytest.raises(StoreError, match=f"row {FIRST}: area_nm2 has {len(value)} bytes, expected 4"):
            read()


class Evil:
    """Unpickling it makes the folder ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("row", ["evil", "evil inside", "list", "keys missing", "no pickle", "geometry"])
def test_a_meta_row_is_not_trusted(bigtable_store: Store, tmp_path: Path, row: str) -> None:
    from google.cloud.bigtable.data import SetCell

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


@pytest.mark.parametrize("listening", [False, True], ids=["refused", "silent"])
def test_a_server_that_is_down_is_an_error_and_not_a_hang(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, listening: bool
) -> None:
    monkeypatch.setattr("l2features.bigtable.OPERATION_TIMEOUT_S", 0.4)
    monkeypatch.setattr("l2features.bigtable.ATTEMPT_TIMEOUT_S", 0.2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
        if listening:
            server.listen()
        monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", f"127.0.0.1:{server.getsockname()[1]}")
        store = open_store("bigtable://p/i", "t")
        for use in (
            store.meta,
            lambda: store.create(META),
            lambda: store.read([FIRST]),
            lambda: store.write(features_of([FIRST])),
            lambda: store.put_chunk(ChunkRecord(CHUNK, DONE, T0)),
            lambda: list(store.chunk_records()),
        ):
            said = "Deadline Exceeded" if listening else "Connection refused"
            with pytest.raises(StoreError, match=f"^bigtable://p/i, table t: .*{said}") as error:
                use()
            assert not isinstance(error.value, TableNotFound)
        store.close()


# ------------------------------------------------------------------ SQLite
def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("not a database, but long enough to look like one\n" * 100)
    store = open_store(f"sqlite://{path}", "t")
    for use in (store.meta, lambda: store.create(META), lambda: store.read([1])):
        with pytest.raises(StoreError, match=r"text\.db: file is not a database"):
            use()
    assert path.read_text().startswith("not a database")


def test_folders_that_cannot_hold_the_file(tmp_path: Path) -> None:
    store = open_store(f"sqlite://{tmp_path}/none/store.db", "t")
    with pytest.raises(StoreError, match=f"there is no folder {tmp_path}/none"):
        store.create(META)
    with pytest.raises(TableNotFound, match=r"table t not found: there is no file .*none/store\.db"):
        store.meta()
    assert not (tmp_path / "none").exists()
    with pytest.raises(StoreError, match="unable to open database file"):
        open_store(f"sqlite://{tmp_path}", "t").create(META)


def test_reading_makes_no_file(tmp_path: Path) -> None:
    store = open_store(f"sqlite://{tmp_path}/store.db", "t")
    for use in (store.meta, lambda: store.read([1]), lambda: store.write(features_of([1]))):
        with pytest.raises(TableNotFound, match="there is no file"):
            use()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["with space", "a#b?c%20d", "ü"])
def test_files_of_any_name(tmp_path: Path, name: str) -> None:
    store = open_store(f"sqlite://{tmp_path}/{name}.db", "t")
    store.create(META)
    assert (tmp_path / f"{name}.db").exists()
    assert store.meta() == META
    store.close()


def test_table_names_that_differ_in_case_only(tmp_path: Path) -> None:
    lower, upper = (open_store(f"sqlite://{tmp_path}/store.db", name) for name in ("l2_a", "L2_A"))
    lower.create(META)
    with pytest.raises(TableExists):
        upper.create(Meta("other", *META_REST))
    lower.close()
    upper.close()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(f"sqlite://{tmp_path}/store.db", "t")
    store.create(META)
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute(
            f'CREATE TRIGGER full BEFORE INSERT ON "t.nodes" WHEN NEW.id = {FIRST + 5} '
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
    db.close()
    with pytest.raises(StoreError, match=r"store\.db: disk full"):
        store.write(features_of([FIRST + i for i in range(10)]))
    assert len(store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK))) == 0
    store.close()


WRITER = """
import sys
from l2features.store import open_store
from tests.test_store import DONE, FIRST, LAYOUT, META, T0, ChunkRecord, features_of
url, worker, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store = open_store(url, "t")
store.create(META)
for i in range(rounds):
    chunk = LAYOUT.chunk_id(worker, i, 0)
    store.write(features_of([chunk + 1 + n for n in range(200)], seed=i))
    store.put_chunk(ChunkRecord(chunk, DONE, T0, nodes=200))
"""
READER = """
import sys
from l2features.store import open_store
from l2features.errors import TableNotFound
from tests.test_store import LAYOUT
store, seen = open_store(sys.argv[1], "t"), set()
while len(seen) < int(sys.argv[2]):
    try:
        done = {record.chunk_id for record in store.chunk_records()}
    except TableNotFound:
        continue
    assert seen <= done, "a done chunk went away"
    for chunk in done - seen:
        rows = store.scan_chunk(chunk, LAYOUT.last_id(chunk))
        assert len(rows) == 200, f"a done chunk with {len(rows)} rows"
    seen = done
"""


def test_processes_that_write_and_read_at_once(tmp_path: Path) -> None:
    url, workers, rounds = f"sqlite://{tmp_path}/store.db", 3, 10
    scripts: list[tuple[str, ...]] = [(WRITER, str(worker), str(rounds)) for worker in range(workers)]
    scripts += [(READER, str(workers * rounds))] * 2
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, url, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        for script, *arguments in scripts
    ]
    try:
        errors = [process.communicate(timeout=60)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), errors
    store = open_store(url, "t")
    for worker, i in itertools.product(range(workers), range(rounds)):
        chunk = LAYOUT.chunk_id(worker, i, 0)
        expected = features_of([chunk + 1 + n for n in range(200)], seed=i)
        assert store.scan_chunk(chunk, LAYOUT.last_id(chunk)).features.tobytes() == expected.tobytes()
    store.close()
    with sqlite3.connect(tmp_path / "store.db") as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


CREATORS = """
import multiprocessing, sys
from l2features.store import open_store
from tests.test_store import META
def create(url, barrier, errors):
    barrier.wait()
    try:
        open_store(url, "t").create(META)
    except Exception as error:
        errors.put(repr(error))
context = multiprocessing.get_context("fork")
for i in range(30):
    barrier, errors = context.Barrier(5), context.SimpleQueue()
    arguments = (f"sqlite://{sys.argv[1]}/{i}.db", barrier, errors)
    processes = [context.Process(target=create, args=arguments) for _ in range(5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert errors.empty(), errors.get()
"""


def test_processes_that_create_the_same_file_at_once(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", CREATORS, str(tmp_path)],
        check=True,
        timeout=60,
        cwd=Path(__file__).parent.parent,
    )
    assert len(list(tmp_path.glob("*.db"))) == 30
