"""The client's source that reads from a server of features, by its HTTP API."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np
import pyarrow as pa
import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.util import Retry

from .. import __version__
from ..core.errors import ConfigError
from ..core.geometry import Geometry, Triple, as_triple
from ..core.ids import IdLayout, Ids, to_bytes
from ..neurons.root_summaries import RootError, RootStatus
from .client import Names
from .frozen import VersionSource
from .http_versions import HttpVersion, summaries_of
from .result_tables import in_order, joined, one_row_graph, stamped, version_table, waiting
from .service_errors import ServiceError, ServiceUnavailable
from .tokens import check_token, find_token, token_files

if TYPE_CHECKING:
    from ..query.box_lookup import VoxelBox

ARROW, JSON, IDS = "application/vnd.apache.arrow.stream", "application/json", "application/octet-stream"
PREFIX, API = "/l2cache", "/api/v1"
CONNECT_S = 10.0
RETRIES, BACKOFF_S = 5, 0.5
"""Maximum retries of a request, and the first pause between retries in seconds; later pauses double."""
TRANSIENT = (429, 502, 503, 504)
"""HTTP statuses after which a request is retried; the server's header Retry-After sets the pause, if sent."""
ROOT_STATUS = {
    "unknown_root": RootStatus.UNKNOWN,
    "not_a_root": RootStatus.NOT_A_ROOT,
    "too_many_nodes": RootStatus.TOO_LARGE,
}
"""Status of a root, by the error code that the server returns for the root."""


