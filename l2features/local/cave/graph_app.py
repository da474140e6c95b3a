"""PyChunkedGraph's HTTP API for reading, as a WSGI application to mount at ``/segmentation``."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
from werkzeug.exceptions import BadRequest, HTTPException, RequestEntityTooLarge
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from ...core.errors import L2FeaturesError
from ...core.gunzip import GunzipTooLarge, gunzipped
from ...core.ids import L2, Ids, as_ids, from_bytes, to_bytes
from ...core.times import FIRST_YEAR, LAST_YEAR
from ...core.transient import OURS
from ...query.box_lookup import BOUNDS
from .pcg import Box, NotFound, Pcg
from .served_info import API_VERSIONS

VERSIONS: dict[str, Any] = {"versions": list(API_VERSIONS), "version": "2.21.1"}
"""Supported versions of the API, and the version of PyChunkedGraph whose responses are reproduced."""
MOST_BYTES = 64 << 20
"""Maximum size of a request's body in bytes, both as sent and after gunzip."""
MOST_IDS = 4_000_000
TRUE = ("1", "true", "yes", "t")
_TABLE = "/api/v1/table/<table>"
_ROUTES = {
    "GET": {
        "/api/versions": "versions",
        "/api/version": "version",
        "/table/<table>/info": "info",
        f"{_TABLE}/info": "info",
        f"{_TABLE}/node/<int:node>/leaves": "leaves",
        f"{_TABLE}/node/<int:node>/lvl2_graph": "lvl2_graph",
        f"{_TABLE}/node/<int:node>/children": "children",
        f"{_TABLE}/node/<int:node>/root": "root",
        f"{_TABLE}/l2_chunk_children_binary/<int:chunk>": "l2_chunk_children_binary",
        f"{_TABLE}/root/<int:node>/lineage_graph": "lineage_graph",
        f"{_TABLE}/delta_roots": "delta_roots",
        f"{_TABLE}/oldest_timestamp": "oldest_timestamp",
    },
    "POST": {
        f"{_TABLE}/node/leaves_many": "leaves_many",
        f"{_TABLE}/leaves_many": "leaves_many",
        f"{_TABLE}/roots": "roots",
        f"{_TABLE}/roots_binary": "roots_binary",
        f"{_TABLE}/is_latest_roots": "is_latest_roots",
        f"{_TABLE}/root_timestamps": "root_timestamps",
        f"{_TABLE}/lineage_graph_multiple": "lineage_graph_multiple",
    },
}
_MAP = Map(
    [
        Rule(path, endpoint=name, methods=[method])
        for method, routes in _ROUTES.items()
        for path, name in routes.items()
    ],
    strict_slashes=False,
)
Open = Callable[[str], Pcg]
log = logging.getLogger("l2features.cave")


class GraphApp:
    """Answers requests about graphs; ``open_graph`` returns a table's graph, or raises NotFound."""

    def __init__(self, open_graph: Open) -> None:
        self.open_graph = open_graph

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ)
        request.max_content_length = MOST_BYTES
        return answered(request, lambda: self._response(request))(environ, start_response)

    def _response(self, request: Request) -> Response:
        endpoint, values = _MAP.bind_to_environ(request.environ).match()
        if endpoint in VERSIONS:
            return json_response(VERSIONS[endpoint])
        routes = Routes(self.open_graph(values["table"]), Asked(request))
        rest = {name: value for name, value in values.items() if name != "table"}
        response: Response = getattr(routes, endpoint)(**rest)
        return response


def answered(request: Request, respond: Callable[[], Response]) -> Response:
    """Return the response to a request, readable from any origin, and log the request.

    Errors become responses with the JSON ``{"code", "message"}``.
    """
    begun = time.perf_counter()
    try:
        response = respond()
    except HTTPException as error:
        response = _error(error.code or 500, str(error.description))
    except L2FeaturesError as error:
        response = _error(503 if isinstance(error, OURS) else 500, str(error))
    except NotFound as error:
        response = _error(404, str(error))
    except ValueError as error:
        response = _error(400, str(error))
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Access-Control-Expose-Headers"] = "WWW-Authenticate"
    millis = 1e3 * (time.perf_counter() - begun)
    fields = {"method": request.method, "path": request.path, "status": response.status_code}
    log.info("cave request", extra={**fields, "millis": round(millis, 1)})
    return response


