"""The rows of a graph's table: filters for cells, and the histories of roots."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from google.cloud.bigtable.data import row_filters as f

from ..core.errors import GraphError
from ..core.times import whole_ms
from .base import RootHistory
from .id_cells import CHILDREN, MOST_IDS, PREDECESSORS, SUCCESSORS, decode_ids

if TYPE_CHECKING:
    from ..store.bigtable.row_arrays import AnyCells

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def newest(*columns: str, until: datetime | None = None) -> f.RowFilter:
    """Return the filter for the newest cell of each column, ignoring cells later than ``until`` if given."""
    ranges = [f.ColumnRangeFilter("0", name.encode(), name.encode()) for name in columns]
    filters = [ranges[0] if len(ranges) == 1 else f.RowFilterUnion(filters=ranges)]
    if until is not None:
        filters.append(_not_younger(until))
    return f.RowFilterChain(filters=[*filters, f.CellsColumnLimitFilter(1)])


def newest_between(first: str, last: str, until: datetime) -> f.RowFilter:
    """Return the filter for the newest cell of each column from ``first`` to ``last``.

    Cells later than ``until`` are ignored.
    """
    columns = f.ColumnRangeFilter("0", first.encode(), last.encode())
    return f.RowFilterChain(filters=[columns, _not_younger(until), f.CellsColumnLimitFilter(1)])


def newest_cross_edges() -> f.RowFilter:
    """Return the filter for the newest cell of each column ``atomic_cross_edges_LAYER``."""
    columns = f.ColumnRangeFilter("3", b"atomic_cross_edges_", b"atomic_cross_edges`", inclusive_end=False)
    return f.RowFilterChain(filters=[columns, f.CellsColumnLimitFilter(1)])


def _not_younger(time: datetime) -> f.RowFilter:
    return f.TimestampRangeFilter(end=whole_ms(time) + timedelta(milliseconds=1))  # a filter rounds up


def histories_of(parts: Sequence[AnyCells]) -> dict[int, RootHistory]:
    """Return histories by root, from cells of children, successors and predecessors.

    Roots without a cell of children are left out. Raises GraphError for malformed ids in a cell.
    """
    found: dict[int, dict[str, tuple[bytes, datetime]]] = {}
    for part in parts:
        cells = zip(part.ids.tolist(), part.names, part.values, part.times.tolist(), strict=True)
        for root, name, value, micros in cells:
            time = _EPOCH + timedelta(milliseconds=micros // 1000)
            found.setdefault(root, {})[name.decode()] = value, time
    return {root: _history(root, cells) for root, cells in found.items() if CHILDREN in cells}


def _history(root: int, cells: dict[str, tuple[bytes, datetime]]) -> RootHistory:
    none = (b"", None)
    new, retired = cells.get(SUCCESSORS, none)
    former, _ = cells.get(PREDECESSORS, none)
    try:
        successors, predecessors = (
            tuple(decode_ids(ids, MOST_IDS, what).tolist())
            for ids, what in ((new, "successors"), (former, "predecessors"))
        )
    except ValueError as error:
        raise GraphError(f"root {root}: {error}") from error
    return RootHistory(cells[CHILDREN][1], retired, successors, predecessors)
