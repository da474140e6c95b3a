"""``l2features chunk``: compute a chunk without writing."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime

import click

from ..config.datasets import Dataset
from ..config.reach import check_bigtable
from ..core.errors import GraphError, TableNotFound
from ..core.geometry import Chunk, Triple
from ..core.schema import NAMES
from ..core.times import format_time
from .shared_options import FITTING, TripleType, json_option, with_dataset


@click.command()
@with_dataset
@click.argument("chunk", type=TripleType(), metavar="X,Y,Z")
@click.option(
    "--timestamp",
    help='Time of the graph, "YYYY-MM-DD HH:MM:SS" in UTC or ISO 8601.  [default: the table\'s, or now]',
)
@json_option
def chunk(dataset: Dataset, chunk: Triple, timestamp: str | None, as_json: bool) -> None:
    """Compute chunk X,Y,Z of DATASET and print its nodes' features, without writing.

    \b
    Example:
      l2features chunk sample 1,0,2 --config sample/datasets.yml
    """
    from ..core.rows import Rows
    from ..ingest.compute import ChunkSource, read_geometry
    from ..ingest.steps import time_of_graph
    from .table_output import open_table, print_rows

    asked = None if timestamp is None else time_of_graph(dataset, timestamp)
    check_bigtable(dataset.graph, GraphError)
    with closing(open_table(dataset)) as store:
        try:
            meta = store.meta()
        except TableNotFound:
            meta = None
    geometry = read_geometry(dataset, meta.geometry if meta else None)
    geometry.check_in_grid(Chunk(*chunk))
    time = asked or (meta.time if meta else datetime.now(UTC))
    result = ChunkSource(dataset, geometry, time).compute(Chunk(*chunk))
    print_rows(Rows.complete(result.features), geometry, as_json, NAMES if as_json else FITTING)
    for error in result.errors:
        click.echo(f"error: {error}", err=True)
    if result.files.background:
        click.echo(f"files: {result.files}", err=True)
    if result.orphans:
        click.echo(f"{result.orphans} supervoxels without a parent at {format_time(time)}", err=True)
