"""Opening a data set's table, and printing its rows."""

from __future__ import annotations

import click

from ..config.datasets import Dataset
from ..config.reach import check_bigtable
from ..core.errors import ConfigError
from ..core.geometry import Chunk, Geometry
from ..core.rows import Rows
from ..store.base import Store, open_store
from .report import features_table, json_text, served_rows


def open_table(dataset: Dataset) -> Store:
    """Open a data set's table. Raises StoreUnavailable at once where its host cannot be reached."""
    check_bigtable(dataset.store)
    return open_store(dataset.store, dataset.l2cache_id)


def table_geometry(dataset: Dataset, store: Store) -> Geometry:
    """Return the geometry that the table states, or else the segmentation's."""
    from ..ingest.compute import read_geometry

    meta = store.meta()
    if meta and meta.geometry:
        return meta.geometry
    return read_geometry(dataset)


def check_in_grid(geometry: Geometry, chunk: Chunk) -> None:
    """Raise ConfigError for a chunk outside the grid."""
    if not geometry.in_grid([chunk])[0]:
        raise ConfigError(f"chunk {chunk}: expected coordinates below {Chunk(*geometry.grid)}")


def print_rows(rows: Rows, geometry: Geometry, as_json: bool) -> None:
    """Print features as a table, or as the HTTP API's JSON in numeric order."""
    if as_json:
        click.echo(json_text(served_rows(rows, geometry)))
    else:
        click.echo(features_table(rows, geometry), nl=False)
