"""``l2features export``: all nodes of a table in one Parquet file."""

from __future__ import annotations

from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..config.datasets import Dataset
from ..core.chunks import parse_box, whole_box
from ..core.errors import ConfigError, StoreError
from ..core.times import format_time, parse_time
from ..local.progress import progress_bar
from .output import check_file, new_file
from .shared_options import with_dataset

if TYPE_CHECKING:
    from ..query.node_export import Exported

MAX_LISTED = 5


@click.command()
@with_dataset
@click.option(
    "--to",
    "file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Parquet file to write.",
)
@click.option("--chunks", metavar="X0:X1,Y0:Y1,Z0:Z1", help="Only these chunks.  [default: all]")
@click.option(
    "--timestamp",
    help='Time of the roots, "YYYY-MM-DD HH:MM:SS" in UTC or ISO 8601.  [default: now]',
)
@click.option("--no-roots", is_flag=True, help="Do not look up roots in the graph.")
def export(dataset: Dataset, file: Path, chunks: str | None, timestamp: str | None, no_roots: bool) -> None:
    """Write all nodes of DATASET to a Parquet file.

    Each row has a node's features in nm and its root at --timestamp (`root_id`) or, without a graph, its
    segment (`segment_id`). The file's metadata name the data set, table, segmentation and graph. Memory does
    not grow with the number of nodes.

    \b
    Example:
      l2features export sample --to nodes.parquet --config sample/datasets.yml
      l2features export minnie --to part.parquet --chunks 10:20,0:8,0:4 --timestamp "2026-11-21 00:27:44"
    """
    from ..query.node_export import NodeExport
    from ..query.provenance import provenance
    from .table_output import open_roots, open_table, table_geometry

    check_file(file, ".parquet")
    if timestamp is not None and (no_roots or not dataset.has_graph):
        raise ConfigError(
            "--timestamp sets the time of the roots: expected a data set with a graph, without --no-roots"
        )
    time = parse_time(timestamp) if timestamp else datetime.now(UTC)
    about = {"exported_at": format_time(datetime.now(UTC))}
    with ExitStack() as stack:
        store = stack.enter_context(closing(open_table(dataset)))
        geometry = table_geometry(dataset, store)
        box = parse_box(chunks, geometry.grid) if chunks else whole_box(geometry.grid)
        graph = None
        if dataset.has_graph and not no_roots:
            graph = stack.enter_context(closing(open_roots(dataset, store)))
            about["roots_at"] = format_time(time)
        nodes = NodeExport(dataset, store, geometry, graph, time)
        part = stack.enter_context(new_file(file))
        bar = stack.enter_context(progress_bar(len(box), "chunk", "export", delay=0.5))
        done = nodes.write(
            box, part, {**provenance(dataset, store.meta()), "chunks": str(box), **about}, bar.update
        )
    _report(done, len(box), file)


def _report(done: Exported, n_chunks: int, file: Path) -> None:
    """Print the counts of an export. Raises StoreError if nodes may be missing."""
    click.echo(f"wrote {done.nodes} nodes of {n_chunks} chunks to {file}")
    if done.incomplete:
        for problem in done.problems[:MAX_LISTED]:
            click.echo(problem, err=True)
        raise StoreError(
            f"the file may lack nodes of {done.incomplete} of {n_chunks} chunks: run `l2features ingest`, "
            "then export again"
        )
