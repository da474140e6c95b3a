"""A graph's own table, ``bigtable://project/instance/table``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..core.errors import ConfigError, GraphError
from ..core.transient import graph_error

SCHEME = "bigtable://"
_URL = re.compile(r"bigtable://([^/?#]+)/([^/?#]+)/([^/?#]+)")


def open_graph_table(url: str) -> Any:
    """Return the table of a graph (``bigtable://project/instance/table``). Raises ConfigError, GraphError."""
    from ..store.bigtable.calls import open_table

    with graph_errors(url):
        return open_table(*parse_graph_url(url))


def parse_graph_url(url: str) -> tuple[str, str, str]:
    """Project, instance and table of ``bigtable://project/instance/table``. Raises ConfigError."""
    match = _URL.fullmatch(url)
    if not match:
        raise ConfigError(f"graph {url!r}: expected bigtable://project/instance/table")
    project, instance, table = match.groups()
    return project, instance, table


@contextmanager
def graph_errors(url: str) -> Iterator[None]:
    """Errors of the Bigtable client as GraphError."""
    from google.api_core.exceptions import GoogleAPIError, NotFound
    from google.auth.exceptions import GoogleAuthError

    from ..store.bigtable.calls import reason

    try:
        yield
    except NotFound as error:
        raise GraphError(f"{url}: there is no such table") from error
    except (GoogleAPIError, GoogleAuthError) as error:
        raise graph_error(f"cannot read {url}: {reason(error)}", error) from error


def check_graph(source: str) -> None:
    """Raise `GraphError` where a data set names a graph's table that cannot be read."""
    from google.cloud.bigtable.data import ReadRowsQuery

    if source.startswith(SCHEME):
        with graph_errors(source):
            open_graph_table(source).read_rows(ReadRowsQuery(limit=1))
