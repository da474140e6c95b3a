"""``l2features datasets``: list data sets; ``l2features completion``: print a shell's completion script."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import click
from click.shell_completion import get_completion_class

from ..config.datasets import Dataset, read_datasets
from ..core.errors import EXIT_FAILED, L2FeaturesError
from .report import json_text, rendered
from .shared_options import config_option

STATE_S = 10.0
"""Maximum seconds for reading the state of a table."""
AT_ONCE = 8
VARIABLE = "_L2FEATURES_COMPLETE"


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def datasets(config: str | None, as_json: bool) -> None:
    """List the entries of the data sets file: name, table, store, graph, and the state of the table.

    Data sets may share a table. The exit status is 1 if an entry of the file is invalid.

    \b
    Example:
      l2features datasets --config sample/datasets.yml
    """
    from rich.table import Table

    found = read_datasets(config)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        states = list(threads.map(_state, found.usable.values()))
    columns = ("name", "table", "store", "graph", "state")
    rows = [
        (d.name, d.l2cache_id, d.store, d.graph_url, state)
        for d, state in zip(found.usable.values(), states, strict=True)
    ]
    if as_json:
        click.echo(json_text([dict(zip(columns, row, strict=True)) for row in rows]))
    else:
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*row)
        click.echo(rendered(table), nl=False)
    for problem in found.errors:
        click.echo(f"error: {problem}", err=True)
    if found.errors:
        raise SystemExit(EXIT_FAILED)


def _state(dataset: Dataset) -> str:
    from ..config.reach import check_bigtable
    from ..core.errors import TableNotFound
    from ..store.base import open_store

    try:
        check_bigtable(dataset.store)
        with closing(open_store(dataset.store, dataset.l2cache_id, STATE_S)) as store:
            meta = store.meta()
    except TableNotFound:
        return "no table yet"
    except L2FeaturesError as error:
        return f"cannot be read: {error}"
    return f"valid at {meta.timestamp} UTC" if meta else "without meta"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that makes a shell complete commands and options.

    \b
    Example:
      l2features completion bash > ~/.local/share/bash-completion/completions/l2features
      eval "$(l2features completion zsh)"
      l2features completion fish > ~/.config/fish/completions/l2features.fish
    """
    from .commands import main

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "l2features", VARIABLE).source())