class Asked:
    """The parameters and the body of a request.

    Methods raise ValueError for an invalid parameter or a body without valid ids, and HTTPException for a
    body that is too large or not valid gzip.
    """

    def __init__(self, request: Request) -> None:
        self.request, self.args = request, request.args
        self.as_str = self.flag("int64_as_str")

    def flag(self, name: str) -> bool:
        return self.args.get(name, "").lower() in TRUE

    def layer(self, default: int, top: int) -> int:
        """Return the parameter ``stop_layer``, which may be 1 to ``top``."""
        text = self.args.get("stop_layer", str(default))
        if not text.isdecimal() or not 1 <= int(text) <= top:
            raise ValueError(f"stop_layer={text}: expected 1 to {top}")
        return int(text)

    def time(self, name: str = "timestamp", default: float | None = None) -> datetime:
        """Return the time of a parameter, which is in seconds since 1970.

        If it is missing, returns ``default``, also in seconds since 1970, or the present if that is None.
        """
        text = self.args.get(name)
        if text is None:
            return datetime.now(UTC) if default is None else datetime.fromtimestamp(default, UTC)
        try:
            time = datetime.fromtimestamp(float(text), UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise ValueError(f"{name}={text}: expected seconds since 1970") from error
        if not FIRST_YEAR <= time.year <= LAST_YEAR:
            raise ValueError(
                f"{name}={text}: expected seconds since 1970, in the years {FIRST_YEAR} to {LAST_YEAR}"
            )
        return time

    def box(self, pcg: Pcg) -> Box | None:
        """Return the parameter ``bounds``, which is in voxels, as a box of chunks; None if it is missing."""
        text = self.args.get("bounds")
        if text is None:
            return None
        match = BOUNDS.fullmatch(text)
        if not match:
            raise ValueError(f"bounds={text}: expected x0-x1_y0-y1_z0-z1 in voxels")
        x0, x1, y0, y1, z0, z1 = map(int, match.groups())
        return pcg.box([(x0, x1), (y0, y1), (z0, z1)])

    def body(self) -> bytes:
        data = self.request.get_data()
        if "gzip" not in self.request.headers.get("Content-Encoding", ""):
            return data
        try:
            return bytes(gunzipped([data], MOST_BYTES))
        except GunzipTooLarge as error:
            message = f"the body is larger than {MOST_BYTES} bytes after gunzip"
            raise RequestEntityTooLarge(message) from error
        except ValueError as error:
            raise BadRequest(f"the body is not gzip: {error}") from error

    def ids(self, name: str = "node_ids") -> Ids:
        """Return the ids in a JSON body under the key ``name``."""
        try:
            values = json.loads(self.body())[name]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f'body: expected JSON such as {{"{name}": [1, 2]}}') from error
        return _limited(as_ids(values))

    def raw_ids(self) -> Ids:
        """Return the ids of a body of little-endian uint64."""
        return _limited(from_bytes(self.body()))


