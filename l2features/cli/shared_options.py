"""Options, types and exit statuses that the commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from ..config.datasets import CONFIG_VARIABLE, load_dataset
from ..core.geometry import Triple
from ..core.schema import ATTRIBUTES, check_names

FITTING = tuple(a.name for a in ATTRIBUTES if len(a.shape) < 2 and not a.optional)
"""Default attributes of a printed table. They fit a terminal of 100 columns."""

config_option = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help=f"Data sets file (YAML).  [default: ${CONFIG_VARIABLE}]",
)
max_nodes_option = click.option(
    "--max-nodes",
    type=click.IntRange(1),
    default=1_000_000,
    show_default=True,
    help="Maximum number of L2 nodes of a root.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, as the HTTP API returns it.")


def with_dataset(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument DATASET and the option --config; ``command`` receives the `Dataset` that they name."""

    @click.argument("dataset")
    @config_option
    @wraps(command)
    def load(dataset: str, config: str | None, **given: Any) -> None:
        command(dataset=load_dataset(dataset, config), **given)

    return load


def attribute_names(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of attributes. Raises ConfigError for an unknown name."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    check_names(names)
    return names


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
