"""A stand-in for Google's services that refuses every call."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc


class _Refusing(grpc.GenericRpcHandler):
    def service(self, details: Any) -> Any:
        def refuse(_: Any, context: Any) -> Iterator[bytes]:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no access for you")
            yield b""

        return grpc.stream_stream_rpc_method_handler(refuse)


@contextmanager
def refusing() -> Iterator[str]:
    """Serve on loopback; yields the address, for the variable of an emulator."""
    server = grpc.server(ThreadPoolExecutor(2), handlers=(_Refusing(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
