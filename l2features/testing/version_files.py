"""Write versions (frozen data sets) from arrays, and read a version's rows from whole files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..core.chunks import whole_box
from ..core.geometry import Geometry
from ..core.ids import Ids, as_ids
from ..core.rows import Rows
from ..neurons.neuron_summary import summarize
from ..query.reader import Status
from ..versions.columns import (
    L2_ID,
    MISSING,
    ROOT_ID,
    missing_schema,
    node_table,
    retired_schema,
    root_table,
    signed,
)
from ..versions.folders import Folder
from ..versions.manifest import (
    Layer,
    Layout,
    Manifest,
    Totals,
    VersionFile,
    folder_name,
    manifest_path,
    read_manifest,
)

TIME = datetime(2026, 11, 21, 0, 27, 44, 368_000, UTC)
SIZE = "size_nm3"


@dataclass
class NodeRows:
    """Nodes to write: their roots (n,), their features, and which have no features yet."""

    roots: Ids
    rows: Rows
    missing: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, roots: Any, features: np.ndarray, missing: Any = ()) -> NodeRows:
        """Return nodes with these features (n,); the nodes at the indices ``missing`` have no features."""
        rows, absent = Rows.complete(features), np.zeros(len(features), dtype=bool)
        absent[np.array(missing, dtype=int)] = True
        rows.present[rows.not_computed | absent] = False
        return cls(as_ids(roots), rows, absent)

    def sorted_by(self, *keys: Ids) -> NodeRows:
        order = np.lexsort(keys)
        return NodeRows(self.roots[order], self.rows.take(order), self.missing[order])


@dataclass
class VersionWriter:
    """Writes versions: up to ``parts`` Parquet files per `Layout`, in row groups of ``group_rows`` rows."""

    folder: Folder
    geometry: Geometry
    parts: int = 1
    group_rows: int = 20_000
    about: Mapping[str, Any] = field(default_factory=dict)

    def write(
        self,
        number: int,
        nodes: NodeRows,
        *,
        base: int | None = None,
        retired: Any = (),
        time: datetime = TIME,
    ) -> Manifest:
        """Write version ``number`` with these nodes.

        With ``base``, the version also has the roots of version ``base``, except those in ``retired``.
        """
        by_root = nodes.sorted_by(nodes.rows.ids, nodes.roots)
        by_node = nodes.sorted_by(nodes.rows.ids)
        files = self._layout(number, "by_root", self._nodes(by_root))
        files += self._layout(number, "by_node", self._nodes(by_node))
        files += self._layout(number, "roots", self._roots(by_root))
        absent = [pa.array(signed(ids[by_root.missing])) for ids in (by_root.roots, by_root.rows.ids)]
        files += self._layout(number, "missing_nodes", pa.table(absent, schema=missing_schema()))
        layers: tuple[Layer, ...] = ()
        if base is not None:
            layers = read_manifest(self.folder, base).layers
            gone = pa.table([pa.array(signed(np.sort(as_ids(retired))))], schema=retired_schema())
            files.append(self.file(f"{folder_name(number)}/retired.parquet", "retired", gone))
        manifest = Manifest(
            number=number,
            timestamp=time,
            created=time,
            base=base,
            layers=(*layers, Layer(version=number, files=tuple(files))),
            totals=Totals(nodes=0, roots=0, missing=0, empty=0),
            **{**ABOUT, "box": str(whole_box(self.geometry.grid)), **self.about},
        )
        manifest = manifest.model_copy(update={"totals": totals(self.folder, manifest)})
        assert self.folder.create(manifest_path(number), manifest.to_json())
        return manifest

    def _nodes(self, nodes: NodeRows) -> Any:
        return node_table(nodes.roots, nodes.rows, nodes.missing, self.geometry)

    def _roots(self, nodes: NodeRows) -> Any:
        roots, starts = np.unique(nodes.roots, return_index=True)
        empty = ~nodes.rows.found & ~nodes.missing
        status = np.select(
            [nodes.missing, empty], [np.int8(Status.MISSING), np.int8(Status.EMPTY)], np.int8(0)
        )
        return root_table(
            roots, summarize(nodes.rows, status, np.append(starts, len(nodes.rows)), self.geometry)
        )

    def _layout(self, number: int, layout: Layout, table: Any) -> list[VersionFile]:
        ends = np.linspace(0, len(table), self.parts + 1).astype(int)
        cuts = [(a, b) for a, b in pairwise(ends) if a < b]
        return [
            self.file(f"{folder_name(number)}/{layout}/part-{i:05d}.parquet", layout, table.slice(a, b - a))
            for i, (a, b) in enumerate(cuts)
        ]

    def file(self, path: str, layout: Layout, table: Any) -> VersionFile:
        """Write one file, and return its entry in the manifest."""
        sink = pa.BufferOutputStream()
        pq.write_table(
            table,
            sink,
            row_group_size=self.group_rows,
            compression="zstd",
            write_statistics=[name for name in (ROOT_ID, L2_ID) if name in table.column_names],
            write_page_index=True,
            write_page_checksum=True,
        )
        content = sink.getvalue().to_pybytes()
        self.folder.write(path, content)
        return VersionFile(
            path=path,
            layout=layout,
            rows=len(table),
            bytes=len(content),
            sha256=sha256(content).hexdigest(),
            **_ends(table, ROOT_ID, "root"),
            **_ends(table, L2_ID, "node"),
        )


def _ends(table: Any, column: str, name: str) -> dict[str, Any]:
    """Return the manifest fields min_NAME and max_NAME of a file's column; none if the column is missing."""
    if column not in table.column_names:
        return {}
    ids = table[column].to_numpy()
    return {f"min_{name}": int(ids.min()) if len(ids) else 0, f"max_{name}": int(ids.max(initial=0))}


