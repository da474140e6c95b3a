"""Who may ask: every route but the open ones needs a token, those of a data set permission to view it.

What is decided is middle_auth_client's; it reads AUTH_URI, AUTH_URL, STICKY_AUTH_URL and AUTH_DISABLED when
it is imported. It asks the authentication service without a time limit, and keeps the answers in dictionaries
that threads must not share. Here its questions get a deadline and a lock, and a service that cannot answer is
a 503: neither an invalid token nor an unknown table.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from http.cookiejar import DefaultCookiePolicy
from threading import Lock
from time import monotonic, sleep
from typing import Any
from urllib.parse import unquote_plus

import requests
from cachetools import TTLCache  # type: ignore[import-untyped]
from flask import Flask, g, request
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

from .errors import ApiError

DATASET_ARGUMENT = "dataset"
NAMESPACE = "pychunkedgraph"
"""The service to which the authentication service knows the tables to belong."""
SECRETS = (decorators.TOKEN_NAME, "token")
"""Query parameters that hold a token."""
UNSET_URL = "localhost:5000/auth"
"""What the library takes where no service is named."""
MAX_LOOKUPS = 64
PAUSES_S = (0.1, 0.3, 1.0)
"""How long to wait before a failed question is put again."""
UNAVAILABLE = "the authentication service cannot answer at the moment: try again later"
_TOKEN = re.compile(r"[!-~]+")
_ask_user = decorators.user_cache_http.__wrapped__
_ask_dataset = decorators.dataset_from_table_id.__wrapped__
log = logging.getLogger("l2features.api")


def protect(
    app: Flask, *, open_endpoints: Collection[str], deadline_s: float = 10.0, retry_after_s: int = 2
) -> None:
    """Ask for a token at every route but ``open_endpoints``, also at those that are registered later.

    A request whose authentication takes longer than ``deadline_s`` is answered 503. After such a failure only
    one question every ``retry_after_s`` goes to the service, so that requests whose tokens are known find a
    thread. Raises ConfigError for an AUTH_URL that cannot be one, or an open endpoint that does not exist.
    """
    unknown = sorted(set(open_endpoints) - set(app.view_functions))
    if unknown:
        known = ", ".join(sorted(app.view_functions))
        raise ConfigError(f"open endpoint {unknown[0]!r}: expected one of {known}")
    if "://" in decorators.AUTH_URL:
        raise ConfigError(f"AUTH_URL={decorators.AUTH_URL!r}: expected HOST/PATH without https://")
    _install(_Service(deadline_s, retry_after_s))
    with_token = auth_required(_let_in)
    with_permission = auth_requires_permission(
        "view", table_arg=DATASET_ARGUMENT, resource_namespace=NAMESPACE
    )(_let_in)

    @app.before_request
    def authenticate() -> ResponseReturnValue | None:
        if request.endpoint is None or request.endpoint in open_endpoints:
            return None
        g.auth_until = monotonic() + deadline_s
        arguments = request.view_args or {}
        check: Callable[..., ResponseReturnValue | None]
        check = with_permission if DATASET_ARGUMENT in arguments else with_token
        return check(**arguments)


def auth_disabled() -> bool:
    """Whether AUTH_DISABLED=true lets everyone read everything."""
    return bool(decorators.AUTH_DISABLED)


def log_who_may_ask() -> None:
    """Say at the start who decides, and loudly where nobody does, or nobody was named."""
    if auth_disabled():
        log.warning("authentication is disabled: anyone who can reach this server can read every data set")
    elif decorators.AUTH_URL == UNSET_URL:
        log.warning("AUTH_URL is not set: tokens are checked by https://%s", UNSET_URL)
    else:
        log.info("tokens are checked by https://%s", decorators.AUTH_URL)


def without_secrets(url: str) -> str:
    """A URL, path or query without the tokens in it, to be logged."""

    def hidden(part: re.Match[str]) -> str:
        name, equals, _ = part[0].partition("=")
        return f"{name}=…" if equals and unquote_plus(name) in SECRETS else part[0]

    return re.sub(r"[^?&#\s]+", hidden, url)


def _let_in(**_arguments: Any) -> None:
    """Stands for the view, for the library to call or not."""


class _Service:
    """The authentication service as one process sees it; ``lock`` is for all that its lookups share."""

    def __init__(self, deadline_s: float, pause_s: int) -> None:
        self.deadline_s, self.pause_s = deadline_s, pause_s
        self.pool = ThreadPoolExecutor(MAX_LOOKUPS, "auth")
        self.lock = Lock()
        self.down = False
        self._next_try = 0.0

    def admit(self) -> None:
        """While it does not answer, let one question through now and then. Raises ApiError 503."""
        if self.down:
            if monotonic() < self._next_try:
                raise self.unavailable()
            self._next_try = monotonic() + self.pause_s

    def answered(self) -> None:
        """It answered a question, be it with an error."""
        if self.down:
            log.warning("the authentication service answers again")
        self.down = False

    def failed(self, why: str) -> None:
        if not self.down:
            log.warning("the authentication service does not answer", extra={"error": why})
        self.down = True
        self._next_try = monotonic() + self.pause_s

    def unavailable(self) -> ApiError:
        return ApiError(503, "auth_unavailable", UNAVAILABLE, retry_after=self.pause_s)


class _Lookup:
    """A question of the library, and the answers that it remembers.

    A question is put on a thread of its own, so that nothing (a name server, an answer that drips) can hold a
    request beyond its deadline; requests with the same question wait for the same answer.
    """

    def __init__(self, service: _Service, ask: Callable[..., Any]) -> None:
        self._service, self._ask = service, ask
        self._answers: TTLCache[tuple[str, ...], Any] = TTLCache(
            decorators.CACHE_MAXSIZE, decorators.CACHE_TTL
        )
        self._pending: dict[tuple[str, ...], Future[Any]] = {}

    def __call__(self, *key: str) -> Any:
        """Raises what the library raises, and ApiError 503."""
        with self._service.lock:
            with suppress(KeyError):
                return self._answers[key]
            future = self._pending.get(key)
            if future is None or self._service.down:
                self._service.admit()
                future = self._pending[key] = self._service.pool.submit(self._put, key)
        try:
            return future.result(max(0.0, g.auth_until - monotonic()))
        except (TimeoutError, CancelledError) as error:
            future.cancel()
            with self._service.lock:
                self._pending.pop(key, None)
                self._service.failed(f"no answer in {self._service.deadline_s:g} s")
            raise self._service.unavailable() from error
        except requests.RequestException as error:
            raise self._service.unavailable() from error

    def pop(self, key: tuple[str, ...], default: Any = None) -> Any:
        """Forget an answer; the library then asks again, since permissions may be out of date."""
        with self._service.lock:
            return self._answers.pop(key, default)

    def _put(self, key: tuple[str, ...]) -> Any:
        """The answer of the service, which every later request finds remembered, or no longer pending."""
        failure: Exception | None = None
        try:
            value = self._ask(*key)
        except Exception as error:
            failure = error
        with self._service.lock:
            self._pending.pop(key, None)
            if isinstance(failure, (requests.ConnectionError, requests.Timeout)):
                self._service.failed(str(failure))
            else:
                self._service.answered()
            if failure is None:
                with suppress(ValueError):  # a cache of size 0
                    self._answers[key] = value
        if failure is None:
            return value
        if isinstance(failure, (requests.HTTPError, requests.exceptions.InvalidJSONError)):
            log.warning("the authentication service gives no usable answer", extra={"error": str(failure)})
        raise failure


class _Adapter(HTTPAdapter):
    """Puts a question again where that may help, until the deadline."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        super().__init__(pool_maxsize=MAX_LOOKUPS)

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        until = monotonic() + self.deadline_s
        failure: requests.RequestException
        for pause in (*PAUSES_S, None):
            kwargs["timeout"] = max(0.01, until - monotonic())
            try:
                response = super().send(*args, **kwargs)
                if response.status_code < 500 and response.status_code != 429:
                    return response
                response.close()
                failure = requests.HTTPError(f"{response.url} answered {response.status_code}")
            except requests.ConnectionError as error:
                failure = error
            if pause is None or monotonic() + pause > until:
                break
            sleep(pause)
        raise failure


def _install(service: _Service) -> None:
    """Let the library put its questions by way of `_Lookup`, over https only, and keep no cookies."""
    session: requests.Session = decorators.session
    session.adapters.clear()
    session.mount("https://", _Adapter(service.deadline_s))
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    users = _Lookup(service, _user)
    decorators.token_to_user_cache = users
    setPermissionLookupOverride(lambda token: users(token) if _TOKEN.fullmatch(token) else None)
    decorators.dataset_from_table_id = _Lookup(service, _dataset)


def _user(token: str) -> Any:
    """What is known of a user, or None for a token that nobody has."""
    user = _ask_user(token)
    if user is None or isinstance(user, dict):
        return user
    raise requests.exceptions.InvalidJSONError(f"expected a user, got {user!r:.100}")


def _dataset(namespace: str, table: str, token: str) -> Any:
    """The data set of a table; a RuntimeError is the library's way of saying that there is none."""
    if not DATASET_NAME.fullmatch(table):
        raise RuntimeError(f"{table!r} is not the name of a table")
    dataset = _ask_dataset(namespace, table, token)
    if isinstance(dataset, str):
        return dataset
    raise requests.exceptions.InvalidJSONError(f"expected the name of a data set, got {dataset!r:.100}")
