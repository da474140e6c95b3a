"""Nodes of a version as the viewer's layers draw them, and the version's largest roots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..core.errors import VersionError
from ..core.schema import SIZE
from ..versions.columns import L2_ID, ROOT_ID, columns_of, unsigned, vectors
from ..versions.largest_roots import largest_rows
from ..versions.lookup import VersionReader
from ..versions.manifest import BY_NODE, Manifest, VersionFile
from .node_layers import NODE_LAYERS, Mask, ServedNodes
from .static_index import row_dtype

UNIT_ROWS = 250_000
"""Approximate number of rows that a worker reads at a time."""


class Unit(NamedTuple):
    """A unit of work: a range of rows of a version's file of nodes.

    The file is divided into ``parts`` ranges; ``part`` is the number of this range, from 0.
    ``layer`` is the index of the file's `Layer` in the version's manifest.
    """

    layer: int
    file: VersionFile
    part: int
    parts: int


def units_of(manifest: Manifest) -> list[Unit]:
    """Divide a version's files of nodes into units of work."""
    units = list[Unit]()
    for layer, file in manifest.files(BY_NODE):
        parts = -(-file.rows // UNIT_ROWS)
        units += [Unit(layer, file, part, parts) for part in range(parts)]
    return units


def columns_for(layers: Sequence[str]) -> list[str]:
    """Return the columns of a version's files that these layers of the viewer need."""
    names = {name for layer in layers for name in NODE_LAYERS[layer].attributes}
    return [ROOT_ID, L2_ID, *columns_of(sorted(names))]


def read_unit(reader: VersionReader, unit: Unit, layers: Sequence[str]) -> Iterator[Any]:
    """Yield the rows of a unit that belong to the version, one Arrow table per row group.

    Raises VersionError.
    """
    yield from reader.file_batches(unit.layer, unit.file, columns_for(layers), unit.part, unit.parts)


def drawn_rows(table: Any, layer: str, voxel_nm3: float) -> np.ndarray:
    """Return the table's nodes that the layer draws, in the table's order; dtype `row_dtype`."""
    records, places = NODE_LAYERS[layer].drawn(served_nodes(table, voxel_nm3))
    rows = np.zeros(len(records), dtype=row_dtype(layer))
    rows["id"], rows["root"] = (unsigned(table[name])[places] for name in (L2_ID, ROOT_ID))
    rows["record"] = records
    return rows


def served_nodes(table: Any, voxel_nm3: float) -> ServedNodes:
    """Return the nodes of a version's Arrow table as clients receive them; absent values are 0."""

    def column(name: str) -> tuple[np.ndarray, Mask]:
        values = vectors(table, name)
        known = ~np.isnan(values).any(axis=tuple(range(1, values.ndim)))
        return np.nan_to_num(values), known

    computed = table[SIZE].is_valid().to_numpy()
    return ServedNodes(unsigned(table[L2_ID]), computed, column, voxel_nm3)


def largest_by_id(reader: VersionReader, most: int, columns: Sequence[str]) -> Any:
    """Return id, volume and ``columns`` of the ``most`` largest roots, as a table sorted by root id.

    Raises VersionError if the version has no roots, or cannot be read.
    """
    table = largest_rows(reader, most, columns).table
    if not len(table):
        raise VersionError(f"version {reader.manifest.number} has no roots: export another version")
    return table.sort_by(ROOT_ID)
