"""gunicorn's process of threads, which no client can hold up, and which ends without losing a request."""

from __future__ import annotations

import errno
import logging
import select
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

import orjson
from gunicorn import util
from gunicorn.http import errors
from gunicorn.workers.gthread import _DEFER, TConn, ThreadWorker

from .config import load_settings
from .errors import ErrorBody, shown
from .observe import REQUEST_ID, request_id

LINGER_S = 2.0
"""How long a connection that this side closes waits for the client to have read the answer."""
STATUSES: dict[type[Exception], tuple[int, str]] = {
    errors.LimitRequestLine: (414, "uri_too_long"),
    errors.LimitRequestHeaders: (431, "headers_too_large"),
    errors.UnsupportedTransferCoding: (501, "unsupported_transfer_coding"),
    errors.ExpectationFailed: (417, "expectation_failed"),
    errors.ForbiddenProxyRequest: (403, "forbidden"),
}
"""What is said of requests that are not HTTP as it should be; 400 of all others."""
log = logging.getLogger("l2features.api")


class TimedSocket(socket.socket):
    """A connection's socket, which gives the client so long to send a part of a request, or take an answer.

    A client that takes longer is treated like one that has gone away.
    """

    receive_s = send_s = 60.0
    receive_until: float | None = None
    answering = False

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """The clock runs from the first call after ``receive_until`` was None."""
        now = time.monotonic()
        self.receive_until = self.receive_until or now + self.receive_s
        self.settimeout(max(0.001, self.receive_until - now))
        try:
            return super().recv(bufsize, flags)
        except TimeoutError:
            return b""

    def sendall(self, data: Any, flags: int = 0) -> None:
        self.answering = True
        self.settimeout(self.send_s)
        try:
            super().sendall(data, flags)
        except TimeoutError as error:
            raise BrokenPipeError(errno.EPIPE, "the client does not take its answer") from error


class Connection(TConn):
    """A connection whose end never holds up the thread that accepts others."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.since = time.monotonic()
        self.patience_s = 0.0
        self.finished = False

    def wait_for_data(self, timeout: float) -> bool:
        """A new connection that sends nothing yet goes back to the thread that watches all of them."""
        return bool(super().wait_for_data(min(timeout, self.patience_s)))

    def finish(self) -> None:
        """Close it, once the client has read the answer if there is one; that may not take for ever."""
        self.finished = True
        self.sock.receive_until = time.monotonic() + LINGER_S
        super().close(graceful=self.sock.answering)

    def close(self, graceful: bool = False) -> None:
        if not self.finished:
            super().close(graceful)


class HonestClose:
    """A WSGI application; where it did not read all of a request, its answer says that the connection ends.

    The server would have to receive the rest before it could take another request from that connection; it
    says keep-alive, and finds out only then whether it will.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        def start(*args: Any, **kwargs: Any) -> Any:
            reader = environ["wsgi.input"].reader
            if getattr(reader, "length", 0) or getattr(reader, "parser", None):
                start_response.__self__.force_close()
            return start_response(*args, **kwargs)

        return self.app(environ, start)


class Worker(ThreadWorker):
    """A process with threads.

    When it is told to end, it takes the connections that wait to be accepted, answers them, and only then
    lets go of the port, so that a client is either answered or refused, never cut off.
    """

    def init_process(self) -> None:
        settings = load_settings()
        self.receive_s, self.send_s = settings.body_timeout_s, settings.send_timeout_s
        super().init_process()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.wsgi.wsgi_app = HonestClose(self.wsgi.wsgi_app)

    def accept(self, listener: socket.socket) -> None:
        try:
            plain, address = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EMFILE, errno.ENFILE):
                raise
            return
        client = TimedSocket(fileno=plain.detach())
        client.receive_s, client.send_s = self.receive_s, self.send_s
        self.nr_conns += 1
        self.enqueue_req(Connection(self.cfg, client, address, listener.getsockname()))

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not self.alive:
            self._leave_port()

    def _leave_port(self) -> None:
        """Take what waits at the port, and close this process' part in it."""
        for listener in self.sockets:
            while select.select([listener], [], [], 0)[0]:
                self.accept(listener)
            listener.close()

    def handle(self, conn: Connection) -> Any:
        conn.sock.receive_until, conn.sock.answering = None, False
        result = super().handle(conn)
        if result is _DEFER and not self.alive:
            conn.patience_s = LINGER_S
            result = super().handle(conn)
            result = False if result is _DEFER else result
        if not result:
            conn.finish()
        return result

    def handle_request(self, req: Any, conn: Connection) -> Any:
        conn.sock.receive_until = None
        return super().handle_request(req, conn)

    def finish_request(self, conn: Connection, fs: Future[Any]) -> None:
        if not self.alive and fs.exception() is None and fs.result() is _DEFER:
            self.enqueue_req(conn)
            return
        super().finish_request(conn, fs)
        if not conn.initialized:
            conn.timeout = conn.since + self.receive_s

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answer what is not HTTP as it should be in the form of all errors."""
        malformed = isinstance(exc, errors.ParseException)
        default = (400, "bad_request") if malformed else (500, "internal_error")
        status, code = STATUSES.get(type(exc), default)
        message = shown(str(exc)) if malformed else "an unexpected error; the server's log says more"
        body = ErrorBody(code=code, message=message, request_id=request_id(None))
        fields = {"status": status, "request_id": body.request_id, "client": addr[0] if addr else None}
        if malformed:
            log.warning("not HTTP as it should be: %s", exc, extra=fields)
        else:
            log.error("unexpected error", exc_info=exc, extra=fields)
        content = orjson.dumps(body.model_dump(exclude_none=True))
        head = (
            f"HTTP/1.1 {status} {code}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n{REQUEST_ID}: {body.request_id}\r\n\r\n"
        )
        try:
            util.write(client, head.encode() + content)
        except OSError as error:
            log.debug("the client is gone: %s", error)
