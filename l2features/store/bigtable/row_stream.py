"""Read rows of Bigtable from the raw stream: in concurrent batches, before one deadline, with retries.

Connection, credentials and routing are those of Google's client. Google's decoder, which makes an object per
cell, is used only in installations without numba.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from cachetools import LRUCache
from google.api_core.exceptions import Cancelled, DeadlineExceeded, RetryError, from_grpc_error
from google.api_core.gapic_v1.routing_header import to_grpc_metadata
from google.api_core.retry import Retry
from google.cloud.bigtable.data.row_filters import RowFilter
from google.cloud.bigtable_v2.types import ReadRowsRequest
from grpc import RpcError

from . import calls as client
from .google_rows import GoogleRead
from .row_arrays import AnyCells, BadAnswer, Columns, Decoded, Part

LEAST_KEYS, BATCH_KEYS = 500, 2_500
"""Minimum and maximum keys of a batch; up to the minimum, keys are read by a single request."""
COMPILED = find_spec("numba") is not None
"""Whether streams are decoded by compiled code; otherwise Google's client decodes them."""
CONCURRENT = 4
"""Maximum batches in flight, over all calls of one store. A call's only batch is not counted."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0
_GRACE_S = 0.2
KEPT_FILTERS = 64
"""Maximum filters for which a connection caches a request (LRU)."""
_METHOD = "/google.bigtable.v2.Bigtable/ReadRows"
KeyRange = tuple[bytes, bytes]
"""First and last row key of a range, both included."""
P = TypeVar("P", bound=Part)


@dataclass
class RowsRead(Generic[P]):
    """One ReadRows request and its retries; a retry requests only the rows that were not read yet.

    ``until`` is the deadline by `time.monotonic`. ``request`` must name keys or ranges. The concurrent reads
    of a `Connection` method call share the lock ``turn``: only one read at a time takes messages from gRPC,
    which meanwhile receives those of the other reads. Without the lock, the threads would contend for the GIL
    at every message.
    """

    table: Any
    request: Any
    decode: Callable[[Sequence[bytes]], P]
    until: float
    turn: threading.Lock
    parts: list[P] = field(default_factory=list)
    _call: Any = None
    _cancelled: bool = False

    def run(self) -> list[P]:
        """Return the rows as a list of `Part`, one for each attempt.

        Raises BadAnswer for a malformed response, and GoogleAPIError after the last retry.
        """
        left = max(0.0, self.until - time.monotonic())
        failures: list[Exception] = []
        retry = Retry(
            client.is_transient,
            initial=FIRST_PAUSE_S,
            maximum=LONGEST_PAUSE_S,
            multiplier=2,
            timeout=left,
            on_error=failures.append,
        )
        try:
            retry(self._attempt)()
        except RetryError as error:
            raise error from client.most_telling(failures)
        return self.parts

    def cancel(self) -> None:
        """Cancel `run`, which another thread is executing."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()

    def _attempt(self) -> None:
        messages: list[bytes] = []
        failure: Exception | None = None
        try:
            call = self._open()
            with self.turn:
                for message in call:
                    messages.append(message)
        except RpcError as error:
            failure = from_grpc_error(error)
        try:
            part = self.decode(messages)
        except ValueError as error:
            raise BadAnswer(str(error)) from error
        self.parts.append(part)
        if failure is None and not part.whole:
            raise BadAnswer("the response to ReadRows ends within a row: expected a committed row")
        if failure is not None and self._ask_for_the_rest(part):
            raise failure

    def _open(self) -> Any:
        if self._cancelled:
            raise Cancelled("another request of the same call failed")
        google = self.table.client
        routing = {"table_name": self.table.table_name, "app_profile_id": self.table.app_profile_id or ""}
        metadata = [to_grpc_metadata(routing), google.client_info.to_grpc_metadata()]
        method = google.transport.grpc_channel.unary_stream(_METHOD)
        timeout = max(0.0, min(client.ATTEMPT_TIMEOUT_S, self.until - time.monotonic()))
        self._call = method(self.request.SerializeToString(), timeout=timeout, metadata=metadata)
        if self._cancelled:  # meanwhile
            self._call.cancel()
        return self._call

    def _ask_for_the_rest(self, done: P) -> bool:
        """Remove the rows in ``done`` from the request; return False if no rows are left to request."""
        rows, last = self.request.rows, done.last_key
        if self.request.rows_limit:
            self.request.rows_limit -= done.committed
            if self.request.rows_limit <= 0:
                return False
        if last:
            keys = [key for key in rows.row_keys if key > last]
            del rows.row_keys[:]
            rows.row_keys.extend(keys)
            ranges = [
                part for part in rows.row_ranges if not part.end_key_closed or part.end_key_closed > last
            ]
            for part in ranges:
                if last >= (part.start_key_closed or part.start_key_open):
                    part.start_key_open = last
            del rows.row_ranges[:]
            rows.row_ranges.extend(ranges)
        return bool(rows.row_keys or rows.row_ranges)