class _Bearer(AuthBase):
    """Sends a token. The library `requests` then ignores ``.netrc``. The ``repr`` hides the token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def __repr__(self) -> str:
        return "<token>"


class HttpSource:
    """A `ClientSource` for a data set of a server.

    ``url`` is the server's URL, with or without the API's prefix. Requests are split to fit the server's
    published limits, and retried with exponential backoff.
    """

    def __init__(
        self, url: str, dataset: str, token: str | None, timeout_s: float, retries: int | None = None
    ) -> None:
        self.where = api_url(url)
        if not dataset:
            raise ConfigError("the name of the data set is empty: expected one that the server lists")
        self._dataset, self._timeout_s = dataset, timeout_s
        token = find_token(self.where) if token is None else check_token(token, "token")
        self._session = requests.Session()
        self._session.auth = _Bearer(token) if token else None
        self._session.headers["User-Agent"] = f"l2features/{__version__}"
        retry = Retry(
            RETRIES if retries is None else retries,
            status_forcelist=TRANSIENT,
            allowed_methods=None,
            backoff_factor=BACKOFF_S,
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    # ------------------------------------------------------------------ nodes
    def features(self, ids: Ids, names: Names) -> Any:
        most = min(self._limit("max_ids"), self._limit("max_body_bytes") // 8)
        return self._stamped(joined([self._attributes(part, names) for part in _batches(ids, most)]))

    def wait(self, ids: Ids, names: Names, seconds: float) -> Any:
        until, most = time.monotonic() + seconds, self._limit("max_ids")
        table = self.features(ids, names)
        while len(missing := waiting(table)) and (left := until - time.monotonic()) > 0:
            patience = min(left, self._about["limits"]["max_wait_s"])
            table = in_order(table, self._attributes(missing[:most], names, wait=round(patience, 3)))
        return self._stamped(table)

    def chunk(self, chunk: Triple, names: Names, partial: bool) -> Any:
        place = "_".join(map(str, chunk))
        return self._stamped(
            _arrow(self._ask("GET", f"/chunk/{place}/nodes", _asked(names, partial=partial)))
        )

    def nodes_in(self, box: VoxelBox, names: Names, partial: bool) -> Any:
        parts = list(self._boxes(box, names, partial))
        return self._stamped(joined(parts).sort_by("id"))

    def _boxes(self, box: VoxelBox, names: Names, partial: bool) -> Iterator[Any]:
        """Yield tables with the nodes of a box; split the box until the server's limits admit each part."""
        halves = _halves(box, self._geometry)
        if len(box.chunks(self._geometry)) <= self._limit("max_chunks") or halves is None:
            try:
                yield _arrow(self._ask("GET", "/nodes", _asked(names, partial=partial, bounds=_text(box))))
                return
            except ServiceError as error:
                if error.code != "too_many_nodes" or halves is None:
                    raise
        for half in halves:
            yield from self._boxes(half, names, partial)

    def _attributes(self, ids: Ids, names: Names, wait: float = 0.0) -> Any:
        parameters = _asked(names, wait=wait or None)
        return _arrow(self._ask("POST", "/attributes", parameters, to_bytes(ids), wait))

    # ------------------------------------------------------------------ roots
    def summaries(self, roots: Ids, with_graph: bool) -> Any:
        most = min(self._limit("max_roots"), self._limit("max_body_bytes") // 8)
        asked, bodies = _asked(None, graph=with_graph), map(to_bytes, _batches(roots, most))
        parts = [_arrow(self._ask("POST", "/roots/summary", asked, body)) for body in bodies]
        return self._stamped(joined(parts))

    def root_nodes(self, root: int, names: Names) -> Any:
        return self._stamped(_arrow(self._of_root(root, "nodes", _asked(names))))

    def root_graph(self, root: int) -> tuple[Any, Any]:
        nodes, edges = one_row_graph(_arrow(self._of_root(root, "graph", {})))
        return self._stamped(nodes), self._stamped(edges)

    def skeleton(self, root: int, form: str, parameters: dict[str, Any]) -> bytes:
        asked = {**parameters, "format": form}
        if asked["root_point"] is not None:
            asked["root_point"] = ",".join(map(repr, asked["root_point"]))
        return bytes(self._of_root(root, "skeleton", _asked(None, **asked), "*/*").content)

    # ------------------------------------------------------------------ versions
    def versions(self) -> Any:
        answer = self._ask("GET", "/versions", {}, accept=JSON)
        return version_table(summaries_of(answer.content, self.where))

    def version(self, number: int | None) -> VersionSource:
        answer = self._ask("GET", f"/versions/{'latest' if number is None else number}", {}, accept=JSON)
        return HttpVersion(self.where, answer.content, self._query, self._limit)

    # ------------------------------------------------------------------ pictures
    def view_link(self, roots: Ids, version: int | None) -> str:
        """Return a link to a viewer that draws these roots; without roots, the version's largest root."""
        asked = _asked(None, roots=",".join(map(str, roots.tolist())) or None, version=version)
        answer = self._ask("GET", "/view", asked, accept=JSON)
        return str(_checked(answer, lambda: answer.json()["url"], "a link"))

    def _query(self, path: str, body: bytes) -> Any:
        return _arrow(self._ask("POST", path, {}, body, content_type=JSON))

    def _of_root(
        self, root: int, what: str, parameters: Mapping[str, str], accept: str = ARROW
    ) -> requests.Response:
        """Return the response for ``/root/{root}/{what}``.

        Raises RootError for an unknown or too large root.
        """
        try:
            return self._ask("GET", f"/root/{root}/{what}", parameters, accept=accept)
        except ServiceError as error:
            if error.code not in ROOT_STATUS:
                raise
            reason = str(error).removeprefix(f"root {root}: ")
            status = ROOT_STATUS[error.code]
            counted = status == RootStatus.TOO_LARGE and error.value.isdecimal()
            raise RootError(root, status, reason, int(error.value) if counted else 0) from error

    # ------------------------------------------------------------------ the data set
    @cached_property
    def _about(self) -> dict[str, Any]:
        answer = self._ask("GET", "", {}, accept=JSON)
        about: dict[str, Any] = _checked(answer, answer.json, "a description of the data set")
        return about

    @cached_property
    def _geometry(self) -> Geometry:
        """The data set's geometry. Its id layout is the default, since the server does not publish one."""
        about = self._about
        x, y, z = (float(n) for n in about["resolution"])
        offset, size, chunk = (as_triple(about[key]) for key in ("voxel_offset", "voxel_size", "chunk_size"))
        return Geometry((x, y, z), offset, size, chunk, IdLayout())

    def _limit(self, name: str) -> int:
        return int(self._about["limits"][name])

    def _stamped(self, table: Any) -> Any:
        return stamped(table, self._about.get("provenance") or {"dataset": self._dataset})

    # ------------------------------------------------------------------ exchanges
    def close(self) -> None:
        self._session.close()

    def _ask(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str],
        body: bytes | None = None,
        wait: float = 0.0,
        accept: str = ARROW,
        content_type: str = IDS,
    ) -> requests.Response:
        """Return the response to a request. Raises ServiceError for any HTTP status but 200."""
        headers = {"Accept": accept} | ({"Content-Type": content_type} if body is not None else {})
        try:
            answer = self._session.request(
                method,
                f"{self.where}/table/{quote(self._dataset, safe='')}{path}",
                params=parameters,
                data=body,
                headers=headers,
                timeout=(CONNECT_S, self._timeout_s + wait),
                allow_redirects=method == "GET",
            )
        except requests.RequestException as error:
            raise ServiceUnavailable(f"{self.where}: {cause_of(error)}") from error
        if answer.status_code != 200:
            raise self._refused(answer)
        return answer

    def _refused(self, answer: requests.Response) -> ServiceError:
        """Return the error, with the server's message, for a response whose HTTP status is not 200."""
        try:
            content = answer.json()
        except ValueError:
            content = None
        fields: dict[str, Any] = content if isinstance(content, dict) else {}
        code, request_id, value = (str(fields.get(key) or "") for key in ("code", "request_id", "value"))
        message = str(fields.get("message") or f"HTTP {answer.status_code} {answer.reason}")
        if answer.status_code == 401 and self._session.auth is None:
            message += f": expected a token in {' or '.join(map(str, token_files(self.where)[:2]))}"
        kind = ServiceUnavailable if answer.status_code in TRANSIENT else ServiceError
        return kind(message, answer.status_code, code or str(fields.get("error") or ""), request_id, value)


