"""An emulator of Cloud Storage that also honours ``ifGenerationMatch=0``."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Lock
from urllib.parse import parse_qs, urlparse

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

from l2features.testing.emulators import free_port, wait_for_port

_NAME, _BUCKET = re.compile(rb'"name": *"([^"]+)"'), re.compile(r"/b/([^/]+)/o")
_CREATING, ROOT = Lock(), Path(__file__).parents[2]


class _Handler(RequestHandler):  # type: ignore[misc]
    """Refuses to replace an object if the request has ``ifGenerationMatch=0``; the base class ignores it."""

    def do_POST(self) -> None:
        if parse_qs(urlparse(self.path).query).get("ifGenerationMatch") != ["0"]:
            super().do_POST()
            return
        with _CREATING:
            rfile = self.rfile  # type: ignore[has-type]
            body = rfile.read(int(self.headers["Content-Length"]))
            name, bucket = _NAME.search(body), _BUCKET.search(self.path)
            assert name
            assert bucket
            try:
                self.storage.get_file_obj(bucket[1], name[1].decode())
            except NotFound:
                self.rfile = BytesIO(body)
                super().do_POST()
                self.rfile = rfile
                return
        self.send_response(412)
        self.send_header("Content-Length", "0")
        self.end_headers()


def main(port: int, *buckets: str) -> None:
    """Serve these buckets, kept in memory."""
    storage = Storage(use_memory_fs=True)
    for bucket in buckets:
        create_bucket(bucket, storage)
    ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, storage)).serve_forever()


@contextmanager
def storage_emulator(*buckets: str) -> Iterator[str]:
    """Serve these buckets; yield the value for STORAGE_EMULATOR_HOST.

    The server is another process, because pyarrow holds the GIL while it opens a file.
    """
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(port), *buckets], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_port(port, 30)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
