"""Output of the command line: the summary of one root as a card, and of many as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from ..neurons.root_summaries import SUMMARIZED, UNKNOWN, RootStatus
from .report import rendered

Summary = Mapping[str, Any]
"""The summary of a root as the HTTP API returns it."""


class Shown(NamedTuple):
    """How a measure is printed: its label and unit. The stored value is divided by ``divisor``."""

    label: str
    unit: str = ""
    divisor: float = 1.0

    def text(self, value: Any) -> str:
        """Convert a stored value to ``unit`` and return it with the unit, such as "12 um"; "-" for None."""
        if value is None:
            return "-"
        if isinstance(value, list) and isinstance(value[0], list):
            return " to ".join(map(self._numbers, value)) + f" {self.unit}"
        return f"{self._numbers(value)} {self.unit}".rstrip()

    def _numbers(self, value: Any) -> str:
        return " ".join(map(self.number, value)) if isinstance(value, list) else self.number(value)

    def number(self, value: float | None) -> str:
        """Return a stored number as text, converted to the unit, without the unit's name; "-" for None."""
        if value is None:
            return "-"
        scaled = value / self.divisor
        return f"{scaled:,.0f}" if self.divisor == 1 or scaled >= 1000 else f"{scaled:,.4g}"


SHOWN = {
    "n_empty": Shown("without voxels", "nodes"),
    "n_saturated": Shown("saturated", "nodes"),
    "size_nm3": Shown("volume", "um^3", 1e9),
    "area_nm2": Shown("area", "um^2", 1e6),
    "max_dt_nm": Shown("max distance", "nm"),
    "mean_dt_nm": Shown("mean distance", "nm"),
    "centroid_nm": Shown("centroid", "nm"),
    "rep_bounds_nm": Shown("bounds", "nm"),
    "extents_nm": Shown("spread", "um", 1e3),
    "n_components": Shown("components"),
    "n_edges": Shown("edges"),
    "mst_length_nm": Shown("spanning tree", "um", 1e3),
    "cable_length_nm": Shown("cable length", "um", 1e3),
}
"""Measures of a card, in their order."""
COLUMNS = {
    "n_nodes": Shown("nodes"),
    "n_missing": Shown("missing"),
    "size_nm3": SHOWN["size_nm3"],
    "area_nm2": SHOWN["area_nm2"],
    "max_dt_nm": Shown("max dt", "nm"),
    "cable_length_nm": Shown("cable", "um", 1e3),
}
"""Measures of a table of many roots."""


def neuron_card(root: int, dataset: str, summary: Summary) -> str:
    """Return the summary of one root as text."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, shown in SHOWN.items():
        if name in summary and (summary[name] or not name.startswith("n_")):
            table.add_row(shown.label, shown.text(summary[name]))
    if summary["retired_at"]:
        successors = " ".join(map(str, summary["successors"])) or "nothing"
        table.add_row("retired", f"{summary['retired_at']}, replaced by {successors}")
    nodes, missing = summary["n_nodes"], summary["n_missing"]
    state = f"{missing:,} of {nodes:,} L2 nodes have no features yet" if missing else f"{nodes:,} L2 nodes"
    return f"root {root} of {dataset}: {state}\n{rendered(table)}"


def neurons_table(summaries: Mapping[str, Summary]) -> str:
    """Return the summaries of roots as a text table, one line per root."""
    columns = [name for name in COLUMNS if any(name in summary for summary in summaries.values())]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("root", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for name in columns:
        shown = COLUMNS[name]
        table.add_column(" ".join(filter(None, [shown.label, shown.unit])), justify="right", no_wrap=True)
    for root, summary in summaries.items():
        retired = " (retired)" if summary.get("retired_at") else ""
        cells = [COLUMNS[name].number(summary.get(name)) for name in columns]
        table.add_row(root, summary["status"] + retired, *cells)
    return rendered(table)


def problems(summaries: Mapping[str, Summary]) -> Sequence[str]:
    """Return a line for each root without a summary."""
    return [
        f"root {root}: {one.get('reason', UNKNOWN)}"
        for root, one in summaries.items()
        if RootStatus[one["status"].upper()] not in SUMMARIZED
    ]
