"""``l2features serve``: the HTTP API."""

from __future__ import annotations

import click

from ..config.datasets import read_datasets, server_environment, url_prefix
from ..core.errors import ConfigError


@click.command()
@click.argument("config", metavar="DATASET-FILE", type=click.Path(dir_okay=False))
@click.option(
    "--bind", metavar="HOST:PORT", default="127.0.0.1:4100", show_default=True, help="Where to listen."
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of worker processes."
)
@click.option("--auth", is_flag=True, help="Require tokens of the service at $AUTH_URL.")
@click.option(
    "--cave",
    is_flag=True,
    help="Also serve the routes of PyChunkedGraph and of CAVE's info service, for graphs in Bigtable.",
)
def serve(config: str, bind: str, workers: int, auth: bool, cave: bool) -> None:
    """Serve the data sets of DATASET-FILE over HTTP, until Ctrl-C.

    Runs gunicorn as in production, configured by the environment (see docs/api.md), with JSON log lines on
    stderr. Without --auth, everyone who can reach the server may read. --auth and --cave exclude each other.

    \b
    Example:
      l2features serve sample/datasets.yml
      l2features serve datasets.yml --bind 0.0.0.0:8080 --workers 4 --auth
    """
    from ..local.serve import APP, CAVE_APP, check_port, configuration, greet_when_up, run_server

    if auth and cave:
        raise click.UsageError("--cave cannot check tokens: expected no --auth")
    datasets = read_datasets(config)
    if cave:
        from ..local.cave.cave_apps import graph_tables

        if not graph_tables(datasets.usable.values()):
            raise ConfigError(f"--cave: no data set of {config} has a graph in Bigtable")
    program = configuration()
    check_port(bind)
    for problem in datasets.errors:
        click.echo(f"error: {problem}; this data set is not served", err=True)
    greet_when_up(bind, url_prefix(), list(datasets.usable.values()), auth)
    run_server(program, server_environment(config, bind, workers, auth), CAVE_APP if cave else APP)
