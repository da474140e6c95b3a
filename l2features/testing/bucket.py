"""A fake, read-only bucket of Cloud Storage, served over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

NAME = "my-bucket"


@contextmanager
def bucket_of(content: Callable[[str], bytes | None]) -> Iterator[str]:
    """Serve the bucket `NAME`; yield the value for STORAGE_EMULATOR_HOST.

    ``content`` returns a file by its name; None means that the file is missing.
    """

    class Bucket(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, found, name = self.path.partition(f"/b/{NAME}/o/")
            body = content(unquote(name.split("?")[0])) if found else None
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
