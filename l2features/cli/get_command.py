"""``l2features get``: features from the store."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import click
import numpy as np

from ..config.datasets import Dataset
from ..core.errors import ConfigError, StoreError
from ..core.geometry import Chunk, Geometry, Triple
from ..core.ids import Ids, parse_id
from ..core.schema import NAMES
from .shared_options import FITTING, TripleType, attribute_names, json_option, with_dataset

if TYPE_CHECKING:
    from ..query.chunk_lookup import ChunkRows
    from ..store.base import Store


@click.command()
@with_dataset
@click.argument("ids", nargs=-1, metavar="[ID…]")
@click.option("--chunk", "of_chunk", type=TripleType(), help="Print all nodes of this chunk instead of ID….")
@click.option("--limit", type=click.IntRange(1), help="Maximum number of nodes.")
@click.option(
    "--attributes",
    metavar="NAME,…",
    help=f"Attributes to print.  [default: {','.join(FITTING)}; with --json all]",
)
@click.option(
    "--segments", is_flag=True, help="Print each node's segment instead of features; only with graph: flat."
)
@json_option
def get(
    dataset: Dataset,
    ids: tuple[str, ...],
    of_chunk: Triple | None,
    limit: int | None,
    attributes: str | None,
    segments: bool,
    as_json: bool,
) -> None:
    """Print the features of DATASET's L2 nodes ID…, in nm, from the store.

    \b
    Example:
      l2features get sample --chunk 1,1,1 --limit 5 --config sample/datasets.yml
      l2features get sample 144185625606619137 --attributes pca,pca_val --config sample/datasets.yml
      l2features get sample 144185625606619137 --json --config sample/datasets.yml
      l2features get sample 144185625606619137 --segments --config sample/datasets.yml
    """
    from ..store.base import node_segments
    from .table_output import open_table, print_rows, table_geometry

    if bool(ids) == bool(of_chunk):
        raise click.UsageError("expected either node ids or --chunk X,Y,Z")
    wanted = np.array([_node_id(text) for text in ids], dtype=np.uint64)
    names = attribute_names(attributes) if attributes else NAMES if as_json else FITTING
    if segments and dataset.has_graph:
        raise ConfigError(
            f"data set {dataset.name!r} has a graph ({dataset.graph}): --segments is for data sets with "
            "graph: flat"
        )
    with closing(open_table(dataset)) as store:
        geometry = table_geometry(dataset, store)
        found, total = _found(store, dataset, geometry, wanted if of_chunk is None else of_chunk, limit)
        rows = found.rows[:limit]
        if segments:
            _print_segments(node_segments(store, geometry.layout, rows.ids), rows.ids, as_json)
        elif len(rows) or as_json:
            print_rows(rows, geometry, as_json, names)
    if len(rows) < total:
        click.echo(f"printed {len(rows)} of {total} nodes: --limit leaves out the others", err=True)
    _report(found)


def _found(
    store: Store, dataset: Dataset, geometry: Geometry, wanted: Ids | Triple, limit: int | None
) -> tuple[ChunkRows, int]:
    """Return the rows of ids or of a chunk (``wanted``), and their number without ``limit``.

    For ids, only the first ``limit`` are read. A chunk is read completely.
    """
    from ..query.chunk_lookup import ChunkRows, read_chunk

    if isinstance(wanted, np.ndarray):
        return ChunkRows(store.read(wanted[:limit])), len(wanted)
    geometry.check_in_grid(Chunk(*wanted))
    found = read_chunk(store, dataset, geometry, Chunk(*wanted))
    return found, len(found.rows)


def _report(found: ChunkRows) -> None:
    """Print ``found.note``, if any. Raises StoreError if rows may be missing."""
    if found.note:
        click.echo(found.note, err=True)
    if found.error:
        raise StoreError(found.error)


def _node_id(text: str) -> int:
    try:
        return parse_id(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a node id: {error}") from error


def _print_segments(segments: Ids, ids: Ids, as_json: bool) -> None:
    from .report import json_text

    pairs = {str(node): segment for node, segment in zip(ids.tolist(), segments.tolist(), strict=True)}
    if as_json:
        click.echo(json_text(pairs))
    else:
        click.echo("".join(f"{node} {segment}\n" for node, segment in pairs.items()), nl=False)
