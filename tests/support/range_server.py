"""An HTTP server of a folder that answers range requests, as buckets do."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple


class Served(NamedTuple):
    """The server's URL, the headers of past requests, and statuses to send instead of byte ranges."""

    url: str
    asked: list[dict[str, str]]
    answers: list[int]


@contextmanager
def range_server(folder: Path) -> Iterator[Served]:
    """Serve a folder. Each status in the yielded ``answers`` is sent once instead of a byte range."""
    asked: list[dict[str, str]] = []
    answers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(dict(self.headers))
            content = (folder / self.path.lstrip("/")).read_bytes()
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            assert match
            status = answers.pop() if answers else 206
            part = content[int(match[1]) : int(match[2]) + 1] if status == 206 else b"no"
            self.send_response(status)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Served(f"http://127.0.0.1:{server.server_port}", asked, answers)
    finally:
        server.shutdown()
        server.server_close()
