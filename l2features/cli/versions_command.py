"""``l2features versions``: list, show, check, compare and delete the versions of a data set."""

from __future__ import annotations

import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..config.datasets import Dataset
from ..core.errors import EXIT_FAILED, L2FeaturesError
from ..local.progress import progress_bar
from .output import new_table, to_option
from .shared_options import json_option, with_dataset

if TYPE_CHECKING:
    from ..versions.lookup import VersionReader
    from ..versions.verify import Findings

MAX_LISTED = 20
number_argument = click.argument("number", type=click.IntRange(1, 999_999), metavar="N")


@click.group()
def versions() -> None:
    """List, show, check, compare and delete the versions of a data set.

    A version is the whole data set at one time, as Parquet files: every valid node with its root and
    features, and a summary of every root. Make one with l2features materialize.

    \b
    Example:
      l2features versions list minnie
      l2features versions show minnie 7
      l2features versions verify minnie 7
      l2features versions diff minnie 6 7 --to moved.parquet
      l2features versions delete minnie 6
    """


@versions.command("list")
@with_dataset
@json_option
def list_versions(dataset: Dataset, as_json: bool) -> None:
    """List the versions of DATASET, each with its time, base, counts and size.

    The base is the older version whose files a version includes. The exit status is 1 if a version cannot be
    read.
    """
    from .report import json_text
    from .table_output import open_catalog
    from .version_report import versions_table

    found = open_catalog(dataset).list()
    if as_json:
        click.echo(json_text([one.model_dump(mode="json", exclude_none=True) for one in found]))
    elif found:
        click.echo(versions_table(found), nl=False)
    else:
        click.echo("no version yet")
    problems = [f"error: version {one.number}: {one.problem}" for one in found if one.problem]
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        sys.exit(EXIT_FAILED)


@versions.command()
@with_dataset
@number_argument
@json_option
def show(dataset: Dataset, number: int, as_json: bool) -> None:
    """Show version N of DATASET: times, table, graph, segmentation, counts and files.

    Files are grouped by the version that wrote them: a version may include files of older ones.
    --json prints the version's manifest.
    """
    from .table_output import open_catalog
    from .version_report import version_text

    manifest = open_catalog(dataset).reader(number).manifest
    click.echo(manifest.to_json().decode() if as_json else version_text(manifest), nl=False)


@versions.command()
@with_dataset
@number_argument
@click.option("--files-only", is_flag=True, help="Do not compare samples with the graph and the table.")
@json_option
def verify(dataset: Dataset, number: int, files_only: bool, as_json: bool) -> None:
    """Check version N of DATASET: the bytes and rows of its files, and the values of random nodes and roots.

    Hashes all files and counts their rows, also files that N includes from older versions. Compares random
    nodes and roots with the graph at the version's time, and their features with the table. The exit status
    is 1 if anything is wrong.
    """
    from ..versions.verify import Findings, verify_files
    from .report import json_text
    from .table_output import open_catalog

    reader, found = open_catalog(dataset).reader(number), Findings()
    files = [file for layer in reader.manifest.layers for file in layer.files]
    total = sum(file.bytes for file in files)
    with progress_bar(total, "B", "verify", unit_scale=True, delay=0.5) as bar:
        verify_files(reader, found, bar.update)
    sampled = 0 if files_only or found.count else _sample(dataset, reader, found)
    if as_json:
        about = {"version": number, "files": len(files), "bytes": total, "sampled": sampled}
        click.echo(json_text({**about, "findings": found.lines, "count": found.count}))
    else:
        click.echo("".join(f"{line}\n" for line in found.lines), nl=False)
        nodes = reader.manifest.totals.nodes
        samples = f", {sampled} nodes compared with graph and table" if sampled else ""
        click.echo(f"version {number}: {len(files)} files, {nodes} nodes{samples}: {found.count} findings")
    if found.count:
        sys.exit(EXIT_FAILED)


@versions.command()
@with_dataset
@click.argument("a", type=click.IntRange(1, 999_999))
@click.argument("b", type=click.IntRange(1, 999_999))
@to_option("Write every node that differs, with its root in A and in B, to this .parquet or .csv file.")
@json_option
def diff(dataset: Dataset, a: int, b: int, to: Path | None, as_json: bool) -> None:
    """Compare versions A and B of DATASET: roots that only one of them has, and nodes whose root differs.

    Memory does not grow with the size of the versions.
    """
    from .report import json_text
    from .table_output import open_catalog
    from .version_report import compared, diff_text

    catalog = open_catalog(dataset)
    readers = catalog.reader(a), catalog.reader(b)
    about = {"dataset": dataset.name, "version_a": str(a), "version_b": str(b)}
    with new_table(to, about) if to else nullcontext() as writer:
        found = compared(*readers, MAX_LISTED, writer.write if writer else None)
    click.echo(json_text(vars(found)) if as_json else diff_text(found, a, b))


@versions.command()
@with_dataset
@number_argument
@click.option("--yes", is_flag=True, help="Delete without asking.")
def delete(dataset: Dataset, number: int, yes: bool) -> None:
    """Delete version N of DATASET, finished or not.

    A version whose files are part of a newer version cannot be deleted: delete the newer version first.
    """
    from ..versions.removal import delete_version, is_unfinished
    from .table_output import open_catalog

    folder = open_catalog(dataset).folder
    unfinished = is_unfinished(folder, number)
    if not yes:
        state = "unfinished, and a job may be making it" if unfinished else "finished"
        click.confirm(f"version {number} in {folder.url} is {state}: delete it?", abort=True)
    delete_version(folder, number)
    click.echo(f"deleted version {number}")


def _sample(dataset: Dataset, reader: VersionReader, found: Findings) -> int:
    """Compare random rows of a version with the graph and the table; return the number of nodes compared."""
    from ..query.reader import Reader
    from ..versions.sampling import verify_samples
    from .table_output import open_roots, open_table, table_geometry

    if reader.manifest.l2cache_id != dataset.l2cache_id:
        raise L2FeaturesError(
            f"version {reader.manifest.number} is of table {reader.manifest.l2cache_id}, not of "
            f"{dataset.l2cache_id}: check only its files with --files-only"
        )
    with closing(open_table(dataset)) as store, closing(open_roots(dataset, store)) as graph:
        return verify_samples(reader, Reader(store, table_geometry(dataset, store)), graph, found)
