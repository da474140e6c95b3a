"""Authentication: most routes need a token; a data set's routes need permission to view the data set.

The library middle_auth_client decides about access. It reads AUTH_URI, AUTH_URL, STICKY_AUTH_URL and
AUTH_DISABLED when it is imported. Its lookups have no deadline and its caches are not thread-safe, so this
module does the lookups and the caching instead. If the authentication service does not answer, the response
is 503.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from threading import Lock
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

import requests
import tenacity
from cachetools import TTLCache  # type: ignore[import-untyped]
from flask import Flask, g, jsonify, request
from flask.typing import ResponseReturnValue
from middle_auth_client import (  # type: ignore[import-untyped]
    auth_required,
    auth_requires_permission,
    decorators,
    setPermissionLookupOverride,
)
from requests.adapters import HTTPAdapter

from l2features.config.datasets import DATASET_NAME
from l2features.core.errors import ConfigError

from .error_responses import ApiError

NAMESPACE = "pychunkedgraph"
"""The service whose tables the authentication service maps to data sets."""
SECRETS = (decorators.TOKEN_NAME, "token")
"""Query parameters that contain a token."""
UNSET_URL = "localhost:5000/auth"
"""middle_auth_client's AUTH_URL if the variable is not set."""
VIEWABLE = "l2cache_viewable"
MAX_LOOKUPS = 64
PAUSES = [tenacity.wait_fixed(seconds) for seconds in (0.1, 0.3, 1.0)]
"""Waits before the second, third and fourth attempt of a lookup."""
UNAVAILABLE = "the authentication service cannot answer at the moment: try again later"
log = logging.getLogger("l2features.api")


def protect(
    app: Flask, *, open_endpoints: Collection[str], deadline_s: float = 10.0, retry_after_s: int = 2
) -> None:
    """Require a token for every route except ``open_endpoints``. Routes registered later need one too.

    A request whose authentication takes longer than ``deadline_s`` gets 503. While the authentication service
    does not answer, at most one lookup is sent to it every ``retry_after_s`` seconds. Other requests get 503
    at once, unless the answer for their token is cached. Raises ConfigError if AUTH_URL has a scheme, or if
    an open endpoint does not exist.
    """
    unknown = sorted(set(open_endpoints) - set(app.view_functions))
    if unknown:
        known = ", ".join(sorted(app.view_functions))
        raise ConfigError(f"open endpoint {unknown[0]!r}: expected one of {known}")
    if "://" in decorators.AUTH_URL:
        raise ConfigError(f"AUTH_URL={decorators.AUTH_URL!r}: expected HOST/PATH without https://")
    service = _Service(deadline_s, retry_after_s)
    setPermissionLookupOverride(service.user)
    app.extensions[VIEWABLE] = partial(_viewable, service)

    @auth_required
    def check(**arguments: Any) -> ResponseReturnValue | None:
        """Return None if the user may view the route's data set, else the error response.

        middle_auth_client calls this after it has found the token's user.
        """
        table = arguments.get("dataset")
        if table is None or request.method == "OPTIONS":
            return None
        dataset = service.dataset(table, g.auth_token)
        if dataset is None:
            data = {"table_id": table, "resource_namespace": NAMESPACE}
            error = {"error": "invalid_table_id", "message": "Invalid table_id for service", "data": data}
            return jsonify(error), 400
        response: ResponseReturnValue | None = auth_requires_permission("view", dataset=dataset)(
            lambda: None
        )()
        return response

    @app.before_request
    def authenticate() -> ResponseReturnValue | None:
        if auth_disabled() or request.endpoint is None or request.endpoint in open_endpoints:
            return None
        g.auth_until = monotonic() + deadline_s
        response: ResponseReturnValue | None = check(**(request.view_args or {}))
        return response


class Viewable(NamedTuple):
    """What a visitor may view: ``known`` is whether the token is valid, ``names`` the permitted data sets."""

    known: bool
    names: frozenset[str]


