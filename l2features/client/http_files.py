"""A pyarrow file system for files at URLs. It reads parts of files by HTTP range requests."""

from __future__ import annotations

import atexit
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn
from weakref import WeakSet

import pyarrow as pa
import pyarrow.dataset as pa_dataset
import pyarrow.fs as pa_fs
import requests

from ..core.errors import ConfigError
from ..versions.manifest import Manifest

TIMEOUT_S = (10.0, 60.0)
CLOSED_S = 10.0
"""Maximum seconds for which an exiting program waits until Arrow has closed its files."""


class FilePlace(NamedTuple):
    """URL of a file, and its size in bytes."""

    url: str
    size: int


class VersionUrls:
    """A `versions.sql.Files`: reads the files of a version at the URLs that a server publishes.

    Requests carry no token. Raises ConfigError if the server publishes no URLs.
    """

    local = None

    def __init__(self, where: str, manifest: Manifest, urls: Mapping[str, str | None]) -> None:
        sizes = {file.path: file.bytes for layer in manifest.layers for file in layer.files}
        if any(urls.get(path) is None for path in sizes):
            raise ConfigError(
                f"{where} publishes no file URLs for version {manifest.number}: open the data sets file "
                "instead of the server, or ask its operator to set L2CACHE_PUBLIC_URL"
            )
        places = {path: FilePlace(str(urls[path]), size) for path, size in sizes.items()}
        self._files = pa_fs.PyFileSystem(_RangeFiles(places))

    def dataset(self, paths: Sequence[str], schema: Any) -> Any:
        return pa_dataset.dataset(list(paths), schema, format="parquet", filesystem=self._files)


class _OpenFiles:
    """The files that Arrow has open. `end` runs when the program exits.

    Arrow reads ahead in its own threads, even after a query has ended by LIMIT or an error. If such a thread
    calls Python while the interpreter shuts down, the process aborts.
    """

    def __init__(self) -> None:
        self._files: WeakSet[_RangeFile] = WeakSet()
        self.ended = False
        atexit.register(self.end)

    def add(self, file: _RangeFile) -> None:
        self._files.add(file)

    def end(self) -> None:
        """Refuse further reads, and wait until Arrow has closed the files, for `CLOSED_S` at most."""
        self.ended, until = True, time.monotonic() + CLOSED_S
        while len(self._files) and time.monotonic() < until:
            time.sleep(0.01)


class _RangeFile(io.RawIOBase):
    """A file at a URL, open for reading; each read is an HTTP request."""

    def __init__(self, session: requests.Session, opened: _OpenFiles, place: FilePlace) -> None:
        self._session, self._opened, self._place, self._at = session, opened, place, 0
        opened.add(self)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._place.size}[whence]
        self._at = start + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return up to ``size`` bytes from the current position, all that are left by default.

        Raises OSError.
        """
        left = max(0, self._place.size - self._at)
        count = left if size is None or size < 0 else min(size, left)
        if not count:
            return b""
        if self._opened.ended:
            raise OSError(f"{self._place.url}: not read, because the program is exiting")
        headers = {"Range": f"bytes={self._at}-{self._at + count - 1}", "Accept-Encoding": "identity"}
        answer = self._session.get(self._place.url, headers=headers, timeout=TIMEOUT_S, stream=True)
        with answer:
            if answer.status_code != 206:
                what = f"{self._place.url}: HTTP {answer.status_code} {answer.reason}"
                raise OSError(f"{what}: expected HTTP 206 (partial content)")
            content = answer.content
        if len(content) != count:
            raise OSError(
                f"{self._place.url}: received {len(content)} bytes from byte {self._at} on, expected {count}"
            )
        self._at += count
        return content


class _RangeFiles(pa_fs.FileSystemHandler):  # type: ignore[misc]
    """A read-only file system of pyarrow: its files are at known URLs."""

    def __init__(self, places: Mapping[str, FilePlace]) -> None:
        self._places, self._session, self._opened = places, requests.Session(), _OpenFiles()

    def get_type_name(self) -> str:
        return "http ranges"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: Sequence[str]) -> list[Any]:
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: Any) -> list[Any]:
        return [self._info(path) for path in self._places if path.startswith(selector.base_dir)]

    def open_input_file(self, path: str) -> Any:
        if path not in self._places:
            raise FileNotFoundError(path)
        return pa.PythonFile(_RangeFile(self._session, self._opened, self._places[path]), mode="r")

    open_input_stream = open_input_file

    def _info(self, path: str) -> Any:
        if path not in self._places:
            return pa_fs.FileInfo(path, pa_fs.FileType.NotFound)
        return pa_fs.FileInfo(path, pa_fs.FileType.File, size=self._places[path].size)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise PermissionError("files at URLs can only be read")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    delete_file = move = copy_file = open_output_stream = open_append_stream = _refuse
