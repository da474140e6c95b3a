"""The command ``l2features``."""

from __future__ import annotations

import warnings
from contextlib import closing
from datetime import UTC, datetime

import click
import numpy as np

from .. import __version__
from ..config.datasets import Dataset, load_dataset, read_datasets, server_environment, url_prefix
from ..config.reach import check_bigtable
from ..core.errors import ConfigError, GraphError, StoreError, TableNotFound
from ..core.geometry import Chunk, Geometry, Triple
from ..core.ids import KEY_DIGITS, Ids
from ..core.rows import Rows
from ..core.times import format_time
from ..query.chunk_lookup import ChunkRows, read_chunk
from ..store.base import Meta, Store, node_segments, open_store
from .dead_letters_command import deadletters
from .local_commands import sample, sample_edit, up
from .options import TripleType, config_option, json_option, user_errors


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="l2features")
def main() -> None:
    """Features of level-2 nodes: a sample to try, progress of an ingest, what is in the store, a server.

    \b
    Try it, all at once with Google's emulators, or bit by bit:
      l2features up
      l2features sample sample
      python -m beam_jobs.ingest --config sample/datasets.yml --dataset sample --create
      l2features status sample --config sample/datasets.yml
      l2features serve sample/datasets.yml
    """
    warnings.filterwarnings("ignore", "Connecting to Bigtable emulator", RuntimeWarning)


@main.command()
@click.argument("dataset")
@config_option
@json_option
@user_errors
def status(dataset: str, config: str | None, as_json: bool) -> None:
    """How far the ingest of DATASET is, how fresh its updates are, and what the last audit found.

    \b
    Example:
      l2features status sample --config sample/datasets.yml
    """
    from .report import json_text, read_status, status_text

    entry = load_dataset(dataset, config)
    with closing(_open(entry)) as store:
        geometry = _geometry(entry, store)
        state = read_status(store, geometry)
    click.echo(json_text(state.as_dict()) if as_json else status_text(state))
    for problem in state.problems.values() if as_json else ():
        click.echo(f"error: {problem}", err=True)


@main.command()
@click.argument("dataset")
@click.argument("ids", nargs=-1, metavar="[ID…]")
@click.option("--chunk", "of_chunk", type=TripleType(), help="All nodes of this chunk instead of ID….")
@click.option("--limit", type=click.IntRange(1), help="At most so many nodes.")
@click.option(
    "--segments", is_flag=True, help="Instead of features, the segment that each node is (graph: flat)."
)
@config_option
@json_option
@user_errors
def get(
    dataset: str,
    ids: tuple[str, ...],
    of_chunk: Triple | None,
    limit: int | None,
    segments: bool,
    config: str | None,
    as_json: bool,
) -> None:
    """Features of the L2 nodes ID… of DATASET, in nm, from the store.

    \b
    Example:
      l2features get sample --chunk 1,1,1 --limit 5 --config sample/datasets.yml
      l2features get sample 144185625606619137 --json --config sample/datasets.yml
      l2features get sample 144185625606619137 --segments --config sample/datasets.yml
    """
    if bool(ids) == bool(of_chunk):
        raise click.UsageError("expected either node ids or --chunk X,Y,Z")
    wanted = np.array([_node_id(text) for text in ids], dtype=np.uint64)
    entry = load_dataset(dataset, config)
    if segments:
        _check_flat(entry)
    with closing(_open(entry)) as store:
        geometry = _geometry(entry, store)
        if of_chunk is None:
            found = ChunkRows(store.read(wanted[:limit]))
        else:
            _check_in_grid(geometry, Chunk(*of_chunk))
            found = read_chunk(store, entry, geometry, Chunk(*of_chunk))
        rows = found.rows[:limit]
        if segments:
            _print_segments(node_segments(store, geometry.layout, rows.ids), rows.ids, as_json)
        elif len(rows) or as_json:
            _print_rows(rows, geometry, as_json)
    if found.note:
        click.echo(found.note, err=True)
    if found.error:
        raise StoreError(found.error)


