"""Open a data set's table, graph and versions, and print rows of the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import click

from ..config.datasets import Dataset
from ..config.reach import check_bigtable
from ..core.errors import GraphUnavailable
from ..core.geometry import Geometry
from ..core.rows import Rows
from ..store.base import Store, open_store
from .report import features_table, json_text, served_rows

if TYPE_CHECKING:
    from ..graph.base import Graph
    from ..neurons.neuron_reader import NeuronReader
    from ..versions.catalog import Catalog


def open_table(dataset: Dataset) -> Store:
    """Open a data set's table. Raises StoreUnavailable at once if its host cannot be reached."""
    check_bigtable(dataset.store)
    return open_store(dataset.store, dataset.l2cache_id)


def table_geometry(dataset: Dataset, store: Store) -> Geometry:
    """Return the geometry in the table's row ``meta``; without one, the segmentation's geometry."""
    meta = store.meta()
    if meta and meta.geometry:
        return meta.geometry
    from ..ingest.compute import read_geometry

    return read_geometry(dataset)


def open_roots(dataset: Dataset, store: Store) -> Graph:
    """Open a data set's graph. Raises GraphUnavailable at once if its host cannot be reached."""
    from ..graph.sources import open_graph

    check_bigtable(dataset.graph_url, GraphUnavailable)
    return open_graph(dataset.graph_url, lambda: store)


def open_catalog(dataset: Dataset) -> Catalog:
    """Open the data set's versions.

    Reads their folder from the data sets file, or else from the table. Raises VersionNotFound if neither
    names it.
    """
    from ..versions.catalog import Catalog
    from ..versions.folders import Folder
    from ..versions.places import versions_folder

    if dataset.versions is not None:
        return Catalog(Folder(dataset.versions))
    with closing(open_table(dataset)) as store:
        return Catalog(versions_folder(dataset, store))


@contextmanager
def open_neurons(dataset: Dataset, most_nodes: int) -> Iterator[NeuronReader]:
    """Open a reader of a data set's roots; the reader caches complete results in the table.

    The reader refuses roots with more than ``most_nodes`` L2 nodes.
    """
    from ..neurons.neuron_reader import NeuronReader
    from ..query.reader import Reader

    with closing(open_table(dataset)) as store:
        reader = Reader(store, table_geometry(dataset, store))
        with closing(open_roots(dataset, store)) as graph:
            yield NeuronReader(reader, graph, keep=True, most_nodes=most_nodes)


def print_rows(rows: Rows, geometry: Geometry, as_json: bool, names: Sequence[str]) -> None:
    """Print rows as a table or, with ``as_json``, as the HTTP API's JSON in numeric order of ids."""
    if as_json:
        click.echo(json_text(served_rows(rows, geometry, names)))
    else:
        click.echo(features_table(rows, geometry, names), nl=False)
