"""Open attempts at a chunk, as Bigtable keeps them: a cell with their number in the chunk's row.

Writing the chunk's record replaces the whole row, and so ends the attempts at the chunk itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.cloud.bigtable.data import RowMutationEntry
from google.cloud.bigtable.data.mutations import DeleteRangeFromColumn, SetCell
from google.cloud.bigtable.data.row_filters import (
    CellsColumnLimitFilter,
    ColumnRangeFilter,
    RowFilter,
    RowFilterChain,
)

from .cells import FAMILY

_COLUMN = "attempts"


def attempts_only() -> RowFilter:
    """Return the filter for the newest cell of each column of attempts."""
    columns = ColumnRangeFilter(FAMILY, _COLUMN.encode(), f"{_COLUMN};".encode(), inclusive_end=False)
    return RowFilterChain(filters=[columns, CellsColumnLimitFilter(1)])


def attempts_of(row: Any) -> dict[str, int]:
    """Return the open attempts by work, of a row read with `attempts_only`; None is a row without any."""
    cells = row.cells if row else ()
    return {cell.qualifier.decode().partition(":")[2]: int(cell.value) for cell in cells}


def put_attempts(key: bytes, counts: Mapping[str, int], micros: int) -> RowMutationEntry:
    """Return the mutation that stores these numbers in place of the earlier ones."""
    mutations: list[Any] = []
    for work, count in counts.items():
        mutations.append(DeleteRangeFromColumn(FAMILY, _column(work)))
        mutations.append(SetCell(FAMILY, _column(work), str(count).encode(), micros))
    return RowMutationEntry(key, mutations)


def drop_attempts(key: bytes, works: Iterable[str]) -> RowMutationEntry:
    """Return the mutation that removes the numbers of these works."""
    return RowMutationEntry(key, [DeleteRangeFromColumn(FAMILY, _column(work)) for work in works])


def _column(work: str) -> bytes:
    return (f"{_COLUMN}:{work}" if work else _COLUMN).encode()
