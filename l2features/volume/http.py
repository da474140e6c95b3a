"""Files over HTTP. A 403 and a 404 are told apart; cloud-files takes both for a missing file."""

from __future__ import annotations

import socket
from http import HTTPStatus
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from ..core.futures import in_background
from .storage import MISSING, THREADS, FileBytes, Forbidden, Request, Storage, StorageError, decompressed

REACH_TIMEOUT_S = 4.0
TIMEOUT_S = (REACH_TIMEOUT_S, 60.0)
_PORTS = {"http": 80, "https": 443}
_RETRIES = Retry(
    total=4,
    connect=1,
    backoff_factor=0.3,
    status_forcelist=(429, 500, 502, 503, 504),
    respect_retry_after_header=False,
    raise_on_status=False,
)


class HttpStorage(Storage):
    """A folder on a web server."""

    def __init__(self, url: str, token: str | None = None, login: tuple[str, str] | None = None) -> None:
        super().__init__()
        self.url = url.rstrip("/")
        self.session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=THREADS, max_retries=_RETRIES)
        self.session.mount("http://", adapter)
        self.session.mount("https://", adapter)
        self.session.auth = login
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, request: Request) -> FileBytes:
        url, headers = f"{self.url}/{request.name}", {**self.headers, "Accept-Encoding": "gzip, br"}
        if request.stop is not None:
            headers |= {
                "Range": f"bytes={request.start or 0}-{request.stop - 1}",
                "Accept-Encoding": "identity",
            }
        try:
            with self.session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
                return _judge(request, answer)
        except (requests.RequestException, HTTPError, OSError) as error:
            raise StorageError(f"file {request.name}: {_cause(error, self.url)}") from error


def _judge(request: Request, answer: requests.Response) -> FileBytes:
    status = answer.status_code
    if status == HTTPStatus.NOT_FOUND:
        return MISSING
    if status == HTTPStatus.FORBIDDEN:
        raise Forbidden("HTTP 403 Forbidden")
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and request.stop is not None:
        return FileBytes(b"")
    if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        raise StorageError(f"file {request.name}: HTTP {status} {answer.reason}", status)
    content: bytes = answer.raw.read(decode_content=False)
    encoding = answer.headers.get("Content-Encoding", "").lower().replace("identity", "")
    content = decompressed(content, encoding, request)
    if content[:15].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise StorageError(f"file {request.name}: HTTP {status} with a web page instead of the file")
    if request.stop is not None and status == HTTPStatus.OK:  # the server ignores ranges
        return FileBytes(content[request.start or 0 : request.stop])
    return FileBytes(content)


def check_reachable(url: str) -> None:
    """Raise StorageError unless a web server, or the proxy on the way to it, accepts a connection in time.

    Checks only http:// and https:// URLs, with or without the prefix ``middleauth+`` or ``s3://``.
    """
    for prefix in ("middleauth+", "s3://"):
        url = url.removeprefix(prefix)
    if not url.startswith(("http://", "https://")):
        return
    proxy = select_proxy(url, get_environ_proxies(url))
    parts = urlsplit(proxy if proxy and "://" in proxy else f"http://{proxy}" if proxy else url)
    host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 443)
    attempt = in_background(lambda: socket.create_connection((host, port), REACH_TIMEOUT_S).close())
    try:
        attempt.result(REACH_TIMEOUT_S + 0.5)  # name look-ups have no time limit
    except (OSError, UnicodeError) as error:
        text = getattr(error, "strerror", None) or str(error) or "timed out"
        what = "proxy" if proxy else "host"
        raise StorageError(f"{what} {host}:{port} cannot be reached: {text}") from error


def _cause(error: BaseException, url: str) -> str:
    """Return the host, the type of an error of the HTTP client, and the text of its innermost cause."""
    inner: BaseException = error
    while inner.__context__ is not None and inner.__context__ is not inner:
        inner = inner.__context__
    text = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
    return f"{urlsplit(url).netloc}: {type(error).__name__}: {text}"
