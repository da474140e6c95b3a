"""Checks of a data set's graph and segmentation, and of the token for the graph's server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

from ..config.reach import check_bigtable
from ..core.errors import GraphUnavailable, L2FeaturesError
from ..graph.graphene import GrapheneGraph, cloudpath, info_url
from ..ingest.source import open_dataset_graph
from .deployment import Deployment
from .findings import Finding, ok, problem, problem_of, warning

TIMEOUT_S = (10.0, 20.0)
READER = "roles/bigtable.reader on the graph's table"


def token_check(deployment: Deployment) -> Iterator[Finding]:
    """Check that cloud-volume has a token for each graph server, and that the server accepts it."""
    if not deployment.servers:
        yield ok("none is needed: no graph server is read")
    for url in deployment.servers:
        yield _token(url)


def _token(url: str) -> Finding:
    import requests

    from .registration import token_of

    host = urlsplit(cloudpath(url).removeprefix("graphene://")).netloc
    token = token_of(host)
    if token is None:
        return problem(
            f"cloud-volume has no token for {host}; it needs one even if the server requires none",
            f'write {{"token": "…"}} to ~/.cloudvolume/secrets/{host}-cave-secret.json',
        )
    headers = {"Authorization": f"Bearer {token}"}
    try:
        answer = requests.get(info_url(url), headers=headers, timeout=TIMEOUT_S, allow_redirects=False)
    except requests.RequestException as error:
        return problem(f"{host} cannot be reached: {type(error).__name__}", "check cv_path, host and network")
    table, status = GrapheneGraph.name_of(url), answer.status_code
    if answer.is_redirect or status == requests.codes.unauthorized:
        return problem(
            f"{host} does not accept the token (HTTP {status})",
            f"replace it in ~/.cloudvolume/secrets/{host}-cave-secret.json",
        )
    if status == requests.codes.forbidden:
        return problem(
            f"the user of the token may not view table {table} (HTTP 403)",
            f"ask for view permission on the data set of {table}, and accept its terms of service",
        )
    if not answer.ok:
        what = f"{host} responds with HTTP {status} for table {table}"
        return warning(what, "check the table's name in cv_path")
    return ok(f"{host} accepts the token for table {table}")


def graph_check(deployment: Deployment) -> Iterator[Finding]:
    """Open the graph at each of `Deployment.graph_urls`, and report its chunk size."""
    if not deployment.graph_urls:
        yield ok("none: each segment of a chunk is a node")
    for url in deployment.graph_urls:
        try:
            check_bigtable(url, GraphUnavailable)
            with closing(open_dataset_graph(deployment.dataset, url)) as graph:
                info = graph.info()
                graph.check()
        except L2FeaturesError as error:
            yield problem_of(error, "check graph and cv_path in the data sets file, and the network", READER)
            continue
        chunks = f"chunks of {'x'.join(map(str, info.chunk_size))} voxels" if info else "no description"
        yield ok(f"{url}: reachable, {chunks}")


def segmentation_check(deployment: Deployment) -> Iterator[Finding]:
    """Open the segmentation; check that it fits the graph, and that its bounds are those of the table."""
    store, geometry = deployment.store, deployment.geometry
    table = store.geometry()
    if table is not None and table.bounds != geometry.bounds:
        yield problem(
            f"table {store.name} has {table.bounds}, {deployment.dataset.cv_path} has {geometry.bounds}",
            "correct cv_path, mip or scale in the data sets file",
        )
    else:
        yield ok(f"{geometry.bounds}, in {'x'.join(map(str, geometry.grid))} chunks")
