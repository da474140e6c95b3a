"""Clients that measure one server, and the ids that they have not requested from it yet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.load import ARROW, JSON, Client, Post, Timing, parse_seconds, run
from benchmarks.servers import DATASET, Server
from l2features.core.ids import Ids

WARM_UP = 1000
"""Number of ids at the start of the table that are used to warm up a server."""
ALL = "all"
COLD, WARM = "cold", "warm"


@dataclass(frozen=True)
class Case:
    """A kind of request from ``clients`` clients; ``state`` is cold (ids not requested before) or warm."""

    ids: int
    attributes: str
    accept: str
    state: str
    clients: int

    @property
    def format(self) -> str:
        return "Arrow" if self.accept == ARROW else "JSON"


@dataclass
class Result:
    """The measurements of one kind of request."""

    server: str
    ids: int
    attributes: str
    format: str
    state: str
    clients: int
    requests: int
    median_ms: float
    p99_ms: float
    ids_per_s: float
    parse_ms: float
    kbytes: float
    memory_mb: float
    found: float | None


class Asker:
    """Sends requests to one server from up to ``clients`` concurrent clients.

    ``ids`` are all ids of the server's table. ``caches`` is whether the server caches rows and exposes
    metrics of its cache.
    """

    def __init__(self, server: Server, ids: Ids, clients: int, caches: bool = True) -> None:
        self.server, self.ids, self.caches = server, ids, caches
        self.clients = [Client(server.port) for _ in range(clients)]
        self._random = np.random.default_rng(1)
        self._begin()

    @property
    def name(self) -> str:
        return self.server.name

    @property
    def most_cold(self) -> int:
        """Number of ids that are not cached after a start of the server: all except those of the warm-up."""
        return len(self.ids) - WARM_UP

    def _begin(self) -> None:
        self._fresh = self._random.permutation(self.ids[WARM_UP:])
        for accept in (JSON, ARROW) if self.caches else (JSON,):
            post = make_post(self.ids[:WARM_UP], ALL, accept)
            run(self.clients, [[post] for _ in self.clients])

    def _restart(self) -> None:
        for client in self.clients:
            client.close()
        self.server.stop()
        self.server.start()
        self._begin()

    def need(self, n: int) -> None:
        """Make sure that ``n`` cold ids are left; restart the server if it caches and too few are left."""
        if n > len(self._fresh):
            if self.caches:
                self._restart()
            else:
                self._fresh = self._random.permutation(self.ids[WARM_UP:])

    def fresh(self, n: int) -> Ids:
        """Return ``n`` cold ids: ids that the server has not cached."""
        self.need(n)
        taken, self._fresh = self._fresh[:n], self._fresh[n:]
        return taken

    def fill_caches(self, ids: int) -> None:
        """If the server caches rows, let each client request ``ids`` ids: those that warm requests use."""
        post = make_post(self._warm(ids), ALL, ARROW)
        for client in self.clients if self.caches else ():
            client.post(post)

    def _warm(self, n: int) -> Ids:
        return self.ids[WARM_UP : WARM_UP + n]

    def _looked_up(self) -> tuple[int, int]:
        return self.server.cache_counts() if self.caches else (0, 0)

    def measure(self, case: Case, repeats: int) -> Result:
        """Send ``repeats`` requests from each client, concurrently; return the measurements."""
        cold = case.state == COLD
        if cold:
            self.need(case.clients * repeats * case.ids)
        posts = [[self._post(case) for _ in range(repeats)] for _ in range(case.clients)]
        before = self._looked_up()
        self.server.begin_memory()
        timing = run(self.clients[: case.clients], posts)
        memory = self.server.peak_mb()
        found = share_found(before, self._looked_up()) if self.caches else None
        return _result(self.name, case, timing, memory, found)

    def _post(self, case: Case) -> Post:
        ids = self.fresh(case.ids) if case.state == COLD else self._warm(case.ids)
        return make_post(ids, case.attributes, case.accept)


def make_post(ids: Ids, attributes: str, accept: str, encoding: str = "gzip, deflate") -> Post:
    """Return a request for these ids, as caveclient sends it."""
    query = "" if attributes == ALL else f"?attribute_names={attributes}"
    body = json.dumps({"l2_ids": ids.tolist()}).encode()
    return Post(f"/l2cache/api/v1/table/{DATASET}/attributes{query}", body, accept, encoding)


def share_found(before: Sequence[int], after: Sequence[int]) -> float:
    """Return the cache hit rate between two readings of the counts (hits, misses)."""
    hits, misses = after[0] - before[0], after[1] - before[1]
    return hits / max(1, hits + misses)


def _result(server: str, case: Case, timing: Timing, memory: float, found: float | None) -> Result:
    seconds = np.array(timing.seconds)
    return Result(
        server=server,
        ids=case.ids,
        attributes=case.attributes,
        format=case.format,
        state=case.state,
        clients=case.clients,
        requests=len(seconds),
        median_ms=float(np.median(seconds)) * 1e3,
        p99_ms=float(np.percentile(seconds, 99)) * 1e3,
        ids_per_s=len(seconds) * case.ids / timing.wall,
        parse_ms=parse_seconds(timing.body, case.accept) * 1e3,
        kbytes=timing.nbytes / 1e3,
        memory_mb=memory,
        found=found,
    )
