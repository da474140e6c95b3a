"""What the commands share: options, and how a user's mistake ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from .config import CONFIG_VARIABLE
from .errors import ConfigError, L2FeaturesError

EXIT_FAILED, EXIT_USAGE = 1, 2

config_option = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help=f"The data sets file (YAML).  [default: ${CONFIG_VARIABLE}]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, as the HTTP API gives it.")


def user_errors(command: Callable[..., None]) -> Callable[..., None]:
    """A user's mistake ends in a message and an exit status, never in a traceback."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except L2FeaturesError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED)

    return run
