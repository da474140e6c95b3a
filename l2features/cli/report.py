"""Output of the command line: rows of features, and the status of a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from ..core.geometry import Geometry
from ..core.ids import L2
from ..core.rows import Rows
from ..core.saturation import saturated_text
from ..core.schema import BY_NAME, NAMES
from ..overview.table_status import MAX_KEPT, TableStatus
from ..query.answers import json_parts
from ..store.chunk_totals import ChunkTotals
from ..store.notes import audit_text
from ..updates.freshness import updates_text

MAX_LISTED = 20


def served_rows(rows: Rows, geometry: Geometry, names: Sequence[str] = NAMES) -> dict[str, dict[str, Any]]:
    """Map each id, as text, to the node's features as clients receive them, in numeric order of ids."""
    served: dict[str, dict[str, Any]] = orjson.loads(b"".join(json_parts(rows, geometry, names)))
    return served


def json_text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def features_table(rows: Rows, geometry: Geometry, names: Sequence[str] = NAMES) -> str:
    """Return a text table with one line per node and one column per attribute in ``names``."""
    attributes = [BY_NAME[name] for name in names]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("L2 id", justify="right", no_wrap=True)
    for attribute in attributes:
        table.add_column(attribute.name, justify="right" if not attribute.shape else "left", no_wrap=True)
    served = served_rows(rows, geometry, names)
    is_l2 = geometry.layout.layers(rows.ids) == L2
    for label, known, layer_2 in zip(rows.ids.tolist(), rows.found, is_l2, strict=True):
        cells = [cell_text(served[str(label)].get(name)) for name in names]
        absent = "not in the table" if layer_2 else "not an L2 id"
        table.add_row(str(label), *(cells if known else [absent, *cells[1:]]))
    return rendered(table)


def rendered(table: Table) -> str:
    """Return a table as text."""
    console = Console(width=400, color_system=None, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def cell_text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list) and value:
        return (" | " if isinstance(value[0], list) else " ").join(map(cell_text, value))
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else f"{value:.6g}"
    return str(value)


def status_text(status: TableStatus) -> str:
    """Return the status as text, beginning with the counts of done and of all chunks, ``<done>/<total>``."""
    totals, none = status.totals, "no chunk is recorded: not ingested yet, or ingested by PCGL2Cache"
    found = f"{totals.nodes} nodes" if totals.done or totals.n_failed else none
    lines = [f"{totals.done}/{status.total} chunks done in table {status.table}: {found}"]
    if totals.orphans:
        lines.append(f"{totals.orphans} supervoxels had no parent")
    if totals.newest:
        rate = ""
        if status.chunks_per_minute is not None:
            rates = f"{status.chunks_per_minute} chunks/min and {status.nodes_per_second} nodes/s"
            rate = f", {rates} in its last 10 minutes"
        lines.append(f"newest chunk at {totals.newest:%Y-%m-%d %H:%M:%S} UTC{rate}")
    lines += _files_lines(totals)
    if totals.saturated:
        lines.append(f"saturated: {saturated_text(totals.saturated)}")
    lines.append(f"{totals.n_failed} chunks failed" + (":" if status.failed else ""))
    lines += [f"  chunk {chunk}: {reason}" for chunk, reason in status.failed[:MAX_LISTED]]
    if totals.n_failed > MAX_LISTED:
        lines.append(f"  and {totals.n_failed - MAX_LISTED} more: --json lists up to {MAX_KEPT}")
    lines.append(status.problems.get("updates") or updates_text(status.updates))
    lines.append(status.problems.get("audit") or audit_text(status.audit))
    if "ingest" in status.problems:
        lines.append(status.problems["ingest"])
    return "\n".join(lines)


def _files_lines(totals: ChunkTotals) -> list[str]:
    if not totals.files.expected:
        return []
    unknown = f"; {totals.uncounted} chunks have no counts of files" if totals.uncounted else ""
    lines = [f"files: {totals.files}{unknown}"]
    if totals.chunks_missing_files:
        lines.append(
            f"{totals.chunks_missing_files} chunks have missing or empty files: ingest --retry-missing "
            "computes them again"
        )
    if not totals.files.read and not totals.uncounted:
        lines.append("no file of the segmentation was found: check cv_path, mip and scale")
    return lines
