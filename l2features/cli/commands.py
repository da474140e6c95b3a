"""The command ``l2features``: its group, with one module per command."""

from __future__ import annotations

import warnings
from typing import Any

import click

from .. import __version__
from ..core.errors import EXIT_FAILED, EXIT_STOPPED, EXIT_USAGE, ConfigError, L2FeaturesError
from ..core.extras import naming_extras
from .chunk_command import chunk
from .datasets_command import completion, datasets
from .dead_letters_command import deadletters
from .doctor_command import doctor, register
from .export_command import export
from .get_command import get
from .index_command import index
from .job_commands import audit, ingest, materialize
from .neuron_command import neuron
from .neurons_command import neurons
from .query_command import query
from .sample_command import sample, sample_edit
from .serve_command import serve
from .status_command import status
from .up_command import up
from .versions_command import versions
from .view_command import view


class Commands(click.Group):
    """A group that ends the project's errors in a message and an exit status, never in a traceback."""

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


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="l2features")
def main() -> None:
    """Compute, read and serve the features of level-2 nodes.

    \b
    Try everything at once with Google's emulators, or step by step:
      l2features up
      l2features sample sample
      l2features ingest sample --config sample/datasets.yml --create
      l2features status sample --config sample/datasets.yml
      l2features serve sample/datasets.yml
    """
    warnings.filterwarnings("ignore", "Connecting to Bigtable emulator", RuntimeWarning)


COMMANDS = (
    *(sample, sample_edit, up),
    *(ingest, audit, materialize),
    *(datasets, status, doctor, register),
    *(get, neuron, neurons, export),
    *(versions, query, view),
    *(chunk, serve, index, deadletters, completion),
)
for command in COMMANDS:
    main.add_command(command)
