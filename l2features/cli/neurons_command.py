"""``l2features neurons``: the summaries of many roots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from ..config.datasets import Dataset
from ..core.errors import ConfigError
from ..core.ids import Ids
from ..local.progress import progress_bar
from .output import new_table, to_option
from .shared_options import json_option, max_nodes_option, with_dataset

if TYPE_CHECKING:
    from ..neurons.neuron_reader import NeuronReader

BATCH = 1_000
"""Roots that are read at a time."""


@click.command()
@with_dataset
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--column", metavar="NAME", help="Column of the roots, in a CSV file with a header.")
@click.option("--graph", is_flag=True, help="Also compute measures of the L2 graphs, such as cable length.")
@to_option("Write all measures, in nm, to this .parquet or .csv file instead of printing some.")
@max_nodes_option
@json_option
def neurons(
    dataset: Dataset,
    file: TextIO,
    column: str | None,
    graph: bool,
    to: Path | None,
    max_nodes: int,
    as_json: bool,
) -> None:
    """Print volume and area of each root in FILE.

    FILE (- for standard input) has one root per line, or is a CSV file. Roots are read from the column that
    --column names; by default from root_id, pt_root_id or segment_id, or the only column. Complete results
    are cached in the table.

    \b
    Example:
      seq 1 20 | l2features neurons sample - --config sample/datasets.yml
      l2features neurons minnie cells.csv --column pt_root_id --graph --to neurons.parquet
    """
    from ..query.provenance import provenance
    from .root_ids import read_root_ids
    from .table_output import open_neurons

    if to is not None and as_json:
        raise ConfigError("--json prints, but --to writes a file: expected only one of them")
    roots = read_root_ids(file, file.name, column)
    with open_neurons(dataset, max_nodes) as reader:
        if to is None:
            _print(reader, roots, graph, as_json)
        else:
            _write(reader, roots, graph, to, provenance(dataset, reader.reader.store.meta()))


def _print(reader: NeuronReader, roots: Ids, graph: bool, as_json: bool) -> None:
    from ..neurons.root_answers import root_objects
    from .neuron_report import neurons_table, problems
    from .report import json_text

    summaries: dict[str, Mapping[str, Any]] = {}
    for part in _parts(roots):
        found = reader.summaries(part, with_graph=graph)
        objects = root_objects(found, reader.histories_of(found))
        summaries |= {str(root): objects[str(root)] for root in part.tolist()}
    click.echo(json_text(summaries) if as_json else neurons_table(summaries), nl=as_json)
    for line in () if as_json else problems(summaries):
        click.echo(line, err=True)


def _write(reader: NeuronReader, roots: Ids, graph: bool, file: Path, about: Mapping[str, str]) -> None:
    """Write the summaries batch by batch, in the order of the roots; ``about`` is the file's metadata."""
    from ..neurons.root_answers import root_table

    statuses = Counter[str]()
    with new_table(file, about) as writer:
        for some in _parts(roots):
            found = reader.summaries(some, with_graph=graph)
            table = root_table(found, reader.histories_of(found))
            writer.write(table)
            statuses.update(table.column("status").to_pylist())
    counts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in statuses.items())
    click.echo(f"wrote {len(roots)} roots to {file}: {counts}")


def _parts(roots: Ids) -> Iterator[Ids]:
    with progress_bar(len(roots), "root", "neurons", delay=1) as bar:
        for first in range(0, len(roots), BATCH):
            part = roots[first : first + BATCH]
            yield part
            bar.update(len(part))
