"""Fetch a segmentation's files, and tell a missing file from refused access.

A 403 means either that access is refused, or that the file is missing from a bucket without list permission.
A request for a random name, which cannot exist, tells which: if it gets a 403 too, the file is missing.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

THREADS = 20
"""Maximum number of requests in flight for one read."""
AHEAD = 2 * THREADS
"""Maximum number of files of one read that are fetched in advance."""
MAX_BYTES = 1 << 31
"""Maximum size of a decompressed file in bytes, unless the request names another."""
_SUFFIXES = (("", ""), (".gz", "gzip"), (".br", "br"), (".zstd", "zstd"), (".xz", "xz"), (".bz2", "bz2"))

_GZIP_MAGIC = b"\x1f\x8b"


class Request(NamedTuple):
    """A request for a file of at most ``most`` decompressed bytes, or for bytes ``start`` to ``stop`` - 1."""

    name: str
    start: int | None = None
    stop: int | None = None
    most: int = MAX_BYTES


class FileBytes(NamedTuple):
    """Content of a file; None if the file is missing, fewer bytes than requested if the file ends early.

    ``forbidden`` tells that the server answered 403 for a missing file.
    """

    content: bytes | None
    forbidden: bool = False


MISSING = FileBytes(None)


class StorageError(Exception):
    """A file, named in the message, cannot be fetched. ``code`` is the HTTP status, if a server answered."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class Forbidden(Exception):
    """The server answered 403."""

    code = 403


class Storage(ABC):
    """A folder of files. Callers use `fetch`; a subclass implements `get`, which fetches one file."""

    threads = THREADS

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._absent_is_forbidden: bool | None = None

    @abstractmethod
    def get(self, request: Request) -> FileBytes:
        """Fetch one file. Raises `Forbidden` for a 403, and StorageError or OSError for other failures."""

    def fetch(self, requests: Sequence[Request]) -> Iterator[FileBytes]:
        """Fetch files in the order of the requests. At most `AHEAD` files are fetched in advance."""
        if self.threads == 1 or len(requests) < 2:
            yield from map(self.fetch_one, requests)
            return
        with ThreadPoolExecutor(min(self.threads, len(requests))) as pool:
            try:
                futures = deque(pool.submit(self.fetch_one, request) for request in requests[:AHEAD])
                for request in requests[AHEAD:]:
                    yield futures.popleft().result()
                    futures.append(pool.submit(self.fetch_one, request))
                while futures:
                    yield futures.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def fetch_one(self, request: Request) -> FileBytes:
        """Fetch one file.

        A 403 counts as a missing file if the server also answers 403 for a name that cannot exist. Raises
        StorageError if access is refused, or the file cannot be fetched.
        """
        try:
            return self.get(request)
        except Forbidden as error:
            if self._is_absence(request.name):
                return FileBytes(None, forbidden=True)
            raise StorageError(f"file {request.name}: {error}", error.code) from error

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return the content of a metadata file; None if it is missing, see `fetch_one`.

        Raises StorageError as `fetch_one` does, and ValueError if the file is not a JSON object.
        """
        content, forbidden = self.fetch_one(Request(name, most=1 << 28))
        if content is None or forbidden:
            return None
        try:
            values = json.loads(content)
        except ValueError as error:
            raise ValueError(f"file {name} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"file {name}: expected a JSON object")
        return values

    def needed_json(self, name: str) -> dict[str, Any]:
        """Return the content of a metadata file. Raises StorageError if the file is missing."""
        values = self.read_json(name)
        if values is None:
            raise StorageError(f"file {name} is missing")
        return values

    def _is_absence(self, name: str) -> bool:
        with self._lock:
            if self._absent_is_forbidden is None:
                folder = name.rpartition("/")[0]
                impossible = f"{folder}/{uuid.uuid4().hex}" if folder else uuid.uuid4().hex
                try:
                    self.get(Request(impossible))
                    self._absent_is_forbidden = False
                except Forbidden:
                    self._absent_is_forbidden = True
                except StorageError:
                    return False  # unknown, so the file counts as forbidden
            return self._absent_is_forbidden


class LocalStorage(Storage):
    """A folder on this machine. Its files may be compressed, with a suffix such as .gz."""

    threads = 1

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def get(self, request: Request) -> FileBytes:
        path = os.path.join(self.folder, request.name)
        for suffix, encoding in _SUFFIXES if request.stop is None else _SUFFIXES[:1]:
            try:
                with open(path + suffix, "rb") as file:
                    start, stop = request.start or 0, os.fstat(file.fileno()).st_size
                    stop = stop if request.stop is None else min(request.stop, stop)
                    file.seek(start)
                    content = file.read(max(stop - start, 0))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StorageError(f"file {request.name}: {error.strerror}") from error
            return FileBytes(decompressed(content, encoding, request))
        return MISSING


def decompressed(content: bytes, encoding: str | None, request: Request) -> bytes:
    """Decompress a stored file. Raises StorageError, which names the file, if the content is broken."""
    if not content or not encoding:
        return content
    try:
        if encoding == "gzip":
            return gunzip(content, request.most)
        from cloudfiles.compression import decompress

        return bytes(decompress(content, encoding, request.name))
    except Exception as error:  # decompressors share no base class
        text = str(error) or type(error).__name__
        raise StorageError(f"file {request.name}: broken {encoding} compression: {text}") from error


def gunzip(content: bytes, most: int) -> bytes:
    """Decompress a gzip file to at most ``most`` bytes. The file may have several members, then zeros.

    libdeflate would be faster, but trusts the size at the end of the file, and returns too little if that
    size is wrong.

    Raises:
        ValueError: the file is broken, or too large.
    """
    import deflate

    size = int.from_bytes(content[-4:], "little")
    if content.startswith(_GZIP_MAGIC) and 0 < size <= most:
        with suppress(Exception):  # the slower way below raises the error
            whole = bytes(deflate.gzip_decompress(content))
            if len(whole) == size:
                return whole
    out = bytearray()
    while content.strip(b"\0"):
        stream = zlib.decompressobj(wbits=31)
        try:
            out += stream.decompress(content, most - len(out) + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if len(out) > most:
            raise ValueError(f"expected at most {most} bytes when decompressed")
        if not stream.eof:
            raise ValueError("the gzip stream is cut off")
        content = stream.unused_data
    return bytes(out)


def ranges(requests: Iterable[Request], gap: int = 1 << 14, most: int = 1 << 23) -> list[list[int]]:
    """Group requests for ranges of the same file, and return the indices of the requests in each group.

    Ranges in a group are at most ``gap`` bytes apart, and span at most ``most`` bytes; a larger request is a
    group of its own.

    >>> ranges([Request("a", 0, 5), Request("b", 5, 9), Request("a", 5, 9)])
    [[0, 2], [1]]
    """
    asked = list(requests)
    groups: list[list[int]] = []
    end = 0
    for index in sorted(range(len(asked)), key=lambda i: (asked[i].name, asked[i].start or 0)):
        request = asked[index]
        start, stop = request.start or 0, request.stop or 0
        first = asked[groups[-1][0]] if groups else None
        near = first is not None and first.name == request.name and start <= end + gap
        if near and first is not None and stop - (first.start or 0) <= most:
            groups[-1].append(index)
            end = max(end, stop)
        else:
            groups.append([index])
            end = stop
    return groups
