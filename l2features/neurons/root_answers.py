"""Summaries of roots as clients receive them: objects for JSON, and Arrow tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.times import iso_text
from ..graph.base import RootHistory
from .neuron_summary import summary_objects, summary_table
from .root_summaries import SUMMARIZED, RootStatus, Summaries

REASON = "why the root has no summary, or what is unexpected in the summary"
RETIRED = "when an edit retired the root (UTC); null if the root is current"
SUCCESSORS = "roots that replaced the root when it was retired"
"""Descriptions of the columns ``reason``, ``retired_at`` and ``successors``."""
STATUS_NAMES = [status.name.lower() for status in RootStatus]


def root_objects(
    found: Summaries, histories: Mapping[int, RootHistory] | None, *, int64_as_str: bool = False
) -> dict[str, dict[str, Any]]:
    """Map each root to a dict for JSON; keys are distinct root ids as text, in numeric order.

    The dict of a root with a summary has the measures and, if ``histories`` is not None, ``retired_at`` and
    ``successors``. The dict of a root that is too large has ``n_nodes``: the number of nodes, or a lower
    bound. With ``int64_as_str``, 64-bit integers are strings.
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
            one |= values | ({} if histories is None else _history(histories.get(root), int64_as_str))
        elif root in found.sizes:
            one["n_nodes"] = found.sizes[root]
    return out


def root_table(found: Summaries, histories: Mapping[int, RootHistory]) -> Any:
    """Return the summaries as an Arrow table, one row per requested root, in the requested order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table, roots, known = summary_table(found.roots, found.summary), found.roots.tolist(), found.summarized
    for place, values in enumerate(table.columns[1:], 1):
        if not pa.types.is_nested(values.type):
            values = pc.if_else(pa.array(known), values, pa.scalar(None, values.type))
        if table.column_names[place] == "n_nodes":
            values = pc.coalesce(values, pa.array([found.sizes.get(root) for root in roots], values.type))
        table = table.set_column(place, table.field(place), values)
    status = pa.DictionaryArray.from_arrays(pa.array(found.status.astype(np.int8)), STATUS_NAMES)
    table = table.add_column(1, pa.field("status", status.type), status)
    lives = [histories.get(root) if has else None for root, has in zip(roots, known, strict=True)]
    for name, kind, values, meaning in (
        ("reason", pa.string(), [found.reasons.get(root) for root in roots], REASON),
        ("retired_at", pa.timestamp("ms", "UTC"), [one and one.retired for one in lives], RETIRED),
        ("successors", pa.list_(pa.uint64()), [one and list(one.successors) for one in lives], SUCCESSORS),
    ):
        described = pa.field(name, kind, metadata={"description": meaning})
        table = table.append_column(described, pa.array(values, kind))
    return table


def _history(history: RootHistory | None, as_str: bool) -> dict[str, Any]:
    if history is None:
        return {"retired_at": None, "successors": []}
    successors = [str(root) if as_str else root for root in history.successors]
    retired_at = iso_text(history.retired, "milliseconds") if history.retired else None
    return {"retired_at": retired_at, "successors": successors}
