"""HTTP clients, each of which sends its requests one after another; several run in threads."""

from __future__ import annotations

import gzip
import http.client
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

JSON, ARROW = "*/*", "application/vnd.apache.arrow.stream"
HEADERS = {
    "User-Agent": "python-requests/2.32",
    "Accept-Encoding": "gzip, deflate",
    "Accept": "*/*",
    "Connection": "keep-alive",
    "Content-Type": "application/json",
}
"""Headers that the requests library sends for caveclient."""
TIMEOUT_S = 120.0


class Post(NamedTuple):
    """A POST request: path with query, body, and the headers Accept and Accept-Encoding."""

    path: str
    body: bytes
    accept: str = "*/*"
    encoding: str = "gzip, deflate"


class RequestFailed(Exception):
    """A response's status was not 200."""


@dataclass
class Timing:
    """Seconds of each request, wall seconds of all requests together, and the raw body of one response."""

    seconds: list[float] = field(default_factory=list)
    wall: float = 0.0
    body: bytes = b""

    @property
    def nbytes(self) -> int:
        """Bytes of one response's body, before decompression."""
        return len(self.body)


class Client:
    """A kept-alive connection that reconnects after the server closed it."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def post(self, post: Post) -> bytes:
        """Send a request; return the response's body, still compressed. Raises RequestFailed."""
        headers = {**HEADERS, "Accept": post.accept, "Accept-Encoding": post.encoding}
        for last in (False, True):
            try:
                self._connection.request("POST", post.path, post.body, headers)
                response = self._connection.getresponse()
                body = response.read()
                break
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self._connection.close()
                if last:
                    raise
        if response.status != 200:
            raise RequestFailed(f"{post.path}: {response.status} {body[:300]!r}")
        return body

    def timed(self, posts: Sequence[Post], timing: Timing) -> None:
        for post in posts:
            start = time.perf_counter()
            timing.body = self.post(post)
            timing.seconds.append(time.perf_counter() - start)

    def close(self) -> None:
        self._connection.close()


def run(clients: Sequence[Client], posts: Sequence[Sequence[Post]]) -> Timing:
    """Send the requests in ``posts``, a list per client; each client is a thread, all run concurrently."""
    timings = [Timing() for _ in clients]
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(clients) + 1)

    def work(client: Client, mine: Sequence[Post], timing: Timing) -> None:
        barrier.wait()
        try:
            client.timed(mine, timing)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=a) for a in zip(clients, posts, timings, strict=True)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - start
    if failures:
        raise failures[0]
    return Timing([s for t in timings for s in t.seconds], wall, timings[0].body)


def parse_seconds(body: bytes, accept: str) -> float:
    """Return the seconds to unpack and parse a response's body, with ``json.loads`` or Arrow's reader."""
    start = time.perf_counter()
    if accept == ARROW:
        pa.ipc.open_stream(body).read_all()
    else:
        unpacked(body)
    return time.perf_counter() - start


def unpacked(body: bytes) -> dict[str, dict[str, object]]:
    """Return the content of a gzipped or plain JSON body."""
    content: dict[str, dict[str, object]] = json.loads(
        gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
    )
    return content
