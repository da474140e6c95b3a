"""The registration of a graph with CAVE's auth service, and cloud-volume's token for a host."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from ..core.errors import ConfigError, L2FeaturesError, one_line
from ..graph.graphene import cloudpath

TIMEOUT_S = (10.0, 30.0)
SERVICE = "pychunkedgraph"
"""Name of PyChunkedGraph in the auth service."""


class RegistrationError(L2FeaturesError):
    """The auth service cannot be reached, or refused the registration."""


def token_of(host: str) -> str | None:
    """Return cloud-volume's token for a host, or None. Raises ConfigError for a malformed token file."""
    from cloudvolume.secrets import cave_credentials

    try:
        return cave_credentials(host).get("token") or None
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"the token for {host} in ~/.cloudvolume/secrets cannot be read: "
            f'expected {{"token": "…"}}: {error}'
        ) from error


def server_of(cv_path: str) -> str:
    """Return the address of the server of a ``graphene://`` path; "" for another path.

    >>> server_of("graphene://middleauth+https://host/segmentation/table/minnie")
    'https://host'
    """
    parts = urlsplit(cloudpath(cv_path).removeprefix("graphene://"))
    return f"{parts.scheme}://{parts.netloc}" if cv_path.startswith("graphene://") else ""


def register(url: str, table: str, dataset: str, token: str, service: str = SERVICE) -> str:
    """Register a graph's table with a data set of the auth service; return the address that was called.

    Raises RegistrationError for any status but success.

    Args:
        url: URL of the auth service's server, such as ``https://host``.
        table: the graph's table. The data set's permissions then apply to this table.
        dataset: the name of a data set in the auth service.
        token: a token of a user who may register tables.
    """
    import requests

    parts = (quote(part, safe="") for part in (service, table, dataset))
    address = "{}/sticky_auth/api/v1/service/{}/table/{}/dataset/{}".format(url.rstrip("/"), *parts)
    headers = {"Authorization": f"Bearer {token}"}
    try:
        answer = requests.post(address, headers=headers, timeout=TIMEOUT_S, allow_redirects=False)
    except requests.RequestException as error:
        raise RegistrationError(f"POST {address}: {type(error).__name__}: {error}") from error
    if not 200 <= answer.status_code < 300:
        text = one_line(answer.text)[:200]
        said = "" if text.startswith("<") else text  # a web page
        hint = " (the auth service may be on another server: --server)" if answer.status_code == 404 else ""
        raise RegistrationError(
            f"POST {address}: HTTP {answer.status_code} {answer.reason}{hint}{f': {said}' if said else ''}"
        )
    return address
