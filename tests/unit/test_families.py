"""Tests of finding L2 nodes in the `children` cells of their parents' rows, some of which lack cells."""

from __future__ import annotations

import numpy as np
import pytest

from l2features.core.errors import GraphError
from l2features.core.ids import as_ids
from l2features.graph.base import NodeRoots
from l2features.graph.chunk_ranges import IdRanges
from l2features.graph.families import either, families_of, valid_children
from l2features.store.bigtable.row_arrays import AnyCells

EVERYTHING = IdRanges(as_ids([1]), as_ids([999]), np.ones(1))


def cells(*rows: tuple[int, str, bytes]) -> AnyCells:
    ids, names, values = zip(*rows, strict=True) if rows else ((), (), ())
    times = np.zeros(len(rows), dtype=np.int64)
    encoded = [name.encode() for name in names]
    return AnyCells(len(rows), b"", None, True, as_ids(ids), times, encoded, list(values))


def ids_cell(*ids: int) -> bytes:
    return as_ids(ids).astype("<u8").tobytes()


def test_rows_of_several_parts_in_any_order() -> None:
    found = families_of(
        [
            cells((30, "children", ids_cell(5, 6)), (30, "parents", ids_cell(90))),
            cells((10, "children", ids_cell(1)), (10, "new_parents", b"?"), (10, "parents", ids_cell(91))),
            cells((20, "children", ids_cell(7)), (25, "parents", ids_cell(92))),
        ]
    )
    assert found.nodes.tolist() == [10, 25, 30]
    assert found.parents.tolist() == [91, 92, 90]
    assert found.children == [ids_cell(1), b"", ids_cell(5, 6)]
    assert len(families_of([]).nodes) == 0


def test_a_parent_that_is_not_an_id() -> None:
    with pytest.raises(GraphError, match="row 10: parents has 3 bytes, expected 8"):
        families_of([cells((10, "parents", b"abc"))])


def test_children_of_valid_nodes_within_the_chunks() -> None:
    families = families_of(
        [
            cells(
                (10, "children", ids_cell(2, 1, 5000)),
                (10, "parents", ids_cell(90)),
                (20, "children", b"malformed"),
                (20, "parents", ids_cell(90)),
                (30, "children", ids_cell(3)),
                (30, "parents", ids_cell(91)),
            )
        ]
    )
    found = valid_children(families, as_ids([90, 90, 0]), EVERYTHING)
    assert [ids.tolist() for ids in found] == [[1, 2], [90, 90]]


def test_nodes_of_either_with_a_root() -> None:
    some, others = (
        NodeRoots(as_ids([2, 4]), as_ids([90, 91])),
        NodeRoots(as_ids([1, 2, 3]), as_ids([92, 0, 0])),
    )
    assert [ids.tolist() for ids in either(some, others)] == [[1, 2, 4], [92, 90, 91]]
