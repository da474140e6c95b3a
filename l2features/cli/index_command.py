"""``l2features index``: build the index of segments of a table without a graph."""

from __future__ import annotations

from contextlib import closing

import click

from ..config.datasets import load_dataset
from ..core.errors import ConfigError
from ..local.progress import progress_bar
from .options import config_option


@click.command()
@click.argument("dataset")
@config_option
def index(dataset: str, config: str | None) -> None:
    """Build the index of DATASET's segments, which lists the nodes of each segment.

    Only old tables of data sets without a graph need this: today the ingest does it. An interrupted run is
    resumed.

    \b
    Example:
      l2features index sample --config sample/datasets.yml
    """
    from ..store.segment_index import build_index
    from .tables import open_table, table_geometry

    entry = load_dataset(dataset, config)
    if entry.has_graph:
        raise ConfigError(f"data set {dataset!r} needs no index: its graph {entry.graph_url} has the roots")
    with closing(open_table(entry)) as store:
        geometry = table_geometry(entry, store)
        with progress_bar(geometry.n_chunks, "chunk", "index") as bar:
            for done in build_index(store, geometry):
                bar.update(done - bar.n)
    click.echo(f"the segments of {geometry.n_chunks} chunks are indexed")
