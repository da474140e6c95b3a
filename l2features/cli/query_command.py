"""``l2features query``: SQL over a version of a data set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from ..config.datasets import Dataset
from ..core.errors import ConfigError
from .output import new_table, to_option
from .shared_options import json_option, with_dataset

if TYPE_CHECKING:
    from ..versions.sql import VersionSql

SHOWN = 40


@click.command()
@with_dataset
@click.argument("sql")
@click.option(
    "--version", "number", type=click.IntRange(1), metavar="N", help="Version.  [default: the newest]"
)
@to_option("Write all rows to this .parquet or .csv file instead of printing some.")
@click.option(
    "--limit", type=click.IntRange(1), help=f"Rows that are printed.  [default: {SHOWN}; with --json all]"
)
@json_option
def query(
    dataset: Dataset, sql: str, number: int | None, to: Path | None, limit: int | None, as_json: bool
) -> None:
    """Run one SELECT statement over a version of DATASET, by DuckDB.

    \b
    The views are
      nodes        root_id, l2_id, the features, missing (not computed yet); sorted by root
      nodes_by_id  the same, sorted by node
      roots        root_id, n_nodes, size_nm3, … of each root
    DESCRIBE nodes lists the columns. A query reads the version's files in place. It can also read other
    files, such as 'cells.csv'.

    \b
    Example:
      l2features query minnie "SELECT root_id, size_nm3 FROM roots ORDER BY size_nm3 DESC LIMIT 10"
      l2features query minnie "SELECT sum(size_nm3) FROM nodes" --version 7
      l2features query minnie "SELECT * FROM roots JOIN 'cells.csv' USING (root_id)" --to cells.parquet
    """
    from ..versions.sql import VersionSql
    from .table_output import open_catalog

    if to is not None and (as_json or limit):
        raise ConfigError("--to writes all rows to a file: expected neither --json nor --limit")
    reader = open_catalog(dataset).reader(number)
    with VersionSql(reader.manifest, reader.files.folder) as connection:
        if to is not None:
            about = {"dataset": dataset.name, "version": str(reader.manifest.number), "query": sql}
            _write(connection, sql, to, about)
        elif as_json:
            _print_json(connection, sql, limit)
        else:
            _print(connection, sql, limit or SHOWN)


def _tables(connection: VersionSql, sql: str) -> Iterator[Any]:
    """Yield the result in Arrow tables; the first has no rows."""
    import pyarrow as pa

    batches = connection.batches(sql)
    yield batches.schema.empty_table()
    with connection.errors():
        for batch in batches:
            yield pa.Table.from_batches([batch])


def _write(connection: VersionSql, sql: str, file: Path, about: dict[str, str]) -> None:
    count = 0
    with new_table(file, about) as writer:
        for table in _tables(connection, sql):
            writer.write(table)
            count += len(table)
    click.echo(f"wrote {count} rows to {file}")


def _print_json(connection: VersionSql, sql: str, limit: int | None) -> None:
    """Print a JSON list with an object per row, while the rows are read."""
    count = 0
    click.echo("[", nl=False)
    for table in _tables(connection, sql):
        rows = table.slice(0, None if limit is None else limit - count).to_pylist()
        for row in rows:
            text = json.dumps(row, separators=(",", ":"), default=_plain)
            click.echo(f"{',' if count else ''}{text}", nl=False)
            count += 1
        if count == limit:
            break
    click.echo("]")


def _print(connection: VersionSql, sql: str, limit: int) -> None:
    from .report import cell_text, rendered

    shown, more = Table(box=None, pad_edge=False, header_style="bold"), False
    for table in _tables(connection, sql):
        for name in table.column_names if not shown.columns else ():
            shown.add_column(name, justify="right", no_wrap=True)
        room = limit - shown.row_count
        for row in table.slice(0, room).to_pylist():
            shown.add_row(*map(cell_text, row.values()))
        if more := len(table) > room:
            break
    click.echo(rendered(shown), nl=False)
    if more:
        click.echo(f"the first {limit} rows: --limit prints more, --to writes all", err=True)


def _plain(value: Any) -> Any:
    """Convert a non-JSON value: decimals, such as DuckDB's sums of integers, to numbers, others to text."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)
