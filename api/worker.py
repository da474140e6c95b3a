"""gunicorn's process of threads, which no client can hold up, and which ends without losing a request."""

from __future__ import annotations

import errno
import logging
import re
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

import orjson
from gunicorn import util
from gunicorn.http import errors
from gunicorn.workers.gthread import TConn, ThreadWorker

from .config import load_settings
from .errors import ErrorBody, shown
from .observe import REQUEST_ID, request_id

LINGER_S = 2.0
"""How long a connection that this side closes waits for the client to have read the answer."""
MAX_HEAD, MAX_DRAIN = 1 << 15, 1 << 20
"""Bytes of a request's head, and of what is dropped after an answer."""
TOO_LARGE = errors.LimitRequestHeaders(f"the head of a request may have {MAX_HEAD} bytes")
_ENDS = re.compile(rb"\n\r?\n")
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
    """A connection that says whether a request can be read from it without waiting for the client."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.head_until: float | None = None
        """When the head that is being awaited must have come."""
        self.seen = self.drained = 0
        self.too_large = False

    def head_is_there(self) -> bool:
        """Whether a whole head has come, or all that will come; if not, the socket is ready when more has."""
        head = self.parser.unreader.buf.getvalue() if self.parser else b""
        self.sock.setblocking(False)
        waiting = None
        try:
            waiting = socket.socket.recv(self.sock, MAX_HEAD, socket.MSG_PEEK)
        except BlockingIOError:
            pass
        except OSError:
            return True
        head += waiting or b""
        nothing_follows = waiting is not None and len(head) == self.seen
        self.seen = len(head)
        if nothing_follows or waiting == b"" or _ENDS.search(head):
            return True
        self.too_large = len(head) >= MAX_HEAD
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(waiting or b"") + 1)
        return self.too_large

    def take_head(self) -> None:
        """To be called before it is read from."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        self.head_until, self.seen, self.data_ready = None, 0, True

    def end_answer(self) -> None:
        """Tell the client that nothing follows."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def discard(self) -> bool:
        """Drop what the client still sends; whether there may be more."""
        try:
            data = socket.socket.recv(self.sock, MAX_HEAD)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.drained += len(data)
        return bool(data) and self.drained < MAX_DRAIN

    def close(self, graceful: bool = False) -> None:
        super().close()


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
    """A process with threads, each of which has a whole head of a request before it begins.

    One thread watches the connections of clients that have not sent a head, or not read their answer; were
    threads to wait for them, a few slow clients would keep all others from being served.

    When it is told to end, it takes the connections that wait to be accepted, answers them, and only then
    lets go of the port, so that a client is either answered or refused, never cut off.
    """

    at_once = False
    """Whether it ends without waiting for the requests that it has begun."""

    def init_process(self) -> None:
        settings = load_settings()
        self.receive_s, self.send_s = settings.body_timeout_s, settings.send_timeout_s
        super().init_process()

    def handle_quit(self, sig: int, frame: Any) -> None:
        """End at once, without the locks of what the signal interrupts.

        Ctrl-C comes twice, from the terminal and from the master: once is enough.
        """
        for name in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(name, signal.SIG_IGN)
        self.alive, self.at_once = False, True
        sys.exit(0)

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

    def enqueue_req(self, conn: Connection) -> None:
        """Hand a connection to a thread, now or when the head of a request is there."""
        if conn.head_is_there():
            conn.take_head()
            super().enqueue_req(conn)
            return
        patience = self.receive_s if self.alive else LINGER_S
        conn.head_until = conn.head_until or time.monotonic() + patience
        self._watch(conn, conn.head_until, self.on_pending_socket_readable)

    def _watch(self, conn: Connection, until: float, then: Callable[..., None]) -> None:
        conn.timeout = until
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(then, conn))

    def murder_pending(self) -> None:
        """Close the connections that have been watched for too long, in whatever order they stand."""
        now = time.monotonic()
        for conn in [conn for conn in self.pending_conns if conn.timeout <= now]:
            conn.discard()  # what was received and not read would make the end look like a failure
            self._close_watched(conn)

    def _close_watched(self, conn: Connection) -> None:
        self.poller.unregister(conn.sock)
        self.pending_conns.remove(conn)
        self.nr_conns -= 1
        conn.close()

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            self._leave_port()

    def _leave_port(self) -> None:
        """Take what waits at the port, and close this process' part in it."""
        for listener in self.sockets:
            while select.select([listener], [], [], 0)[0]:
                self.accept(listener)
            listener.close()
        self.sockets: list[Any] = []
        soon = time.monotonic() + LINGER_S
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, soon)
            conn.head_until = conn.timeout

    def handle(self, conn: Connection) -> Any:
        conn.sock.receive_until, conn.sock.answering = None, False
        if conn.too_large:
            self.handle_error(None, conn.sock, conn.client, TOO_LARGE)
        result = False if conn.too_large else super().handle(conn)
        if not result:
            conn.end_answer()
        return result

    def handle_request(self, req: Any, conn: Connection) -> Any:
        conn.sock.receive_until = None
        return super().handle_request(req, conn)

    def finish_request(self, conn: Connection, fs: Future[Any]) -> None:
        """Keep the connection for more requests, or close it once the client has read its answer."""
        if fs.cancelled() or fs.exception() or fs.result() or not conn.sock.answering:
            super().finish_request(conn, fs)
            return
        conn.sock.setblocking(False)
        self._watch(conn, time.monotonic() + LINGER_S, self._discard)

    def _discard(self, conn: Connection, _client: Any) -> None:
        if not conn.discard():
            self._close_watched(conn)

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
