"""A gRPC server that refuses every call, in place of Google's services."""

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
    """Serve on loopback, and yield the address for an emulator's environment variable."""
    server = grpc.server(ThreadPoolExecutor(2), handlers=(_Refusing(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