def viewable(app: Flask, names: Collection[str]) -> Viewable:
    """Return which of the data sets ``names`` the sender of the current request may view.

    Also works in endpoints that do not require a token. Raises ApiError 503 if the authentication service
    does not answer.
    """
    found: Viewable = app.extensions[VIEWABLE](names)
    return found


def _viewable(service: _Service, names: Collection[str]) -> Viewable:
    if auth_disabled():
        return Viewable(True, frozenset(names))
    g.auth_until = monotonic() + service.deadline_s
    user, token = g.get("auth_user"), g.get("auth_token")  # of a route that needs a token
    if user is None:
        token = _token()
        user = service.user(token) if token else None
    if user is None or token is None:
        return Viewable(False, frozenset())
    found = {name: service.dataset(name, token) for name in names}
    return Viewable(True, frozenset(n for n in names if decorators.has_permission(user, found[n], "view")))


def _token() -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme == "Bearer" and token:
        return token
    return request.cookies.get(decorators.TOKEN_NAME)


def auth_disabled() -> bool:
    """Return whether AUTH_DISABLED=true opens every route to everyone."""
    return bool(decorators.AUTH_DISABLED)


def login_url() -> str | None:
    """Return the URL of the authentication service for browsers; None if no route needs a token."""
    return None if auth_disabled() else f"https://{decorators.STICKY_AUTH_URL}"


def log_who_may_ask() -> None:
    """Log which service checks tokens; warn if none does, or if none is configured."""
    if auth_disabled():
        log.warning("authentication is disabled: anyone who can reach this server can read every data set")
    elif decorators.AUTH_URL == UNSET_URL:
        log.warning("AUTH_URL is not set: tokens are checked by https://%s", UNSET_URL)
    else:
        log.info("tokens are checked by https://%s", decorators.AUTH_URL)


def without_secrets(url: str) -> str:
    """Return a URL, path or query with the values of parameters that hold tokens replaced by "…"."""

    def hidden(part: re.Match[str]) -> str:
        name, equals, _ = part[0].partition("=")
        return f"{name}=…" if equals and unquote_plus(name) in SECRETS else part[0]

    return re.sub(r"[^?&#\s]+", hidden, url)


