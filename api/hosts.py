"""The host names by which clients know this server, for links and for checks of requests."""

from __future__ import annotations

from flask import Flask, request
from werkzeug.exceptions import SecurityError
from werkzeug.wsgi import get_host

from .error_responses import ApiError, shown
from .observe import is_probe


def here() -> str:
    """Return the URL of this server in the current request, such as https://host.

    The scheme is https if a trusted proxy (``FORWARDED_ALLOW_IPS``) sent ``X-Forwarded-Proto: https``.
    """
    return request.host_url.rstrip("/")


def check_hosts(app: Flask, trusted: list[str]) -> None:
    """Answer 400 to requests for hosts other than ``trusted``.

    Requests for health and metrics are exempt, because probes use the server's address. A name with a leading
    dot includes its subdomains. Without names, every host is trusted.
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
            host = request.headers.get("Host", "")
            message = f"this server is not {shown(host)!r}: expected a host name in L2CACHE_TRUSTED_HOSTS"
            raise ApiError(400, "untrusted_host", message, field="Host", value=host) from error