class Connection:
    """Connection to one Bigtable table through Google's client, with a thread pool for concurrent reads."""

    def __init__(self, project: str, instance: str, name: str, deadline_s: float) -> None:
        self.pid, self.deadline_s = os.getpid(), deadline_s
        self.table = client.open_table(project, instance, name, deadline_s=deadline_s)
        self._pool = ThreadPoolExecutor(CONCURRENT, thread_name_prefix="read-rows")
        self._compiled = COMPILED
        self._decoder: Any = import_module(".decoded" if COMPILED else ".google_rows", __package__)
        self._requests: LRUCache[str, Any] = LRUCache(KEPT_FILTERS)
        self._requesting = threading.Lock()

    def read_keys(
        self, keys: Sequence[bytes], columns: Columns, row_filter: RowFilter, until: float | None = None
    ) -> list[Decoded]:
        """Return the rows with these sorted, unique keys, in no particular order.

        ``until`` is the deadline by `time.monotonic`; the default is ``deadline_s`` from now.
        """
        return self._read_keys(keys, self.rows_of(columns), row_filter, until)

    def read_cells(
        self, keys: Sequence[bytes], row_filter: RowFilter, prefix: bytes = b"", until: float | None = None
    ) -> list[AnyCells]:
        """Return all cells of the rows with these sorted, unique keys, in no particular order of rows.

        ``prefix`` precedes the ids in the keys. ``until`` is the deadline by `time.monotonic`; the default is
        ``deadline_s`` from now.
        """
        return self._read_keys(keys, self.cells(prefix), row_filter, until)

    def _read_keys(
        self,
        keys: Sequence[bytes],
        decode: Callable[[Any], P],
        row_filter: RowFilter,
        until: float | None,
    ) -> list[P]:
        until = time.monotonic() + self.deadline_s if until is None else until
        reads, turn = [], threading.Lock()
        size = min(max(LEAST_KEYS, -(-len(keys) // CONCURRENT)), BATCH_KEYS)
        for start in range(0, len(keys), size):
            read = self._read(decode, row_filter, until, turn)
            read.request.rows.row_keys.extend(keys[start : start + size])
            reads.append(read)
        return [part for parts in self._run(reads, until) for part in parts]

    def rows_of(self, columns: Columns) -> Callable[[Any], Decoded]:
        """Return the function that decodes the rows of a response; it keeps only these columns."""
        return partial(self._decoder.decode, columns=columns)

    def cells(self, prefix: bytes = b"") -> Callable[[Any], AnyCells]:
        """Return the function that decodes all cells of a response; ``prefix`` precedes ids in row keys."""
        return partial(self._decoder.decode_cells, prefix=prefix)

    def read_first(
        self, ranges: Sequence[KeyRange], decode: Callable[[Any], P], row_filter: RowFilter, limit: int
    ) -> list[P]:
        """Return the first ``limit`` rows with keys in ``ranges``, sorted by key.

        ``decode`` is a result of `rows_of` or `cells`.
        """
        read = self._read(decode, row_filter, time.monotonic() + self.deadline_s)
        read.request.rows_limit = limit
        for first, last in ranges:
            read.request.rows.row_ranges.add(start_key_closed=first, end_key_closed=last)
        return read.run()

    def read_ranges(
        self,
        batches: Sequence[Sequence[KeyRange]],
        decode: Callable[[Any], P],
        row_filter: RowFilter,
        deadline_s: float,
    ) -> Iterator[P]:
        """Yield the rows of each batch of key ranges; the batches come in no particular order.

        Each batch becomes one request. A batch must not be empty, and its ranges must ascend and not overlap.
        Requests run in groups of `CONCURRENT`; each group must be answered within ``deadline_s``.
        ``decode`` is a result of `rows_of` or `cells`.
        """
        turn = threading.Lock()
        for start in range(0, len(batches), CONCURRENT):
            until, reads = time.monotonic() + deadline_s, []
            for batch in batches[start : start + CONCURRENT]:
                read = self._read(decode, row_filter, until, turn)
                for first, last in batch:
                    read.request.rows.row_ranges.add(start_key_closed=first, end_key_closed=last)
                reads.append(read)
            for parts in self._run(reads, until):
                yield from parts

    def read_pages(
        self, first: bytes, end: bytes, columns: Columns, row_filter: RowFilter, limit: int
    ) -> Iterator[list[Decoded]]:
        """Yield the rows with keys between ``first`` and ``end``, both excluded, in pages of up to ``limit``.

        The connection's deadline holds for each page.
        """
        return self._pages(first, end, self.rows_of(columns), row_filter, limit)

    def read_cell_pages(
        self, first: bytes, end: bytes, row_filter: RowFilter, limit: int, prefix: bytes = b""
    ) -> Iterator[list[AnyCells]]:
        """Yield all cells of the rows with keys between ``first`` and ``end``, both excluded.

        A page has the cells of up to ``limit`` rows. ``prefix`` precedes the ids in the row keys. The
        connection's deadline holds for each page.
        """
        return self._pages(first, end, self.cells(prefix), row_filter, limit)

    def _pages(
        self, first: bytes, end: bytes, decode: Callable[[Any], P], row_filter: RowFilter, limit: int
    ) -> Iterator[list[P]]:
        while True:
            read = self._read(decode, row_filter, time.monotonic() + self.deadline_s)
            read.request.rows_limit = limit
            read.request.rows.row_ranges.add(start_key_open=first, end_key_open=end)
            page = read.run()
            yield page
            if sum(part.committed for part in page) < limit:
                return
            first = max(part.last_key for part in page)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.table.client.close()

    def _read(
        self,
        decode: Callable[[Any], P],
        row_filter: RowFilter,
        until: float,
        turn: threading.Lock | None = None,
    ) -> RowsRead[P] | GoogleRead[P]:
        request = self._request(row_filter)
        if self._compiled:
            return RowsRead(self.table, request, decode, until, turn or threading.Lock())
        return GoogleRead(self.table, request, decode, until, row_filter)

    def _request(self, row_filter: RowFilter) -> Any:
        """Return a request that names no rows yet. Copy a cached one: building a new one takes 0.5 ms."""
        with self._requesting:
            kept = self._requests.get(repr(row_filter))
            if kept is None:
                kept = self._requests[repr(row_filter)] = ReadRowsRequest.pb(
                    ReadRowsRequest(
                        table_name=self.table.table_name,
                        app_profile_id=self.table.app_profile_id or "",
                        filter=row_filter._to_pb(),
                    )
                )
        request = type(kept)()
        request.CopyFrom(kept)
        return request

    def _run(self, reads: list[RowsRead[P] | GoogleRead[P]], until: float) -> list[list[P]]:
        """Run the reads; return each one's `Part`s. If one fails, cancel the others and raise its error."""
        if len(reads) < 2:
            return [read.run() for read in reads]
        futures: list[Future[list[P]]] = [self._pool.submit(read.run) for read in reads]
        try:
            wait(futures, max(0.0, until - time.monotonic()) + _GRACE_S, FIRST_EXCEPTION)
            for future in futures:  # a later one may have failed because an earlier one took its time
                if future.done():
                    future.result()
            if late := sum(not future.done() for future in futures):
                raise DeadlineExceeded(f"{late} of {len(reads)} batches were not answered in time")
            return [future.result() for future in futures]
        finally:
            for read, future in zip(reads, futures, strict=True):
                if not future.cancel() and not future.done():
                    read.cancel()
