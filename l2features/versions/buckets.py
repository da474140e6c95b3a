"""What pyarrow cannot do in a bucket of Cloud Storage: list folders, create files, read beside other threads.

Its listing of a folder leaves out the folders in it, unless an object stands for each. When it opens a file,
it requests all of it, and holds the GIL until the answer begins. Paths are ``bucket/name``. All
functions raise OSError.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ..core.extras import naming_extras

_GLOBBING = re.compile(r"[*?\[\]{}\\]")
EMULATOR = "STORAGE_EMULATOR_HOST"
"""The environment variable with an emulator's URL, which Google's library reads."""


def names(path: str) -> list[str]:
    """Return the sorted names of files and folders in a folder; none where it does not exist."""
    bucket, prefix = _split(path)
    with _errors():
        found = _client().list_blobs(bucket, prefix=prefix, delimiter="/")
        listed = {blob.name for blob in found} | set(found.prefixes)
    return sorted({name.removeprefix(prefix).rstrip("/") for name in listed} - {""})


def folders_with(path: str, name: str) -> list[str]:
    """Return the sorted names of the folders in a folder that have a file of this name."""
    bucket, prefix = _split(path)
    with _errors():
        glob = f"{_GLOBBING.sub(_escaped, prefix)}*/{name}"
        found = [blob.name for blob in _client().list_blobs(bucket, prefix=prefix, match_glob=glob)]
    return sorted(each.removeprefix(prefix).partition("/")[0] for each in found)


def create(path: str, content: bytes) -> bool:
    """Write a file unless it exists; return whether it was written. Of two writers only one succeeds."""
    bucket, _, name = path.partition("/")
    with _errors():
        from google.api_core.exceptions import PreconditionFailed

        try:
            _client().bucket(bucket).blob(name).upload_from_string(content, if_generation_match=0)
        except PreconditionFailed:
            return False
    return True


class BucketFile(io.RawIOBase):
    """A file open for reading at any place; each read is a request for that range.

    Raises FileNotFoundError where it does not exist.
    """

    def __init__(self, path: str) -> None:
        bucket, _, name = path.partition("/")
        with _errors():
            self._blob = _client().bucket(bucket).get_blob(name)
        if self._blob is None:
            raise FileNotFoundError(path)
        self._size, self._at = int(self._blob.size), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"position {at}: expected 0 or more")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size)
        if stop <= self._at:
            return 0
        with _errors():
            found = self._blob.download_as_bytes(start=self._at, end=stop - 1, checksum=None)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def readall(self) -> bytes:
        return self.read(max(0, self._size - self._at)) or b""


def _escaped(found: re.Match[str]) -> str:
    return rf"\{found[0]}"


def _split(path: str) -> tuple[str, str]:
    """Return the bucket of a folder, and what the names of its objects begin with."""
    bucket, _, name = path.partition("/")
    return bucket, f"{name.rstrip('/')}/" if name else ""


@cache
def _client() -> Any:
    from google.cloud import storage

    return storage.Client(project=None)  # buckets need none, and credentials may have none


@contextmanager
def _errors() -> Iterator[None]:
    with naming_extras():
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import storage  # noqa: F401
    try:
        yield
    except (GoogleAPIError, GoogleAuthError) as error:
        raise OSError(str(error)) from error
