"""The command ``l2features``: a click group whose commands are in other modules of this package."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

import click

from .. import __version__
from ..core.errors import EXIT_FAILED, EXIT_STOPPED, EXIT_USAGE, ConfigError, L2FeaturesError
from ..core.extras import naming_extras

MODULES = {
    "audit": "job_commands",
    "chunk": "chunk_command",
    "completion": "datasets_command",
    "datasets": "datasets_command",
    "deadletters": "dead_letters_command",
    "doctor": "doctor_command",
    "export": "export_command",
    "get": "get_command",
    "index": "index_command",
    "ingest": "job_commands",
    "materialize": "job_commands",
    "neuron": "neuron_command",
    "neurons": "neurons_command",
    "query": "query_command",
    "register": "doctor_command",
    "sample": "sample_command",
    "sample-edit": "sample_command",
    "serve": "serve_command",
    "status": "status_command",
    "up": "up_command",
    "versions": "versions_command",
    "view": "view_command",
}
"""The module of each command."""


class Commands(click.Group):
    """A group that imports commands on first use, and turns errors into a message and an exit status.

    ``modules`` maps each command to its module in this package.
    """

    def __init__(self, *args: Any, modules: Mapping[str, str] = MappingProxyType({}), **keys: Any) -> None:
        super().__init__(*args, **keys)
        self.modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *self.modules})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.modules:
            return super().get_command(ctx, name)
        command: click.Command = getattr(
            import_module(f".{self.modules[name]}", __package__), name.replace("-", "_")
        )
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with naming_extras():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(EXIT_STOPPED)
        except L2FeaturesError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED)


@click.group(
    cls=Commands,
    modules=MODULES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="l2features")
def main() -> None:
    """Compute, read and serve the features of level-2 nodes.

    \b
    Try everything at once with Google's emulators:
      l2features up
    Or step by step:
      l2features sample sample
      l2features ingest sample --config sample/datasets.yml --create
      l2features status sample --config sample/datasets.yml
      l2features serve sample/datasets.yml
    """
    warnings.filterwarnings("ignore", "Connecting to Bigtable emulator", RuntimeWarning)
