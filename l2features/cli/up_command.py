"""``l2features up``: everything on one machine."""

from __future__ import annotations

from pathlib import Path

import click

PORT = click.IntRange(1, 65_535)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default="l2features-stack")
@click.option("--api-port", type=PORT, help="Port of the HTTP API.  [default: a free one]")
@click.option("--bigtable-port", type=PORT, help="Port of the Bigtable emulator.  [default: a free one]")
@click.option("--pubsub-port", type=PORT, help="Port of the Pub/Sub emulator.  [default: a free one]")
def up(folder: Path, api_port: int | None, bigtable_port: int | None, pubsub_port: int | None) -> None:
    """Run everything on this machine, until Ctrl-C: emulators, a sample with a graph, updater, HTTP API.

    Needs the Google Cloud SDK's emulators of Bigtable and Pub/Sub, but no Docker. Writes only below FOLDER,
    which must be new, empty, or of an earlier `l2features up`. The emulators store nothing on disk, so each
    start begins with an unedited graph.

    \b
    Example:
      l2features up
      l2features up stack --api-port 4100
    """
    from ..local.up import run

    ports = {"api": api_port, "bigtable": bigtable_port, "pubsub": pubsub_port}
    status = run(folder, {name: port for name, port in ports.items() if port})
    if status:
        raise SystemExit(status)
