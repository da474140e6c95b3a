"""``l2features status``: a table's progress, freshness and completeness."""

from __future__ import annotations

from contextlib import closing

import click

from ..config.datasets import Dataset
from .shared_options import json_option, with_dataset


@click.command()
@with_dataset
@json_option
def status(dataset: Dataset, as_json: bool) -> None:
    """Show the progress of DATASET's ingest, how fresh its updates are, and the result of the last audit.

    \b
    Example:
      l2features status sample --config sample/datasets.yml
    """
    from ..overview.table_status import read_status
    from .report import json_text, status_text
    from .table_output import open_table, table_geometry

    with closing(open_table(dataset)) as store:
        state = read_status(store, table_geometry(dataset, store))
    click.echo(json_text(state.as_dict()) if as_json else status_text(state))
    for problem in state.problems.values() if as_json else ():
        click.echo(f"error: {problem}", err=True)
