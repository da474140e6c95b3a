"""Tests of stores that are down, stopped, slow or busy, and of broken streams."""

from __future__ import annotations

import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.api_core.exceptions import DeadlineExceeded, ServiceUnavailable
from google.cloud.bigtable.data.row_filters import CellsColumnLimitFilter
from google.cloud.bigtable_v2.types import ReadRowsRequest

from l2features.core.errors import StoreError, StoreUnavailable, TableNotFound
from l2features.core.ids import Ids, row_keys
from l2features.store.base import DONE, ChunkRecord, Store, open_store
from l2features.store.bigtable.row_arrays import FEATURE_COLUMNS
from l2features.store.bigtable.row_stream import Connection
from l2features.testing.emulators import Emulator
from l2features.testing.stores import (
    CHUNK,
    FIRST,
    INSTANCE,
    LAYOUT,
    META,
    PROJECT,
    STORE_URL,
    T0,
    features_of,
)

DEADLINE_S = 2.0
LATE_S = 1.5
"""How much later than its deadline a call may end here: a machine may be busy."""


def ids_from(n: int) -> Ids:
    return np.arange(FIRST, FIRST + n, dtype=np.uint64)


def assert_unavailable(use: Callable[[], Any], deadline_s: float) -> str:
    start = time.monotonic()
    with pytest.raises(StoreUnavailable) as error:
        use()
    assert time.monotonic() - start < deadline_s + LATE_S
    return str(error.value)


@pytest.fixture(scope="module")
def own_emulator(emulator: Emulator) -> Iterator[Emulator]:
    own = Emulator()
    yield own
    own.process.send_signal(signal.SIGCONT)
    own.stop()


