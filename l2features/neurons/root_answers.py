"""Summaries of roots as clients receive them: objects for JSON, and Arrow tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.times import iso_text
from ..graph.base import RootHistory
from .neuron_summary import summary_objects, summary_table
from .root_summaries import SUMMARIZED, RootStatus, Summaries

STATUS_NAMES = [status.name.lower() for status in RootStatus]


def root_objects(
    found: Summaries, histories: Mapping[int, RootHistory], *, int64_as_str: bool = False
) -> dict[str, dict[str, Any]]:
    """Return an object for JSON for each root, by id, each id once and in numeric order.

    A root with a summary has its measures, ``retired_at`` and ``successors``. One that is too large has
    ``n_nodes``, its nodes or at least so many. With ``int64_as_str``, 64-bit integers are strings.
    """
    places = np.unique(found.roots, return_index=True)[1]
    roots, status = found.roots[places].tolist(), found.status[places].tolist()
    measures = summary_objects(found.summary[places], int64_as_str=int64_as_str)
    out = {}
    for root, code, values in zip(roots, status, measures, strict=True):
        one = out[str(root)] = {"status": STATUS_NAMES[code]}
        if root in found.reasons:
            one["reason"] = found.reasons[root]
        if code in SUMMARIZED:
            one |= values | _history(histories.get(root), int64_as_str)
        elif root in found.sizes:
            one["n_nodes"] = found.sizes[root]
    return out


def root_table(found: Summaries, histories: Mapping[int, RootHistory]) -> Any:
    """Return the summaries as an Arrow table, a row per requested root, in order."""
    import pyarrow as pa

    table, known = summary_table(found.roots, found.summary), found.summarized
    for place, values in enumerate(table.columns[1:], 1):
        if not pa.types.is_nested(values.type):
            table = table.set_column(place, table.field(place), _where(known, values))
    roots = found.roots.tolist()
    sizes = [found.sizes.get(root) for root in roots]
    if any(size is not None for size in sizes):
        place = table.column_names.index("n_nodes")
        counts = pa.compute.coalesce(table.column(place), pa.array(sizes, table.field(place).type))
        table = table.set_column(place, table.field(place), counts)
    known_histories = [histories.get(root) if has else None for root, has in zip(roots, known, strict=True)]
    names = pa.DictionaryArray.from_arrays(pa.array(found.status.astype(np.int8)), STATUS_NAMES)
    retired = [one.retired if one else None for one in known_histories]
    successors = [list(one.successors) if one else None for one in known_histories]
    about = {"description": "when it was retired; null for a root of today"}
    table = table.add_column(1, pa.field("status", names.type), names)
    for name, column, what in (
        ("reason", pa.array([found.reasons.get(root) for root in roots], pa.string()), {}),
        ("retired_at", pa.array(retired, pa.timestamp("ms", "UTC")), about),
        (
            "successors",
            pa.array(successors, pa.list_(pa.uint64())),
            {"description": "roots that replaced it"},
        ),
    ):
        table = table.append_column(pa.field(name, column.type, metadata=what or None), column)
    return table


def _where(known: npt.NDArray[np.bool_], values: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(pa.array(known), values, pa.scalar(None, values.type))


def _history(history: RootHistory | None, as_str: bool) -> dict[str, Any]:
    if history is None:
        return {"retired_at": None, "successors": []}
    successors = [str(root) if as_str else root for root in history.successors]
    retired_at = iso_text(history.retired, "milliseconds") if history.retired else None
    return {"retired_at": retired_at, "successors": successors}
