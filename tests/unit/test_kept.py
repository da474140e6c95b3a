"""Tests of storing results of roots, such as summaries, in a table's cells, and of the cache in memory."""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import numpy as np
import pytest

from l2features.core.errors import StoreError, StoreUnavailable, UnknownFormat
from l2features.core.ids import as_ids
from l2features.neurons.kept import (
    CELL_BYTES,
    EDGES,
    FIRST_BYTES,
    FORMAT,
    GRAPH_SUMMARY,
    HEADER,
    L2_IDS,
    MAGIC,
    SUMMARY,
    KeptRoots,
    ResultKind,
)
from tests.support.known_roots import CellTable

ROOT = 2**63 + 5


def kept_roots(cells: CellTable, write: bool = True, cache_bytes: int = 0) -> KeptRoots:
    return KeptRoots(cells, "a_table", write, cache_bytes)


def of(kind: ResultKind, n: int, seed: int = 0) -> np.ndarray:
    """Return ``n`` random items."""
    raw = np.random.default_rng(seed).bytes(n * int(np.prod(kind.shape, dtype=int)) * kind.dtype.itemsize)
    return np.frombuffer(raw, kind.dtype).reshape(n, *kind.shape)


@pytest.mark.parametrize("kind", [L2_IDS, EDGES, SUMMARY, GRAPH_SUMMARY], ids=lambda kind: kind.name)
@pytest.mark.parametrize("nbytes", [0, FIRST_BYTES, FIRST_BYTES + 1_000, CELL_BYTES + FIRST_BYTES + 1_000])
def test_results_are_read_as_written(kind: ResultKind, nbytes: int) -> None:
    cells, array = CellTable(), of(kind, 1 + nbytes // of(kind, 1).nbytes)
    kept_roots(cells).put(kind, {ROOT: array, 7: array[:1]})
    found = kept_roots(cells).get(kind, as_ids([3, 7, ROOT]))
    assert found.arrays.keys() == {7, ROOT}
    assert found.arrays[ROOT].tobytes() == array.tobytes()
    assert found.arrays[ROOT].shape == array.shape
    assert found.longer == {}


def test_a_million_edges_are_split_over_cells() -> None:
    cells, edges = CellTable(), of(EDGES, 1_200_000)
    kept_roots(cells).put(EDGES, {ROOT: edges})
    sizes = [len(value) - HEADER.size for value in cells.cells[ROOT].values()]
    assert list(cells.cells[ROOT]) == ["edges", "edges_1", "edges_2"]
    assert sizes == [FIRST_BYTES, CELL_BYTES, edges.nbytes - FIRST_BYTES - CELL_BYTES]
    np.testing.assert_array_equal(kept_roots(cells).get(EDGES, as_ids([ROOT])).arrays[ROOT], edges)


def test_a_result_without_items() -> None:
    cells = CellTable()
    kept_roots(cells).put(EDGES, {ROOT: of(EDGES, 0)})
    assert kept_roots(cells).get(EDGES, as_ids([ROOT])).arrays[ROOT].shape == (0, 2)


@pytest.mark.parametrize("cache_bytes", [0, 10_000_000])
def test_longer_results_are_counted_and_their_other_cells_are_not_read(cache_bytes: int) -> None:
    cells = CellTable()
    reader = kept_roots(cells, cache_bytes=cache_bytes)
    reader.put(L2_IDS, {ROOT: of(L2_IDS, 100_000), 7: of(L2_IDS, 10)})
    for most, longer in ((99_999, {ROOT: 100_000}), (100_000, {}), (9, {ROOT: 100_000, 7: 10})):
        found = reader.get(L2_IDS, as_ids([7, ROOT]), most)
        assert found.longer == longer
        assert found.arrays.keys() == {7, ROOT} - longer.keys()
    assert cells.asked.count(["l2_ids_1"]) == (0 if cache_bytes else 1)


Damage = Callable[[dict[str, bytes]], object]
DAMAGES: dict[str, Damage] = {
    "empty": lambda c: c.update(l2_ids=b""),
    "short": lambda c: c.update(l2_ids=c["l2_ids"][:7]),
    "cut": lambda c: c.update(l2_ids=c["l2_ids"][:-8]),
    "cut with a checksum": lambda c: c.update(
        l2_ids=HEADER.pack(MAGIC, FORMAT, 2, zlib.crc32(b"12345678"), 100_000) + b"12345678"
    ),
    "other bytes": lambda c: c.update(l2_ids=bytes(range(100))),
    "a bit": lambda c: c.update(l2_ids=c["l2_ids"][:-1] + bytes([c["l2_ids"][-1] ^ 1])),
    "format 0": lambda c: c.update(l2_ids=MAGIC + bytes(2) + c["l2_ids"][4:]),
    "second cell missing": lambda c: c.pop("l2_ids_1"),
    "second cell of another result": lambda c: c.update(l2_ids_1=c["l2_ids"]),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_malformed_result_is_logged_and_missing(damage: Damage, caplog: pytest.LogCaptureFixture) -> None:
    cells = CellTable()
    kept_roots(cells).put(L2_IDS, {ROOT: of(L2_IDS, 100_000), 7: of(L2_IDS, 10)})
    damage(cells.cells[ROOT])
    with caplog.at_level(logging.WARNING):
        found = kept_roots(cells, cache_bytes=1_000_000).get(L2_IDS, as_ids([7, ROOT]))
    assert found.arrays.keys() == {7}
    [record] = caplog.records
    assert record.getMessage().startswith(f"table a_table: root {ROOT}: the cell")
    assert record.getMessage().endswith("; the result is computed again")


def test_a_newer_format_is_refused_by_name() -> None:
    cells = CellTable()
    kept_roots(cells).put(EDGES, {ROOT: of(EDGES, 5)})
    cell = cells.cells[ROOT]["edges"]
    cells.cells[ROOT]["edges"] = MAGIC + (FORMAT + 1).to_bytes(2, "little") + cell[4:]
    with pytest.raises(UnknownFormat, match=rf"table a_table: root {ROOT}: the cell 'edges': format 2, exp"):
        kept_roots(cells).get(EDGES, as_ids([ROOT]))


def test_a_change_of_the_summary_needs_a_new_format() -> None:
    assert (FORMAT, zlib.crc32(repr(GRAPH_SUMMARY.dtype.descr).encode())) == (1, 3139276620)


def test_a_reader_that_may_not_write_keeps_in_memory_only() -> None:
    cells = CellTable()
    reader = kept_roots(cells, write=False, cache_bytes=1_000_000)
    reader.put(L2_IDS, {ROOT: of(L2_IDS, 10)})
    assert cells.puts == 0
    assert reader.get(L2_IDS, as_ids([ROOT])).arrays.keys() == {ROOT}
    assert kept_roots(cells).get(L2_IDS, as_ids([ROOT])).arrays == {}


@pytest.mark.parametrize(
    "error", [StoreError("403 denied"), StoreUnavailable("slow"), UnknownFormat("newer")]
)
def test_a_refused_write_is_logged_once_and_tried_again_later(
    error: StoreError, caplog: pytest.LogCaptureFixture
) -> None:
    cells, array = CellTable(), of(L2_IDS, 10)
    cells.error, reader = error, kept_roots(cells)
    with caplog.at_level(logging.WARNING):
        for root in range(1, 9):
            reader.put(L2_IDS, {root: array})
    assert cells.puts == 1
    [record] = caplog.records
    assert record.getMessage() == f"cannot store results computed for roots, next attempt in 60 s: {error}"
    cells.error = None
    with patch("l2features.neurons.kept.time.monotonic", lambda: float("inf")):
        reader.put(L2_IDS, {ROOT: array})
    assert cells.cells.keys() == {ROOT}


def test_many_results_are_written_in_parts() -> None:
    cells, array = CellTable(), of(L2_IDS, 1_000_000)
    kept_roots(cells).put(L2_IDS, dict.fromkeys(range(1, 12), array))
    assert cells.puts == 3
    assert len(cells.cells) == 11


def test_the_cache_is_bounded_and_answers_without_the_table() -> None:
    cells, arrays = CellTable(), {root: of(L2_IDS, 1_000, root) for root in range(1, 100)}
    reader = kept_roots(cells, cache_bytes=100_000)
    reader.put(L2_IDS, arrays)
    assert reader.get(L2_IDS, as_ids([98, 99])).arrays.keys() == {98, 99}
    assert cells.asked == []
    assert reader.get(L2_IDS, as_ids([1])).arrays.keys() == {1}
    assert cells.asked == [["l2_ids"]]
    reader.put(L2_IDS, {500: of(L2_IDS, 100_000)})  # larger than the cache
    assert reader.get(L2_IDS, as_ids([1])).arrays.keys() == {1}
    assert len(cells.asked) == 1


def test_a_part_of_an_array_does_not_keep_the_whole() -> None:
    whole = of(L2_IDS, 100_000).copy()
    reader = kept_roots(CellTable(), cache_bytes=1_000_000)
    reader.put(L2_IDS, {ROOT: whole[:10]})
    found = reader.get(L2_IDS, as_ids([ROOT])).arrays[ROOT]
    assert found.base is None
    assert not found.flags.writeable


def test_threads_share_a_cache() -> None:
    reader, barrier = kept_roots(CellTable(), cache_bytes=200_000), threading.Barrier(8)

    def use(thread: int) -> Iterable[bool]:
        barrier.wait()
        for i in range(200):
            root = i % 50 + 1
            reader.put(L2_IDS, {root: np.full(100, root, dtype="<u8")})
            found = reader.get(L2_IDS, as_ids(range(1, 51))).arrays
            yield all((array == root).all() for root, array in found.items())

    with ThreadPoolExecutor(8) as pool:
        assert all(all(results) for results in pool.map(lambda t: list(use(t)), range(8)))