ABOUT = {
    "dataset": "sample",
    "l2cache_id": "l2cache_sample",
    "graph_id": "known",
    "cv_path": "precomputed://file:///nowhere",
    "software": "l2features test",
}
"""Fields of a manifest that describe its data set."""


def visible_rows(folder: Folder, manifest: Manifest, layout: Layout) -> list[dict[str, Any]]:
    """Return a version's rows in a layout, sorted by L2 id ("by_node") or else by root id and L2 id."""
    rows = _visible(folder, manifest, layout)
    keys = (L2_ID,) if layout == "by_node" else (ROOT_ID, L2_ID)
    return sorted(rows, key=lambda row: tuple(row.get(key) for key in keys))


def totals(folder: Folder, manifest: Manifest) -> Totals:
    """Return the counts of a version's nodes and roots."""
    rows = _visible(folder, manifest, "by_node", [ROOT_ID, MISSING, SIZE])
    missing = sum(row[MISSING] for row in rows)
    empty = sum(row[SIZE] is None and not row[MISSING] for row in rows)
    return Totals(nodes=len(rows), roots=len({row[ROOT_ID] for row in rows}), missing=missing, empty=empty)


def _visible(
    folder: Folder, manifest: Manifest, layout: Layout, columns: list[str] | None = None
) -> list[dict[str, Any]]:
    rows = []
    for index, layer in enumerate(manifest.layers):
        gone = {row[ROOT_ID] for later in manifest.removing(index) for row in _rows(folder, later)}
        for file in layer.of(layout):
            rows += [row for row in _rows(folder, file, columns) if row[ROOT_ID] not in gone]
    return rows


def _rows(folder: Folder, file: VersionFile, columns: list[str] | None = None) -> list[dict[str, Any]]:
    content = folder.read(file.path)
    assert content is not None
    whole = pq.ParquetFile(pa.BufferReader(content))
    rows: list[dict[str, Any]] = whole.read(columns, use_threads=False).to_pylist()
    return rows
