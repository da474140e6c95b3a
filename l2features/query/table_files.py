"""Append Arrow tables to a Parquet or CSV file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from .answers import parquet_schema, with_metadata

AXES = ("x", "y", "z")
NUMBERED = ("extents_nm",)
"""Vectors whose components are not x, y and z; their CSV columns are numbered."""


class TableFile:
    """A Parquet or CSV file to which tables of one schema are appended.

    In a Parquet file, ``about`` becomes metadata, each value as JSON. In a CSV file, a vector has one column
    per component (``centroid_nm_x``, ``extents_nm_1``). Bounds have columns for their lower and upper ends
    (``rep_bounds_nm_lower_x``). The items of a list are joined by spaces.
    """

    def __init__(self, path: Path, suffix: str, about: Mapping[str, str]) -> None:
        self.path, self.as_csv, self.about = path, suffix == ".csv", about
        self._writer: Any = None

    def write(self, table: Any) -> None:
        """Append a table."""
        if self.as_csv:
            table = flat_table(table)
        else:
            table = table.cast(parquet_schema(with_metadata(table.schema, self.about)))
        if self._writer is None and self.as_csv:
            options = pa_csv.WriteOptions(quoting_style="needed")
            self._writer = pa_csv.CSVWriter(self.path, table.schema, write_options=options)
        elif self._writer is None:
            self._writer = pq.ParquetWriter(self.path, table.schema, compression="zstd")
        self._writer.write_table(table)

    def close(self) -> None:
        """Write the end of the file."""
        if self._writer is not None:
            self._writer.close()


def flat_table(table: Any) -> Any:
    """Return a table without nested columns, for CSV."""
    names, columns = list[str](), list[Any]()
    for name, column in zip(table.column_names, table.columns, strict=True):
        for inner, values in _flat(name, column.combine_chunks(), "123" if name in NUMBERED else AXES):
            names.append(inner)
            columns.append(values)
    return pa.table(columns, names=names)


def _flat(name: str, column: Any, axes: Sequence[str]) -> list[tuple[str, Any]]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return [(name, column.cast(kind.value_type))]
    if pa.types.is_fixed_size_list(kind):
        parts = axes if kind.list_size == len(axes) else ("lower", "upper")
        elements = [pc.list_element(column, place) for place in range(kind.list_size)]
        return [
            pair
            for part, values in zip(parts, elements, strict=True)
            for pair in _flat(f"{name}_{part}", values, axes)
        ]
    if pa.types.is_list(kind):
        return [(name, pc.binary_join(column.cast(pa.list_(pa.string())), " "))]
    return [(name, column)]
