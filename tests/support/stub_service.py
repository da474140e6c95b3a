"""A small HTTP server with canned answers, which records its requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pyarrow as pa

from l2features.core.ids import Ids, from_bytes

ARROW = "application/vnd.apache.arrow.stream"


class Asked(NamedTuple):
    method: str
    path: str
    parameters: dict[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def ids(self) -> Ids:
        return from_bytes(self.body)


class Answer(NamedTuple):
    """An answer, whose content is a table, an object for JSON, or text."""

    content: Any
    status: int = 200
    headers: Mapping[str, str] = {}


class Stub:
    """A server at ``url``. ``answer`` makes the response to a request; ``asked`` lists all requests."""

    def __init__(self, url: str, answer: Callable[[Asked], Answer]) -> None:
        self.url, self.answer, self.asked = url, answer, list[Asked]()


def encoded(content: Any) -> tuple[str, bytes]:
    """Return the media type and the bytes of an answer."""
    if isinstance(content, pa.Table):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, content.schema) as writer:
            writer.write_table(content)
        return ARROW, sink.getvalue().to_pybytes()
    if isinstance(content, str):
        return "text/html", content.encode()
    return "application/json", json.dumps(content).encode()


def features(ids: Ids, missing: Ids | None = None) -> pa.Table:
    """Return features as the service does; a node's size is its id modulo 1000."""
    absent = np.isin(ids, [] if missing is None else missing)
    status = pa.DictionaryArray.from_arrays(absent.astype(np.int8), ["ready", "missing"])
    sizes = pa.array(ids % np.uint64(1000), mask=absent)
    return pa.table({"id": ids, "size_nm3": sizes, "status": status})


@contextmanager
def serving(answer: Callable[[Asked], Answer]) -> Iterator[Stub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = Asked(self.command, parts.path, dict(parse_qsl(parts.query)), dict(self.headers), body)
            stub.asked.append(asked)
            content, status, headers = stub.answer(asked)
            kind, data = encoded(content)
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub = Stub(f"http://127.0.0.1:{server.server_address[1]}", answer)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