@main.command()
@click.argument("dataset")
@click.argument("chunk", type=TripleType(), metavar="X,Y,Z")
@click.option(
    "--timestamp",
    help='Time of the graph, "YYYY-MM-DD HH:MM:SS" in UTC or ISO 8601.  [default: the table\'s, or now]',
)
@config_option
@json_option
@user_errors
def chunk(dataset: str, chunk: Triple, timestamp: str | None, config: str | None, as_json: bool) -> None:
    """Compute chunk X,Y,Z of DATASET and print its nodes' features; nothing is written.

    \b
    Example:
      l2features chunk sample 1,0,2 --config sample/datasets.yml
    """
    from ..ingest.compute import ChunkSource, read_geometry
    from ..ingest.steps import time_of_graph

    entry = load_dataset(dataset, config)
    asked = None if timestamp is None else time_of_graph(entry, timestamp)
    check_bigtable(entry.graph, GraphError)
    with closing(_open(entry)) as store:
        meta = _meta(store)
    geometry = read_geometry(entry, meta.geometry if meta else None)
    _check_in_grid(geometry, Chunk(*chunk))
    time = asked or (meta.time if meta else datetime.now(UTC))
    result = ChunkSource(entry, geometry, time).compute(Chunk(*chunk))
    _print_rows(Rows.complete(result.features), geometry, as_json)
    for error in result.errors:
        click.echo(f"error: {error}", err=True)
    if result.files.background:
        click.echo(f"files: {result.files}", err=True)
    if result.orphans:
        click.echo(f"{result.orphans} supervoxels without a parent at {format_time(time)}", err=True)


@main.command()
@click.argument("config", metavar="DATASET-FILE", type=click.Path(dir_okay=False))
@click.option(
    "--bind", metavar="HOST:PORT", default="127.0.0.1:4100", show_default=True, help="Where to listen."
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes.")
@click.option("--auth", is_flag=True, help="Ask the service at $AUTH_URL who may read what.")
@user_errors
def serve(config: str, bind: str, workers: int, auth: bool) -> None:
    """Serve the data sets of DATASET-FILE by HTTP, until Ctrl-C.

    It is the server of production, gunicorn, with the settings of the environment (see docs/api.md) and a
    log of JSON lines on stderr. Everyone who can reach it may read, unless --auth is given.

    \b
    Example:
      l2features serve sample/datasets.yml
      l2features serve datasets.yml --bind 0.0.0.0:8080 --workers 4 --auth
    """
    from ..local.serve import check_port, configuration, greet_when_up, run_server

    datasets = read_datasets(config)
    program = configuration()
    check_port(bind)
    for problem in datasets.errors:
        click.echo(f"error: {problem}; it is not served", err=True)
    greet_when_up(bind, url_prefix(), list(datasets.usable.values()), auth)
    run_server(program, server_environment(config, bind, workers, auth))


def _open(dataset: Dataset) -> Store:
    """The table of a data set. Raises StoreUnavailable at once where its host cannot be reached."""
    check_bigtable(dataset.store)
    return open_store(dataset.store, dataset.l2cache_id)


def _meta(store: Store) -> Meta | None:
    try:
        return store.meta()
    except TableNotFound:
        return None


def _geometry(dataset: Dataset, store: Store) -> Geometry:
    """The geometry that the table knows, or else that of the segmentation."""
    from ..ingest.compute import read_geometry

    meta = store.meta()
    if meta and meta.geometry:
        return meta.geometry
    return read_geometry(dataset)


def _check_in_grid(geometry: Geometry, chunk: Chunk) -> None:
    if not geometry.in_grid([chunk])[0]:
        raise ConfigError(f"chunk {chunk}: expected coordinates below {Chunk(*geometry.grid)}")


def _check_flat(dataset: Dataset) -> None:
    if dataset.has_graph:
        raise ConfigError(
            f"data set {dataset.name!r} has a graph ({dataset.graph}): --segments is for data sets with "
            "graph: flat"
        )


def _node_id(text: str) -> int:
    if not text.isdecimal() or len(text) > KEY_DIGITS or int(text) >= 1 << 64:
        raise ConfigError(f"{text!r} is not a node id: expected an integer from 0 to {(1 << 64) - 1}")
    return int(text)


def _print_segments(segments: Ids, ids: Ids, as_json: bool) -> None:
    from .report import json_text

    pairs = {str(node): segment for node, segment in zip(ids.tolist(), segments.tolist(), strict=True)}
    if as_json:
        click.echo(json_text(pairs))
    else:
        click.echo("".join(f"{node} {segment}\n" for node, segment in pairs.items()), nl=False)


def _print_rows(rows: Rows, geometry: Geometry, as_json: bool) -> None:
    from .report import features_table, json_text, served_rows

    if as_json:
        served = served_rows(rows, geometry)
        click.echo(json_text({label: served[label] for label in sorted(served, key=int)}))
    else:
        click.echo(features_table(rows, geometry), nl=False)


for command in (sample, sample_edit, up, deadletters):
    main.add_command(command)


if __name__ == "__main__":
    main()