@pytest.fixture
def stopped_store(own_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Open a store with 20,000 rows and a short deadline."""
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", own_emulator.host)
    writer = open_store(STORE_URL, "t")
    writer.create(META)
    if not writer.read([FIRST]).found.all():
        writer.write(features_of(ids_from(20_000)))
    writer.close()
    store = open_store(STORE_URL, "t", DEADLINE_S)
    yield store
    own_emulator.process.send_signal(signal.SIGCONT)
    store.close()


@pytest.mark.parametrize("listening", [False, True], ids=["refused", "silent"])
def test_a_server_that_is_down_is_an_error_and_not_a_hang(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, listening: bool
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listening:
            server.listen()
        monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", f"127.0.0.1:{server.getsockname()[1]}")
        store = open_store("bigtable://p/i", "t", 0.4)
        for use in (
            store.meta,
            store.geometry,
            store.ping,
            store.coverage,
            lambda: store.create(META),
            lambda: store.read([FIRST]),
            lambda: store.read(ids_from(20_000)),
            lambda: store.write(features_of([FIRST])),
            lambda: store.put_chunk(ChunkRecord(CHUNK, DONE, T0)),
            lambda: list(store.chunk_records()),
            lambda: store.chunk_states(ids_from(3)),
            lambda: store.failures(ids_from(3)),
        ):
            said = assert_unavailable(use, 0.4)
            assert said.startswith("bigtable://p/i, table t: ")
            assert ("Deadline Exceeded" if listening else "Connection refused") in said
        store.close()


class Refused:
    """A read that fails at once: refused if ``place`` is below 4, otherwise timed out."""

    def __init__(self, place: int) -> None:
        self.place = place

    def run(self) -> list[Any]:
        raise ServiceUnavailable("refused") if self.place < 4 else DeadlineExceeded("too late")

    def cancel(self) -> None:
        """Do nothing."""


def test_the_first_batch_that_failed_says_why(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", emulator.host)
    connection = Connection("p", "i", "t", 1.0)
    reads: list[Any] = [Refused(place) for place in range(8)]
    for _ in range(100):
        with pytest.raises(ServiceUnavailable):
            connection._run(reads, time.monotonic() + 1.0)
    connection.close()


@pytest.mark.parametrize("n", [10, 20_000, 100_000])
def test_a_server_that_stops(stopped_store: Store, own_emulator: Emulator, n: int) -> None:
    """Stop the server before and during a read; an unfinished read must not delay the next."""
    ids = ids_from(n)
    assert stopped_store.read(ids[:5_000]).found.all()
    for delay in (0.0, 0.05):
        stop = threading.Timer(delay, own_emulator.pause)
        stop.start()
        if not delay:
            stop.join()
        if n > 10 or not delay:
            assert_unavailable(lambda: stopped_store.read(ids), DEADLINE_S)
        stop.join()
        own_emulator.process.send_signal(signal.SIGCONT)
        assert stopped_store.read(ids[:10]).found.all()
        assert stopped_store.read(ids[:5_000]).found.all()


def test_a_server_that_pauses_for_less_than_the_deadline(
    own_emulator: Emulator, stopped_store: Store
) -> None:
    patient = open_store(STORE_URL, "t", 20.0)
    own_emulator.process.send_signal(signal.SIGSTOP)
    threading.Timer(0.5, own_emulator.process.send_signal, (signal.SIGCONT,)).start()
    assert patient.read(ids_from(6_000)).found.all()
    patient.close()


def test_a_server_that_restarts(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Emulator()
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", server.host)
    store = open_store(STORE_URL, "t", DEADLINE_S)
    store.create(META)
    server.stop()
    for _ in range(3):
        assert "Connection refused" in assert_unavailable(store.ping, DEADLINE_S)
    server.start()
    again = open_store(STORE_URL, "t", 10.0)
    with pytest.raises(TableNotFound):
        again.ping()
    time.sleep(1.5)
    with pytest.raises(TableNotFound):
        store.ping()
    server.stop()
    store.close()
    again.close()


# ------------------------------------------------------------------ streams that break off
class CutStreams(grpc.GenericRpcHandler):
    """A proxy of an emulator. It breaks off the first ``cuts`` row streams, each after ``after`` messages."""

    def __init__(self, host: str, cuts: int, after: int) -> None:
        self.channel, self.cuts, self.after = grpc.insecure_channel(host), cuts, after
        self.asked: list[Any] = []

    def service(self, details: Any) -> Any:
        def stream(request: bytes, context: Any) -> Iterator[bytes]:
            cut = details.method.endswith("/ReadRows") and len(self.asked) < self.cuts
            if details.method.endswith("/ReadRows"):
                self.asked.append(ReadRowsRequest.pb(ReadRowsRequest.deserialize(request)))
            try:
                for i, message in enumerate(self.channel.unary_stream(details.method)(request)):
                    if cut and i >= self.after:
                        break
                    yield message
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
            if cut:
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")

        return grpc.unary_stream_rpc_method_handler(stream)


@pytest.fixture
def cut_store(
    bigtable_store: Store, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int, int], tuple[Store, CutStreams]]]:
    """Return a function that opens the store behind a proxy that breaks off streams."""
    ends: list[Callable[[], Any]] = []

    def make(cuts: int, after: int) -> tuple[Store, CutStreams]:
        handler = CutStreams(emulator.host, cuts, after)
        server = grpc.server(ThreadPoolExecutor(8), handlers=(handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", f"127.0.0.1:{port}")
        store = open_store(bigtable_store.url, bigtable_store.name, 5.0)
        ends.extend((store.close, handler.channel.close, lambda: server.stop(None).wait()))
        return store, handler

    yield make
    for end in ends:
        end()


@pytest.mark.parametrize(("cuts", "after"), [(1, 0), (1, 3), (3, 20), (2, 100)])
def test_after_a_break_only_the_rest_is_asked_for(
    bigtable_store: Store, cut_store: Callable[[int, int], tuple[Store, CutStreams]], cuts: int, after: int
) -> None:
    features = features_of(ids_from(100))
    bigtable_store.write(features)
    store, handler = cut_store(cuts, after)
    rows = store.read([*features["label"].tolist(), FIRST - 1])
    assert rows.features[:-1].tobytes() == features.tobytes()
    asked = [len(request.rows.row_keys) for request in handler.asked]
    if after < 100:
        assert asked == [101, *(100 - after * cut if after else 101 for cut in range(1, cuts + 1))]
    else:
        assert asked == [101]
    store, handler = cut_store(cuts, after)
    assert store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK)).features.tobytes() == features.tobytes()
    starts = [request.rows.row_ranges[0].start_key_open for request in handler.asked]
    assert starts == sorted(starts)


@pytest.mark.parametrize(("cuts", "after"), [(0, 0), (1, 0), (3, 7), (2, 13), (1, 14)])
def test_after_a_break_only_the_rest_of_ranges_is_asked_for(
    bigtable_store: Store, cut_store: Callable[[int, int], tuple[Store, CutStreams]], cuts: int, after: int
) -> None:
    """Request seven of each ten rows; after a break, ranges already read are left out."""
    features = features_of(ids_from(100))
    bigtable_store.write(features)
    keys = row_keys(features["label"])
    ranges = [(keys[first], keys[first + 6]) for first in range(0, 100, 10)]
    _, handler = cut_store(cuts, after)
    connection, row_filter = (
        Connection(PROJECT, INSTANCE, bigtable_store.name, 5.0),
        CellsColumnLimitFilter(1),
    )
    found = list(connection.read_ranges([ranges], connection.rows_of(FEATURE_COLUMNS), row_filter, 5.0))
    assert [len(part.ids) for part in found] == [*[after] * cuts, 70 - after * cuts]
    wanted = features["label"][np.arange(100) % 10 < 7]
    assert np.concatenate([part.ids for part in found]).tolist() == wanted.tolist()
    left = [10 - after * cut // 7 for cut in range(cuts + 1)]
    assert [len(request.rows.row_ranges) for request in handler.asked] == left
    connection.close()


@pytest.mark.parametrize("after", [0, 3])
def test_coverage_counts_each_chunk_once(
    bigtable_store: Store,
    cut_store: Callable[[int, int], tuple[Store, CutStreams]],
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    monkeypatch.setattr("l2features.store.bigtable.bigtable_store.SCAN_ROWS", 8)
    for i in range(20):
        bigtable_store.put_chunk(ChunkRecord(CHUNK + i, DONE, T0))
    store, handler = cut_store(2, after)
    assert store.coverage().done == 20
    assert len(handler.asked) == 5


def test_a_missing_table_differs_from_a_lost_server(
    cut_store: Callable[[int, int], tuple[Store, CutStreams]],
) -> None:
    store, _ = cut_store(1, 0)
    other = open_store(store.url, "not_there", 5.0)
    with pytest.raises(TableNotFound):
        other.read(ids_from(20_000))
    other.close()


# ------------------------------------------------------------------ SQLite
def test_a_query_that_takes_too_long(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/store.db"
    store = open_store(url, "t")
    store.create(META)
    ids = ids_from(50_000)
    store.write(features_of(ids))
    hasty = open_store(url, "t", 1e-4)
    for use in (lambda: hasty.read(ids), lambda: hasty.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK))):
        assert "store.db: interrupted" in assert_unavailable(use, 0)
    assert store.read(ids).found.all()
    store.close()
    hasty.close()


def test_a_file_that_another_process_locks(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/store.db"
    store = open_store(url, "t", 0.3)
    store.create(META)
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert "database is locked" in assert_unavailable(lambda: store.write(features_of([FIRST])), 0.3)
    assert not store.read([FIRST]).found.any()
    other.execute("ROLLBACK")
    store.write(features_of([FIRST]))
    assert store.read([FIRST]).found.all()
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.close()
    store.close()


def test_bad_data_is_not_unavailable(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database\n" * 1000)
    with pytest.raises(StoreError) as error:
        open_store(f"sqlite://{tmp_path}/text.db", "t", 1.0).read([1])
    assert not isinstance(error.value, StoreUnavailable)
