"""``l2features doctor``: check a deployment; ``l2features register``: register its graph."""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial

import click

from ..config.datasets import Dataset
from ..core.errors import EXIT_FAILED, ConfigError
from .shared_options import with_dataset


@click.command()
@with_dataset
@click.option("--subscriptions", default="", metavar="PATH[,PATH…]", help="Pub/Sub subscriptions to check.")
@click.option("--topics", default="", metavar="PATH[,PATH…]", help="Pub/Sub topics to check.")
@click.option(
    "--sample",
    type=click.IntRange(0, 1000),
    default=4,
    show_default=True,
    metavar="CHUNKS",
    help="Number of chunks to check by recomputing up to 60 rows of each.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(dataset: Dataset, subscriptions: str, topics: str, sample: int, as_json: bool) -> None:
    """Check DATASET's table, rows, graph, segmentation, token and queues; suggest fixes. Writes nothing.

    The exit status is 0 if no problem was found, 1 if one was, 2 for a wrong option or data set.

    \b
    Example:
      l2features doctor sample --config sample/datasets.yml
      l2features doctor minnie --subscriptions projects/my/subscriptions/edits \\
          --topics projects/my/topics/l2-missing
    """
    from ..doctor.deployment import Deployment
    from ..doctor.examination import examine
    from ..doctor.findings import Severity
    from ..doctor.queue_checks import check_paths
    from ..jobs.job_command import compile_kernel

    subscribed, published = ([p for p in text.split(",") if p] for text in (subscriptions, topics))
    check_paths(subscribed, published)

    def say(text: str) -> None:
        click.echo(f"{dataset.name}: {text}", err=True)

    findings = []
    compiling = partial(compile_kernel, say)
    with closing(Deployment(dataset, subscribed, published, sample, say, compiling)) as deployment:
        for finding in examine(deployment):
            findings.append(finding)
            if not as_json:
                click.echo(f"{finding.status:<8} {finding.check}: {finding.text}")
                if finding.fix:
                    click.echo(f"         fix: {finding.fix}")
    bad = sum(finding.status is Severity.PROBLEM for finding in findings)
    if as_json:
        listed = [finding.as_dict() for finding in findings]
        click.echo(json.dumps({"dataset": dataset.name, "problems": bad, "findings": listed}))
    if bad:
        raise SystemExit(EXIT_FAILED)


@click.command()
@with_dataset
@click.option(
    "--as",
    "auth_dataset",
    metavar="NAME",
    help="Data set of the auth service whose permissions apply.  [default: DATASET]",
)
@click.option(
    "--service", default="pychunkedgraph", show_default=True, help="Service to which the table belongs."
)
@click.option("--server", metavar="URL", help="Server of the auth service.  [default: the server in cv_path]")
def register(dataset: Dataset, auth_dataset: str | None, service: str, server: str | None) -> None:
    """Register the graph of DATASET with CAVE's auth service.

    The graph gets the permissions of NAME (--as), a data set of the auth service. Posts to
    SERVER/sticky_auth. The token in cloud-volume's secrets must be an administrator's.

    \b
    Example:
      l2features register minnie --as minnie65_public --config datasets.yml
    """
    from urllib.parse import urlsplit

    from ..client.tokens import is_private
    from ..doctor.registration import register as post
    from ..doctor.registration import server_of, token_of

    if not dataset.has_graph:
        raise ConfigError(f"data set {dataset.name!r} has no graph to register")
    url = server or server_of(dataset.cv_path)
    if urlsplit(url).scheme not in ("http", "https"):
        named = f"server {url!r}" if server else f"cv_path {dataset.cv_path} names no server"
        raise ConfigError(f"{named}: expected --server with a URL such as https://host")
    if not is_private(url):
        raise ConfigError(f"server {url!r}: expected https://…, since the token is sent to the server")
    host = urlsplit(url).netloc
    token = token_of(host)
    if token is None:
        raise ConfigError(
            f"no token for {host}: expected a token in ~/.cloudvolume/secrets/{host}-cave-secret.json"
        )
    address = post(url, dataset.graph_id, auth_dataset or dataset.name, token, service)
    click.echo(f"registered: POST {address}")
