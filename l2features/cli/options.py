"""What the commands share: options, and how a user's mistake ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from ..config.datasets import CONFIG_VARIABLE
from ..core.errors import ConfigError, L2FeaturesError
from ..core.geometry import Triple

EXIT_FAILED, EXIT_USAGE = 1, 2

config_option = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help=f"The data sets file (YAML).  [default: ${CONFIG_VARIABLE}]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, as the HTTP API gives it.")


class TripleType(click.ParamType[Triple]):
    """Three comma-separated integers."""

    name = "X,Y,Z"

    def __init__(self, at_least: int = 0, at_most: int = 1 << 31) -> None:
        self.at_least, self.at_most = at_least, at_most

    def convert(self, value: Any, param: Any, ctx: Any) -> Triple:
        if isinstance(value, tuple):
            return value
        parts = value.split(",")
        if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
            self.fail(f"{value!r}: expected three integers such as 1,2,0", param, ctx)
        x, y, z = (int(part) for part in parts)
        if min(x, y, z) < self.at_least or max(x, y, z) > self.at_most:
            self.fail(f"{value!r}: expected {self.at_least} to {self.at_most} on each axis", param, ctx)
        return x, y, z


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