class Routes:
    """Responses to requests about one graph; a method is named like its route."""

    def __init__(self, pcg: Pcg, asked: Asked) -> None:
        self.pcg, self.asked = pcg, asked

    def info(self) -> Response:
        return json_response(self.pcg.info)

    def leaves(self, node: int) -> Response:
        return self._json({"leaf_ids": self._leaves(as_ids([node]))[node]})

    def leaves_many(self) -> Response:
        return self._json({str(node): own for node, own in self._leaves(self.asked.ids()).items()})

    def lvl2_graph(self, node: int) -> Response:
        box = self.asked.box(self.pcg)
        response = self._json({"edge_graph": self.pcg.edges(node, box)})
        response.headers["Used-Bounds"] = str(box is not None)
        return response

    def children(self, node: int) -> Response:
        return self._json({"children_ids": self.pcg.children(node)})

    def root(self, node: int) -> Response:
        layer = self.asked.layer(self.pcg.top, self.pcg.top)
        return self._json({"root_id": np.uint64(self.pcg.root(node, layer, self.asked.time()))})

    def roots(self) -> Response:
        return self._json({"root_ids": self._roots(self.asked.ids())})

    def roots_binary(self) -> Response:
        return _binary(self._roots(self.asked.raw_ids()))

    def l2_chunk_children_binary(self, chunk: int) -> Response:
        if not self.asked.flag("as_array"):
            raise ValueError("as_array: expected as_array=True; pickles are not served")
        if self.pcg.geometry.layout.layers(as_ids([chunk]))[0] != L2:
            raise ValueError(f"chunk {chunk}: expected the id of a chunk of layer 2")
        return _binary(self.pcg.chunk_children(chunk, self.asked.time()))

    def is_latest_roots(self) -> Response:
        latest = self.pcg.is_latest(self.asked.ids(), self.asked.time())
        return self._json({"is_latest": latest})

    def root_timestamps(self) -> Response:
        ids = self.asked.raw_ids() if self.asked.flag("is_binary") else self.asked.ids()
        latest = self.asked.flag("latest")
        times = self.pcg.latest(ids, self.asked.time()) if latest else self.pcg.created(ids)
        return self._json({"timestamp": times})

    def delta_roots(self) -> Response:
        if "timestamp_past" not in self.asked.args:
            raise ValueError("timestamp_past is missing: expected seconds since 1970")
        past, future = (self.asked.time(f"timestamp_{name}") for name in ("past", "future"))
        return self._json(self.pcg.changed(past, future))

    def oldest_timestamp(self) -> Response:
        delimiter = self.asked.args.get("delimiter", " ")
        if len(delimiter) != 1:
            raise ValueError(f"delimiter={delimiter!r}: expected one character")
        return self._json({"iso": self.pcg.oldest().isoformat(delimiter)})

    def lineage_graph(self, node: int) -> Response:
        return self._lineage(as_ids([node]), "edges")

    def lineage_graph_multiple(self) -> Response:
        return self._lineage(self.asked.ids("root_ids"), "links")

    def _lineage(self, roots: Ids, links: str) -> Response:
        past, future = self.asked.time("timestamp_past", 0.0), self.asked.time("timestamp_future")
        return self._json(self.pcg.lineage(roots, past, future, links))

    def _leaves(self, nodes: Ids) -> dict[int, Ids]:
        return self.pcg.leaves(nodes, self.asked.layer(1, self.pcg.top), self.asked.box(self.pcg))

    def _roots(self, ids: Ids) -> Ids:
        return self.pcg.roots(ids, self.asked.layer(self.pcg.top, self.pcg.top), self.asked.time())

    def _json(self, value: Any) -> Response:
        return json_response(value, self.asked.as_str)


def _limited(ids: Ids) -> Ids:
    if len(ids) > MOST_IDS:
        raise RequestEntityTooLarge(f"{len(ids)} ids: expected {MOST_IDS} at most")
    return ids


def json_response(value: Any, as_str: bool = False, status: int = 200) -> Response:
    """Return compact JSON with sorted keys; with ``as_str``, ids are strings."""
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SORT_KEYS
    if not as_str:
        options |= orjson.OPT_SERIALIZE_NUMPY
    as_list = _ids_as_text if as_str else lambda array: array.tolist()  # of arrays that are not contiguous
    body = orjson.dumps(value, default=as_list, option=options)
    return Response(body, status, mimetype="application/json")


def _ids_as_text(value: Any) -> Any:
    return value.astype(str).tolist() if value.dtype == np.uint64 else value.tolist()


def _binary(ids: Ids) -> Response:
    return Response(to_bytes(ids), mimetype="text/html")


def _error(status: int, message: str) -> Response:
    return json_response({"code": status, "message": message}, status=status)
