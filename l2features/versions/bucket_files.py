"""What pyarrow cannot do in Cloud Storage: list folders, create a file unless it exists, read in threads.

pyarrow lists a folder only if the bucket has an object with the folder's name. To open a file, pyarrow
requests the whole file, and holds the GIL until the response begins. Paths are ``bucket/name``. A request
that fails raises OSError.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ..core.extras import naming_extras

CHUNK_BYTES = 1 << 18
"""Minimum size of a request for a part of a file."""
_GLOBBING = re.compile(r"[*?\[\]{}\\]")
EMULATOR = "STORAGE_EMULATOR_HOST"
"""Environment variable with the URL of an emulator; Google's library reads it."""


def names(path: str) -> list[str]:
    """Return the sorted names of files and folders in a folder; none if the folder does not exist."""
    bucket, prefix = _split(path)
    with _errors():
        found = _client().list_blobs(bucket, prefix=prefix, delimiter="/")
        listed = {blob.name for blob in found} | set(found.prefixes)
    return sorted({name.removeprefix(prefix).rstrip("/") for name in listed} - {""})


def folders_with(path: str, name: str) -> list[str]:
    """Return the sorted names of those subfolders of ``path`` that have a file ``name``."""
    bucket, prefix = _split(path)
    with _errors():
        glob = _GLOBBING.sub(r"\\\g<0>", prefix) + f"*/{name}"
        found = [blob.name for blob in _client().list_blobs(bucket, prefix=prefix, match_glob=glob)]
    return sorted(each.removeprefix(prefix).partition("/")[0] for each in found)


def create(path: str, content: bytes) -> bool:
    """Write a file unless it exists; return whether it was written. Only one of many writers succeeds."""
    bucket, _, name = path.partition("/")
    with _errors():
        from google.api_core.exceptions import PreconditionFailed

        try:
            _client().bucket(bucket).blob(name).upload_from_string(content, if_generation_match=0)
        except PreconditionFailed:
            return False
    return True


def open_file(path: str) -> Any:
    """Open a file for reading at any position. Raises FileNotFoundError if the file does not exist."""
    bucket, _, name = path.partition("/")
    with _errors():
        blob = _client().bucket(bucket).get_blob(name)
    if blob is None:
        raise FileNotFoundError(path)
    return _reader()(blob, chunk_size=CHUNK_BYTES)


@cache
def _reader() -> Any:
    """Return Google's class of readable files, with errors turned into OSError."""
    from google.cloud.storage.fileio import BlobReader

    class Reader(BlobReader):  # type: ignore[misc]
        def read(self, size: int = -1) -> bytes:
            with _errors():
                found: bytes = super().read(size)
            return found

    return Reader


def _split(path: str) -> tuple[str, str]:
    """Return the bucket of a folder, and the prefix of its objects' names."""
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
