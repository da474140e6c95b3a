"""The names by which clients know this server: links begin with them."""

from __future__ import annotations

from flask import Flask, request
from werkzeug.exceptions import SecurityError
from werkzeug.wsgi import get_host

from .error_responses import ApiError
from .observe import is_probe


def here() -> str:
    """Return the URL of this server as the client knows it; a proxy's header decides about https."""
    return request.host_url.rstrip("/")


def check_hosts(app: Flask, trusted: list[str]) -> None:
    """Refuse requests for other hosts, except probes, which use the server's address.

    A name with a leading dot includes its subdomains. Without names, every host is trusted.
    """
    if not trusted:
        return

    @app.before_request
    def check() -> None:
        if is_probe(request):
            return
        try:
            get_host(request.environ, trusted)
        except SecurityError as error:
            host = request.headers.get("Host")
            message = "unknown host name of this server: expected one of L2CACHE_TRUSTED_HOSTS"
            raise ApiError(400, "untrusted_host", message, field="Host", value=host) from error