def api_url(url: str) -> str:
    """Return the address of a server's API.

    >>> api_url("https://host/"), api_url("https://host/l2cache/api/v1")
    ('https://host/l2cache/api/v1', 'https://host/l2cache/api/v1')
    """
    base = url.rstrip("/")
    if base.endswith(API):
        return base
    return base + API if urlsplit(base).path else base + PREFIX + API


def _asked(names: Names, **more: Any) -> dict[str, str]:
    """Return the parameters of a request, without those that are None."""
    given = more | ({} if names is None else {"attribute_names": ",".join(names)})
    return {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in given.items()
        if value is not None
    }


def _batches(ids: Ids, most: int) -> list[Ids]:
    return [ids[first : first + most] for first in range(0, max(1, len(ids)), most)]


def _text(box: VoxelBox) -> str:
    return "_".join(f"{low}-{high}" for low, high in zip(*box, strict=True))


def _halves(box: VoxelBox, geometry: Geometry) -> tuple[VoxelBox, VoxelBox] | None:
    """Return the two halves of a box, cut between chunks; None if the box overlaps at most one chunk."""
    chunks = box.chunks(geometry)
    axis = int(np.argmax(chunks.shape))
    if chunks.shape[axis] < 2:
        return None
    middle = chunks.start[axis] + chunks.shape[axis] // 2
    stop, start = list(box.stop), list(box.start)
    stop[axis] = start[axis] = geometry.voxel_offset[axis] + middle * geometry.chunk_size[axis]
    return box._replace(stop=as_triple(stop)), box._replace(start=as_triple(start))


def _arrow(answer: requests.Response) -> Any:
    """Return the Arrow table in a response. Raises ServiceError for other content."""
    return _checked(answer, lambda: pa.ipc.open_stream(answer.content).read_all(), "an Arrow stream")


def _checked(answer: requests.Response, read: Callable[[], Any], expected: str) -> Any:
    """Return ``read()``, which parses the response.

    Raises ServiceError if ``read`` fails; the message says what was ``expected``.
    """
    try:
        return read()
    except (ValueError, LookupError, TypeError, pa.ArrowException) as error:
        kind = answer.headers.get("Content-Type", "no type")
        raise ServiceError(
            f"{answer.url}: expected {expected}, got {kind}: is this a server of L2 features?", 200
        ) from error


def cause_of(error: requests.RequestException) -> str:
    """Return the cause of a failed request as text for a message; a long cause is cut to 300 characters."""
    if isinstance(error, requests.Timeout):
        return "no response in time"
    text = str(error)
    found = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text)
    return f"cannot connect: {found[1]}" if found else f"{type(error).__name__}: {text:.300}"