class _Service:
    """Looks up users and data sets at the authentication service, with a TTL cache. Thread-safe.

    Each lookup runs in a separate thread: a request stops waiting at its deadline, even during slow DNS.
    Requests for the same path and token share one lookup.
    """

    def __init__(self, deadline_s: float, retry_after_s: int) -> None:
        self.deadline_s, self.retry_after_s = deadline_s, retry_after_s
        self.session = requests.Session()
        self.session.adapters.clear()
        self.session.mount("https://", HTTPAdapter(pool_maxsize=MAX_LOOKUPS))
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.pool, self.lock = ThreadPoolExecutor(MAX_LOOKUPS, "auth"), Lock()
        self.answers: TTLCache[tuple[str, str], Any] = TTLCache(
            2 * decorators.CACHE_MAXSIZE, decorators.CACHE_TTL
        )
        self.pending: dict[tuple[str, str], Future[Any]] = {}
        self.down, self.next_try = False, 0.0

    def user(self, token: str) -> dict[str, Any] | None:
        """Return the user of a token; None for an unknown token.

        The first call within a request uses the cache; a second call skips it. middle_auth_client makes the
        second call if the user's permissions do not allow the request: cached ones may be out of date. Raises
        ApiError 503 if the service does not answer.
        """
        path = decorators.MY_PERMISSION_URL
        if not re.fullmatch("[!-~]+", token):
            return None
        if "auth_asked" in g:
            with self.lock:
                self.answers.pop((path, token), None)
        g.auth_asked = True
        user: dict[str, Any] | None = self.answer(path, token)
        return user

    def dataset(self, table: str, token: str) -> str | None:
        """Return the name of the data set whose permissions apply to a table; None for an unknown table.

        Raises ApiError 503 if the service does not answer.
        """
        if decorators.DEBUG_OVERRIDE_DATASET_LOOKUP is not None:
            return str(decorators.DEBUG_OVERRIDE_DATASET_LOOKUP)
        if not DATASET_NAME.fullmatch(table):
            return None
        dataset: str | None = self.answer(f"/api/v1/service/{NAMESPACE}/table/{table}/dataset", token)
        return dataset

    def answer(self, path: str, token: str) -> Any:
        """Return the service's answer to a request for ``path`` with a token, from the cache or a lookup.

        Raises ApiError 503 if the lookup fails or takes longer than the request's deadline, or if the service
        has just failed to answer another lookup.
        """
        key = path, token
        unavailable = ApiError(503, "auth_unavailable", UNAVAILABLE, retry_after=self.retry_after_s)
        with self.lock:
            with suppress(KeyError):
                return self.answers[key]
            future = self.pending.get(key)
            if future is None or self.down:
                if self.down and monotonic() < self.next_try:
                    raise unavailable
                self.next_try = monotonic() + self.retry_after_s
                future = self.pending[key] = self.pool.submit(self.look_up, path, token)
        try:
            return future.result(max(0.0, g.auth_until - monotonic()))
        except (TimeoutError, CancelledError) as error:
            future.cancel()
            with self.lock:
                self.pending.pop(key, None)
                self.note(f"no answer in {self.deadline_s:g} s")
            raise unavailable from error
        except requests.RequestException as error:
            raise unavailable from error

    def look_up(self, path: str, token: str) -> Any:
        """Fetch and cache the service's answer. Returns None for an unknown token or table.

        None for a table is not cached. Raises the errors of `fetch`.
        """
        failure: Exception | None = None
        try:
            value = self.fetch(path, token)
        except Exception as error:
            failure = error
        with self.lock:
            self.pending.pop((path, token), None)
            unreachable = isinstance(failure, (requests.ConnectionError, requests.Timeout))
            self.note(str(failure) if unreachable else None)
            if failure is None:
                if value is not None or path == decorators.MY_PERMISSION_URL:
                    with suppress(ValueError):  # a cache of size 0
                        self.answers[path, token] = value
                return value
        if not unreachable:
            log.warning("authentication service returned an invalid response", extra={"error": str(failure)})
        raise failure

    def fetch(self, path: str, token: str) -> Any:
        """Return the service's answer; None for a status other than 200, 429 and 5xx.

        Retries transient errors, such as 429 and 5xx, three times at most, within ``deadline_s``. Raises
        RequestException if the last attempt fails, or if the answer is invalid.
        """
        url, until = f"https://{decorators.AUTH_URL}{path}", monotonic() + self.deadline_s
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(1 + len(PAUSES)) | tenacity.stop_before_delay(self.deadline_s),
            wait=tenacity.wait_chain(*PAUSES),
            retry=tenacity.retry_if_exception_type((requests.ConnectionError, requests.HTTPError)),
            reraise=True,
        )
        response: requests.Response = retrying(self.send, url, token, until)
        if response.status_code != 200:
            return None
        value, expected = response.json(), dict if path == decorators.MY_PERMISSION_URL else str
        if isinstance(value, expected) or (value is None and expected is dict):
            return value
        kind = "an object" if expected is dict else "a string"
        raise requests.exceptions.InvalidJSONError(f"{url} answered {value!r:.100}: expected {kind}")

    def send(self, url: str, token: str, until: float) -> requests.Response:
        """Send one request, to be answered before ``until`` (`time.monotonic`).

        Raises RequestException for a connection error, a time-out, and a status of 429 or from 500 on.
        """
        headers = {"authorization": f"Bearer {token}"}
        response = self.session.get(url, headers=headers, timeout=max(0.01, until - monotonic()))
        if response.status_code >= 500 or response.status_code == 429:
            raise requests.HTTPError(f"{response.url} answered {response.status_code}")
        return response

    def note(self, failure: str | None) -> None:
        """Record whether the service answers, and log a change.

        ``failure`` is the reason if it does not answer; None for any answer, even an error.
        """
        if failure is None and self.down:
            log.warning("authentication service answers again")
        elif failure is not None and not self.down:
            log.warning("authentication service does not answer", extra={"error": failure})
        self.down = failure is not None
        if self.down:
            self.next_try = monotonic() + self.retry_after_s
