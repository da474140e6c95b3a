"""``l2features index``: index the segments of a data set without a graph."""

from __future__ import annotations

from contextlib import closing

import click

from ..config.datasets import Dataset
from ..core.errors import ConfigError
from ..local.progress import progress_bar
from .shared_options import with_dataset


@click.command()
@with_dataset
def index(dataset: Dataset) -> None:
    """Index which nodes belong to each segment of DATASET.

    Only old tables of data sets without a graph need this; the ingest indexes new tables. After an
    interruption, run the command again to resume.

    \b
    Example:
      l2features index sample --config sample/datasets.yml
    """
    from ..store.segment_index import build_index
    from .table_output import open_table, table_geometry

    if dataset.has_graph:
        where = f"data set {dataset.name!r}"
        raise ConfigError(f"{where} needs no index: its graph {dataset.graph_url} has the roots")
    with closing(open_table(dataset)) as store:
        geometry = table_geometry(dataset, store)
        with progress_bar(geometry.n_chunks, "chunk", "index") as bar:
            for done in build_index(store, geometry):
                bar.update(done - bar.n)
    click.echo(f"the segments of {geometry.n_chunks} chunks are indexed")
