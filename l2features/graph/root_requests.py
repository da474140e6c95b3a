"""Requests about roots to a PyChunkedGraph server: concurrent, with a deadline and retries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import orjson
import tenacity

from ..core.errors import GraphError, GraphUnavailable
from ..core.ids import Ids, as_ids, from_bytes, sorted_unique, to_bytes
from ..core.transient import graph_error, has_transient_cause
from .base import Pairs, RootHistory
from .id_cells import batches
from .l2_edges import unique_pairs

if TYPE_CHECKING:
    import requests

REQUESTS = 8
"""Maximum concurrent requests of a call."""
ATTEMPTS = 3
CONNECT_S, READ_S = 10.0, 60.0
"""Time limits of an attempt, in seconds: to connect, and to receive each part of a response.

An attempt ends earlier if the deadline is nearer.
"""
IDS, ROOTS = 100_000, 100
"""Maximum ids of one request, and maximum roots of a request about L2 nodes or lineages."""
ID_BYTES = 22
"""Maximum bytes of an id in a response: 20 digits, a comma, and a space."""
_GRACE_S = 0.2
_MS = timedelta(milliseconds=1)
T = TypeVar("T")


class TooLong(Exception):
    """A response has more bytes than the request allows."""


@dataclass(frozen=True)
class RootRequests:
    """Sends requests to a graph's server over one session, all before the deadline ``until``.

    ``until`` is a value of `time.monotonic`. Methods raise GraphError for a malformed response, and
    GraphUnavailable for a transient error or at the deadline.
    """

    server: str
    session: requests.Session
    until: float

    def leaves(self, roots: Ids, most: int) -> dict[int, Ids | None]:
        """Return L2 ids by root; an empty array for an unknown root.

        A root with more than ``most`` ids maps to None, or to all its ids if the response is within the size
        limit. Up to `ROOTS` roots are requested together. If such a request fails or its response is too
        long, these roots are requested one by one.
        """
        found: dict[int, Ids | None] = {}
        together = self._each(partial(self._leaves_many, most), list(batches(roots, ROOTS)))
        for batch, leaves in zip(batches(roots, ROOTS), together, strict=True):
            if leaves is None:
                alone = self._each(partial(self._leaves, most), batch.tolist())
                leaves = dict(zip(batch.tolist(), alone, strict=True))
            found |= leaves
        return found

    def _leaves_many(self, most: int, roots: Ids) -> dict[int, Ids | None] | None:
        body, size = {"node_ids": roots.tolist()}, ID_BYTES * (most + 2 * ROOTS)
        try:
            answer = self._json("POST", "node/leaves_many", {"stop_layer": 2}, body, size)
        except (TooLong, GraphError):
            return None
        return {root: _ids_of(answer.get(str(root), [])) for root in roots.tolist()}

    def _leaves(self, most: int, root: int) -> Ids | None:
        try:
            answer = self._json("GET", f"node/{root}/leaves", {"stop_layer": 2}, size=ID_BYTES * (most + 2))
        except TooLong:
            return None
        return _ids_of(answer["leaf_ids"])

    def edges(self, roots: Sequence[int]) -> list[Pairs]:
        """Return the edges between the L2 nodes of each root, in the order of the roots."""
        return self._each(self._edges, roots)

    def _edges(self, root: int) -> Pairs:
        ends = self._json("GET", f"node/{root}/lvl2_graph")["edge_graph"]
        pairs = _ids_of([one for edge in ends for one in edge]).reshape(len(ends), 2)
        return unique_pairs(pairs[:, 0], pairs[:, 1])

    def roots(self, l2_ids: Ids, time: datetime) -> Ids:
        """Return the highest ancestor of each L2 id at ``time``, shape (n,); it may not be a root."""
        found = self._each(partial(self._roots, _seconds(time)), list(batches(l2_ids, IDS)))
        return np.concatenate([as_ids([]), *found])

    def _roots(self, seconds: float, ids: Ids) -> Ids:
        found = from_bytes(self._fetch("POST", "roots_binary", {"timestamp": seconds}, to_bytes(ids)))
        if len(found) != len(ids):
            raise ValueError(f"{len(found)} roots: expected {len(ids)}, one for each id")
        return found

    def chunk_nodes(self, chunk_ids: Ids, time: datetime) -> list[Ids]:
        """Return the sorted L2 nodes of each chunk that were made at ``time`` or earlier.

        Superseded nodes are included.
        """
        return self._each(partial(self._chunk_nodes, _seconds(time)), chunk_ids.tolist())

    def _chunk_nodes(self, seconds: float, chunk_id: int) -> Ids:
        arguments = {"as_array": "True", "timestamp": seconds}
        pairs = from_bytes(self._fetch("GET", f"l2_chunk_children_binary/{chunk_id}", arguments))
        return sorted_unique(pairs.reshape(-1, 2)[:, 0])

    def logged_roots(self, since: datetime) -> Ids:
        """Return the sorted roots that operations made or retired, for operations logged since a time."""
        (roots,) = self._each(self._logged_roots, [_seconds(since)])
        return sorted_unique(roots)

    def _logged_roots(self, seconds: float) -> Ids:
        answer = self._json("GET", "delta_roots", {"timestamp_past": seconds})
        return _ids_of([*answer["old_roots"], *answer["new_roots"]])

    def are_latest(self, roots: Ids, time: datetime | None = None) -> npt.NDArray[np.bool_]:
        """Return whether each root is valid at ``time`` (default now), shape (n,); False for an unknown root.

        The server ignores changes in the requested millisecond, so the next millisecond is requested.
        """
        arguments = {} if time is None else {"timestamp": _seconds(time + _MS)}
        found = self._each(partial(self._are_latest, arguments), list(batches(roots, IDS)))
        return np.concatenate([np.empty(0, dtype=bool), *found])

    def _are_latest(self, arguments: dict[str, float], roots: Ids) -> npt.NDArray[np.bool_]:
        answer = self._json("POST", "is_latest_roots", arguments, {"node_ids": roots.tolist()})
        latest = np.array(answer["is_latest"], dtype=bool)
        if latest.shape != roots.shape:
            raise ValueError(f"is_latest has {len(latest)} values: expected {len(roots)}, one for each root")
        return latest

    def have_children(self, roots: Ids) -> npt.NDArray[np.bool_]:
        """Return whether the server knows each root, shape (n,). It lists children of known roots only."""

        def has_children(root: int) -> bool:
            return len(self._json("GET", f"node/{root}/children")["children_ids"]) > 0

        return np.array(self._each(has_children, roots.tolist()), dtype=bool)

    def histories(self, roots: Ids) -> dict[int, RootHistory]:
        """Return the history of each root, by root. The server must know all roots.

        Histories of roots that were made at about the same time are requested together.
        """
        created = np.concatenate([np.empty(0), *self._each(self._created, list(batches(roots, IDS)))])
        order = np.argsort(created, kind="stable")
        parts = list(zip(batches(roots[order], ROOTS), batches(created[order], ROOTS), strict=True))
        histories: dict[int, RootHistory] = {}
        for part in self._each(self._lineage, parts):
            histories |= part
        return histories

    def _created(self, roots: Ids) -> npt.NDArray[np.float64]:
        answer = self._json("POST", "root_timestamps", {}, {"node_ids": roots.tolist()})
        created = np.array(answer["timestamp"], dtype=np.float64)
        if created.shape != roots.shape:
            raise ValueError(f"{len(created)} timestamps: expected {len(roots)}, one for each root")
        return created

    def _lineage(self, part: tuple[Ids, npt.NDArray[np.float64]]) -> dict[int, RootHistory]:
        roots, created = part
        arguments = {"timestamp_past": float(created[0])}
        answer = self._json("POST", "lineage_graph_multiple", arguments, {"root_ids": roots.tolist()})
        times = {node["id"]: _time(node["timestamp"]) for node in answer["nodes"]}
        after: dict[int, set[int]] = {root: set() for root in roots.tolist()}
        before: dict[int, set[int]] = {root: set() for root in roots.tolist()}
        for link in answer["links"] if "links" in answer else answer["edges"]:
            after.get(link["source"], set()).add(link["target"])
            before.get(link["target"], set()).add(link["source"])
        return {
            root: RootHistory(
                _time(seconds),
                min((times[new] for new in after[root]), default=None),
                tuple(sorted(after[root])),
                tuple(sorted(before[root])),
            )
            for root, seconds in zip(roots.tolist(), created.tolist(), strict=True)
        }

    def _each(self, request: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        """Return the result of ``request`` for each item; up to `REQUESTS` requests run at once.

        Raises GraphError for a malformed response, and GraphUnavailable for a transient error or at the
        deadline.
        """
        threads = ThreadPoolExecutor(min(REQUESTS, len(items)) or 1, thread_name_prefix="graph server")
        try:
            futures = [threads.submit(request, item) for item in items]
            return [future.result(max(0.0, self.until - monotonic()) + _GRACE_S) for future in futures]
        except TimeoutError as error:
            raise GraphUnavailable(
                f"{self.server} did not answer all of {len(items)} requests before the deadline"
            ) from error
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise GraphError(f"{self.server} returned a malformed answer: {error!r}") from error
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _json(
        self,
        method: str,
        path: str,
        arguments: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        size: int | None = None,
    ) -> Any:
        raw = None if body is None else orjson.dumps(body)
        return orjson.loads(self._fetch(method, path, arguments, raw, size))

    def _fetch(
        self,
        method: str,
        path: str,
        arguments: dict[str, Any] | None = None,
        body: bytes | None = None,
        size: int | None = None,
    ) -> bytes:
        """Return the body of a response, after up to `ATTEMPTS` attempts before the deadline.

        Raises GraphUnavailable for a transient error, GraphError for another error, and TooLong for a body of
        more than ``size`` bytes.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(has_transient_cause),
            stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_before_delay(self._left()),
            wait=tenacity.wait_exponential_jitter(initial=0.1, max=5, jitter=0.1),
            reraise=True,
        )
        try:
            return retrying(self._attempt, method, f"{self.server}/{path}", arguments, body, size)
        except OSError as error:  # all of requests' errors are OSError
            raise graph_error(f"{self.server}/{path}: {error}", error) from error

    def _attempt(
        self, method: str, url: str, arguments: dict[str, Any] | None, body: bytes | None, size: int | None
    ) -> bytes:
        limits = min(CONNECT_S, self._left()), min(READ_S, self._left())
        received = bytearray()
        with self.session.request(
            method, url, params=arguments, data=body, timeout=limits, stream=True
        ) as answer:
            answer.raise_for_status()
            for piece in answer.iter_content(1 << 16):
                received += piece
                if size is not None and len(received) > size:
                    raise TooLong(url)
        return bytes(received)

    def _left(self) -> float:
        return max(0.01, self.until - monotonic())


def _ids_of(values: Any) -> Ids:
    """Return a parsed JSON list as ids. Raises ValueError unless it has only integers from 0 to 2^64 - 1."""
    if not isinstance(values, list):
        raise ValueError(f"{values!r:.80} are not ids: expected a list of integers")
    return as_ids(values)


def _seconds(time: datetime) -> float:
    """Return a time in seconds since 1970, rounded down to milliseconds, the graph's precision."""
    return int(time.timestamp() * 1000 + 0.0005) / 1000


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds * 1000) // 1000, UTC) + round(seconds * 1000) % 1000 * _MS
