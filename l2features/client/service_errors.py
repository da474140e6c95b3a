"""Errors of a server of features, as its clients see them."""

from __future__ import annotations

from ..core.errors import L2FeaturesError


class ServiceError(L2FeaturesError):
    """A server refused a request, or sent a malformed response.

    ``status`` is the HTTP status (0 without a response), ``code`` the server's name of the error, and
    ``value`` the invalid part of the request. ``request_id`` identifies the request in the server's log.
    """

    def __init__(
        self, message: str, status: int = 0, code: str = "", request_id: str = "", value: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.request_id, self.value = status, code, request_id, value


class ServiceUnavailable(ServiceError):
    """A server cannot be reached or cannot respond at the moment: a transient error."""
