"""A fake authentication service: real TLS on loopback, three fixed users and one fixed table."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

from .emulators import free_port

VIEWER, NOBODY, WITHOUT_TERMS = "0123456789abcdef0123456789abcdef", "aaaa", "bbbb"
DATASET = "test_dataset"
NORMAL, SILENT, NO_HANDSHAKE, DRIP, PAGE = "normal", "silent", "no handshake", "drip", "page"
"""Behaviours: normal; never answers; no TLS handshake; one byte at a time; a web page."""


def user(number: int, name: str, view: bool, without_terms: bool = False) -> dict[str, Any]:
    """Return a user as the authentication service describes it."""
    granted = {DATASET: ["view"]}
    terms = [{"dataset_id": 1, "dataset_name": DATASET, "tos_id": 3, "tos_name": "Test terms"}]
    return {
        "id": number,
        "parent_id": None,
        "service_account": False,
        "name": name,
        "email": f"{name.lower()}@x.org",
        "admin": False,
        "groups": [],
        "permissions_v2": granted if view else {},
        "permissions_v2_ignore_tos": granted if view or without_terms else {},
        "missing_tos": terms if without_terms else [],
        "datasets_admin": [],
    }


class AuthServer:
    """A running service; `stop` closes its port, `start` opens it again.

    ``calls`` has a line for each answered request. ``behaviour`` is a constant of this module, such as
    `SILENT`, or the HTTP status of every response.
    """

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(self.context)
        self.ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self.port = free_port()
        self.users = {
            VIEWER: user(7, "Viewer", True),
            NOBODY: user(8, "Nobody", False),
            WITHOUT_TERMS: user(9, "NoTos", False, True),
        }
        self.tables = {"fixture_v2": DATASET}
        self.calls: list[str] = []
        self.released = threading.Event()
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that make a process use and trust this service."""
        host = f"localhost:{self.port}"
        return {
            "AUTH_URI": f"{host}/auth",
            "AUTH_URL": f"{host}/auth",
            "STICKY_AUTH_URL": f"{host}/sticky_auth",
            "REQUESTS_CA_BUNDLE": str(self.ca_file),
        }

    def start(self, behaviour: str | int = NORMAL) -> None:
        self.behave(behaviour)
        self._open: set[socket.socket] = set()
        service = self

        class Handler(_Handler):
            auth = service

        self._server = _Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def behave(self, behaviour: str | int) -> None:
        """Change the behaviour from now on. Hanging requests are dropped; hanging TLS handshakes proceed."""
        self.released.set()
        self.behaviour, self.released = behaviour, threading.Event()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.released.set()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def taken_calls(self) -> list[str]:
        """Return the requests answered since the last use of this method, one line each."""
        calls, self.calls = self.calls, []
        return calls

    def answer(self, path: str, token: str) -> tuple[int, Any]:
        """Return the status and JSON of a response."""
        if isinstance(self.behaviour, int):
            return self.behaviour, {"error": "out of order"}
        if token not in self.users:
            return 401, {"error": "invalid_token", "message": "Unauthorized - Token is Invalid or Expired"}
        if path == "/auth/api/v1/user/cache":
            return 200, self.users[token]
        table = path.removeprefix("/auth/api/v1/service/pychunkedgraph/table/").removesuffix("/dataset")
        return (200, self.tables[table]) if table in self.tables else (404, {"error": "not found"})


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore disconnected clients."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    auth: AuthServer

    def setup(self) -> None:
        self.opened = self.auth._open
        self.opened.add(self.request)
        if self.auth.behaviour == NO_HANDSHAKE:
            self.auth.released.wait()
        self.opened.discard(self.request)
        self.request = self.auth.context.wrap_socket(self.request, server_side=True)
        self.opened.add(self.request)
        super().setup()

    def finish(self) -> None:
        """Close the TLS socket that `setup` made; the server closes only the TCP socket that it accepted."""
        self.opened.discard(self.request)
        try:
            super().finish()
        finally:
            self.request.close()

    def do_GET(self) -> None:
        behaviour, header = self.auth.behaviour, self.headers["Authorization"]
        if behaviour in (SILENT, DRIP):
            self._hang(behaviour == DRIP)
            return
        status, content = self.auth.answer(self.path, header.removeprefix("Bearer "))
        self.auth.calls.append(f"GET {self.path} auth= {header} -> {status}")
        body = b"<html>hello</html>" if behaviour == PAGE else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if behaviour == PAGE else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hang(self, drip: bool) -> None:
        released = self.auth.released
        self.close_connection = True
        if drip:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not released.wait(0.1):
            if drip:
                self.wfile.write(b" ")

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing; tests check ``calls``."""
