"""Tests of reading many nodes' lists of ids from cells at once."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard

from l2features.core.ids import as_ids, to_bytes
from l2features.graph.id_cells import NodeLists

IDS = as_ids([5, 7, 9])
LISTS = {5: as_ids([1, 2, 3]), 9: as_ids([2**63])}
ROWS = as_ids([9, 5])


def compressed(data: bytes, with_size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=with_size).compress(data)


def read(cells: list[bytes], most: int = 10) -> NodeLists:
    return NodeLists.decoded(IDS, ROWS, cells, most, "children")


@pytest.mark.parametrize("packed", [{9, 5}, {9}, set()])
def test_lists_are_those_of_their_nodes_compressed_or_not(packed: set[int]) -> None:
    raw = {node: to_bytes(LISTS[node]) for node in (9, 5)}
    found = read([compressed(cell) if node in packed else cell for node, cell in raw.items()])
    assert (found.errors, found.known.tolist()) == ({}, [True, False, True])
    for node, part in zip(IDS.tolist(), found.lists.parts(), strict=True):
        np.testing.assert_array_equal(part, LISTS.get(node, as_ids([])))


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        (compressed(bytes(88)), "children have 88 bytes: expected 80 at most"),
        (compressed(bytes(12)), "children have 12 bytes: expected 8 per id"),
        (compressed(bytes(range(80)))[:-9], "children cannot be decompressed"),
        (compressed(bytes(2**24), with_size=False), "children cannot be decompressed"),
        (bytes(9), "children have 9 bytes: expected 8 per id"),
    ],
    ids=["too long", "no ids", "cut off", "of unknown size", "raw"],
)
def test_a_malformed_list_spoils_no_other(cell: bytes, error: str) -> None:
    found = read([cell, compressed(to_bytes(LISTS[5]))])
    assert found.errors[9].startswith(f"node 9: {error}")
    np.testing.assert_array_equal(found.lists.parts()[0], LISTS[5])
    assert found.lists.lengths.tolist() == [3, 0, 0]


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 8_191, 8_192, 8_224, 8_225, 20_000])
@pytest.mark.parametrize("checksum", [False, True])
def test_lists_of_all_lengths_are_read_at_once(
    n: int, checksum: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("l2features.graph.id_cells.id_bytes")
    compressor = zstandard.ZstdCompressor(write_checksum=checksum)
    lists = {9: np.arange(n, dtype=np.uint64) << np.uint64(40), 5: as_ids([1])}
    found = read([compressor.compress(to_bytes(lists[node])) for node in (9, 5)], 20_000)
    assert not found.errors
    for node, part in zip(IDS.tolist(), found.lists.parts(), strict=True):
        np.testing.assert_array_equal(part, lists.get(node, as_ids([])))


@pytest.mark.parametrize("rest", [b"", bytes(9)])
def test_lists_may_all_be_empty(rest: bytes) -> None:
    """zstandard 0.25 aborts the process if `multi_decompress_to_buffer` decompresses only empty lists."""
    for _ in range(20):
        found = read([compressed(b"") + rest] * 2)
        assert (found.errors, found.lists.lengths.tolist()) == ({}, [0, 0, 0])


def test_a_size_that_is_not_the_content_s_is_an_error() -> None:
    cell = bytearray(compressed(bytes(40)))
    cell[5] = 48
    found = read([bytes(cell), compressed(to_bytes(LISTS[5]))])
    assert found.errors[9].startswith("node 9: children cannot be decompressed")
    assert found.lists.lengths.tolist() == [3, 0, 0]
