"""``l2features view``: print and open a link that draws roots in Neuroglancer."""

from __future__ import annotations

import sys

import click

from ..core.errors import ConfigError
from ..core.ids import Ids, as_ids, sorted_unique

SERVER = "http://127.0.0.1:4100"
TIMEOUT_S, RETRIES = 60.0, 1


@click.command()
@click.argument("dataset")
@click.option("--root", "roots", metavar="ROOT", multiple=True, help="Select this root. Repeatable.")
@click.option("--version", type=click.IntRange(1), help="List the largest roots of this version.")
@click.option("--server", metavar="URL", help=f"HTTP API with the data set.  [default: {SERVER}]")
@click.option(
    "--layers",
    metavar="URL",
    help="Folder of exported layers to draw, instead of a server's.",
)
@click.option("--viewer", metavar="URL", help="Viewer to open.  [default: the server's, or a public one]")
@click.option(
    "--no-open", is_flag=True, help="Only print the link. Without a terminal, the link is never opened."
)
def view(
    dataset: str,
    roots: tuple[str, ...],
    version: int | None,
    server: str | None,
    layers: str | None,
    viewer: str | None,
    no_open: bool,
) -> None:
    """Print a link that draws DATASET in Neuroglancer, and open it.

    The link draws the nodes and skeletons of the roots, nodes coloured by thickness. Without a root, it draws
    the nodes of the chunks in view or, with --version, the largest root.

    \b
    Example:
      l2features view sample --root 5
      l2features view minnie65 --version 7 --server https://l2.example.org --no-open
    """
    from .root_ids import root_id

    if viewer and not viewer.startswith(("http://", "https://")):
        raise click.UsageError(f"--viewer {viewer!r}: expected http://… or https://…")
    if layers and (server or version is not None):
        raise click.UsageError(
            "--layers is an export of one version: expected neither --server nor --version"
        )
    ids = sorted_unique(as_ids([root_id(root) for root in roots]))
    if layers:
        from ..client.exported_layers import exported_view
        from ..pictures.viewers import PUBLIC_VIEWER

        url = exported_view(layers, ids).link(viewer or PUBLIC_VIEWER)
    else:
        url = _served_link(server or SERVER, dataset, ids, version)
        if viewer:
            url = f"{viewer}#{url.partition('#')[2]}"
    click.echo(url)
    if is_terminal() and not no_open and click.launch(url):
        raise ConfigError("no browser could be started: open the link yourself")


def is_terminal() -> bool:
    """Return whether output goes to a terminal."""
    return sys.stdout.isatty()


def _served_link(server: str, dataset: str, roots: Ids, version: int | None) -> str:
    """Return the link that a server makes. Raises ServiceError."""
    from ..client.http_source import HttpSource
    from ..client.service_errors import ServiceUnavailable

    try:
        return HttpSource(server, dataset, None, TIMEOUT_S, RETRIES).view_link(roots, version)
    except ServiceUnavailable as error:
        if error.status:
            raise
        raise ServiceUnavailable(
            f"{error}: start a server with `l2features serve`, or name one by --server"
        ) from error
