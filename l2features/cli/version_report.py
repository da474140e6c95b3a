"""Versions as text: lists, one version, and what differs between two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from rich.filesize import decimal
from rich.table import Table

from ..core.times import iso_text
from ..local.progress import progress_bar
from ..versions.catalog import VersionSummary
from ..versions.columns import L2_ID, unsigned
from ..versions.diff import NodeDifference, node_differences, root_differences
from ..versions.lookup import VersionReader
from ..versions.manifest import Layer, Manifest
from .report import rendered


def versions_table(found: Sequence[VersionSummary]) -> str:
    """Return a text table with a line per version."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("version", "timestamp", "base", "nodes", "roots", "missing", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        if one.timestamp is None or one.bytes is None:
            table.add_row(str(one.number), "cannot be read")
            continue
        counts = [str(count) for count in (one.nodes, one.roots, one.missing)]
        time = iso_text(one.timestamp, "milliseconds")
        table.add_row(str(one.number), time, str(one.base or "-"), *counts, decimal(one.bytes))
    return rendered(table)


def version_text(manifest: Manifest) -> str:
    """Return a manifest as lines of text."""
    totals, base = manifest.totals, f", renews {manifest.base}" if manifest.base else ""
    lines = [
        f"version {manifest.number} of {manifest.dataset}{base}",
        f"valid at {iso_text(manifest.timestamp, 'milliseconds')}, made at {iso_text(manifest.created)} "
        f"by {manifest.software}",
        f"table {manifest.l2cache_id}, graph {manifest.graph_id}, segmentation {manifest.cv_path}",
        f"{totals.nodes} nodes of {totals.roots} roots; {totals.missing} nodes were not computed yet, "
        f"{totals.empty} could not be",
        *map(_layer_text, manifest.layers),
    ]
    return "".join(f"{line}\n" for line in lines)


def _layer_text(layer: Layer) -> str:
    rows, sizes = Counter[str](), Counter[str]()
    for file in layer.files:
        rows[file.layout] += file.rows
        sizes[file.layout] += file.bytes
    parts = [f"{name} {rows[name]} rows ({decimal(sizes[name])})" for name in sorted(rows)]
    return f"files of version {layer.version}: {', '.join(parts) or 'none'}"


@dataclass
class Compared:
    """Counts of the differences between versions A and B, and the first nodes that differ."""

    roots_only_a: int = 0
    roots_only_b: int = 0
    nodes_only_a: int = 0
    nodes_only_b: int = 0
    nodes_moved: int = 0
    first_nodes: list[dict[str, int | None]] = field(default_factory=list)


def compared(
    a: VersionReader, b: VersionReader, most_listed: int, write: Callable[[Any], object] | None = None
) -> Compared:
    """Count the differences between two versions, and list the first ``most_listed`` nodes that differ.

    ``write`` receives Arrow tables with all nodes that differ.
    """
    found = Compared()
    total = a.manifest.totals.nodes + b.manifest.totals.nodes
    for part in root_differences(a, b):
        found.roots_only_a += len(part.only_a)
        found.roots_only_b += len(part.only_b)
    if write:
        write(_node_table(NodeDifference(*np.zeros((3, 0), dtype=np.int64))))
    with progress_bar(total, "node", "diff", unit_scale=True, delay=0.5) as bar:
        for read, nodes in node_differences(a, b):
            bar.update(read)
            found.nodes_only_a += int((nodes.roots_b == 0).sum())
            found.nodes_only_b += int((nodes.roots_a == 0).sum())
            found.nodes_moved += int(((nodes.roots_a != 0) & (nodes.roots_b != 0)).sum())
            room = most_listed - len(found.first_nodes)
            found.first_nodes += _node_table(NodeDifference(*(ids[:room] for ids in nodes))).to_pylist()
            if write and len(nodes.nodes):
                write(_node_table(nodes))
    return found


def diff_text(found: Compared, a: int, b: int) -> str:
    """Return the counts of differences and the first nodes that differ, as text."""
    lines = [
        f"roots: {found.roots_only_a} only in {a}, {found.roots_only_b} only in {b}",
        f"nodes: {found.nodes_only_a} only in {a}, {found.nodes_only_b} only in {b}, "
        f"{found.nodes_moved} with another root",
    ]
    for node in found.first_nodes:
        was, now = node["root_id_a"] or "none", node["root_id_b"] or "none"
        lines.append(f"  node {node[L2_ID]}: root {was} in {a}, {now} in {b}")
    left = found.nodes_only_a + found.nodes_only_b + found.nodes_moved - len(found.first_nodes)
    return "\n".join([*lines, *([f"  and {left} more: --to writes all"] if left else [])])


def _node_table(nodes: NodeDifference) -> Any:
    """Return an Arrow table of nodes with their root in each version, null if the version lacks the node."""
    return pa.table(
        {
            L2_ID: pa.array(unsigned(nodes.nodes)),
            "root_id_a": pa.array(unsigned(nodes.roots_a), mask=nodes.roots_a == 0),
            "root_id_b": pa.array(unsigned(nodes.roots_b), mask=nodes.roots_b == 0),
        }
    )
