"""Folders of files on a disk or in a bucket, by URL: an absolute path, ``file:///…`` or ``gs://…``."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pa_fs
from pydantic import BaseModel, ValidationError

from ..config.datasets import emulator_address
from ..core.errors import ConfigError, UnknownFormat, VersionError
from ..store.formats import check_version
from . import bucket_files

Model = TypeVar("Model", bound=BaseModel)
EXPECTED = "an absolute path, file:///… or gs://bucket/path"
_SCHEMES = ("file", "gs")


class Format(BaseModel):
    """The format number in a JSON file."""

    format: int


class Folder:
    """A folder; paths are relative to it, with ``/`` between their parts.

    The folder need not exist; it is created when a file is written. Every method raises VersionError if the
    folder cannot be reached, read or written.
    """

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        if not (url.startswith("/") or (scheme in _SCHEMES and rest.strip("/"))):
            raise ConfigError(f"folder {url!r}: expected {EXPECTED}")
        self.url = url.rstrip("/")
        with self._errors("open", ""):
            self._files, path = _file_system(self.url)
        self._base = PurePosixPath(path)

    @property
    def local(self) -> Path | None:
        """The folder on this machine; None for a bucket."""
        return Path(self._base) if isinstance(self._files, pa_fs.LocalFileSystem) else None

    def names(self, path: str = "") -> list[str]:
        """Return the sorted names in a subfolder; none if the subfolder does not exist."""
        local = self.local
        with self._errors("list", path):
            if local is None:
                return bucket_files.names(self._path(path))
            with suppress(FileNotFoundError):
                return sorted(os.listdir(local / path))
            return []

    def folders_with(self, name: str) -> list[str]:
        """Return the sorted names of the subfolders that have a file of this name."""
        if self.local:
            return [folder for folder in self.names() if self.exists(f"{folder}/{name}")]
        with self._errors("list", ""):
            return bucket_files.folders_with(self._path(""), name)

    def exists(self, path: str) -> bool:
        """Return whether a file or folder exists."""
        with self._errors("read", path):
            return bool(self._files.get_file_info(self._path(path)).type != pa_fs.FileType.NotFound)

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes; None if the file does not exist."""
        with self._errors("read", path):
            size: int | None = self._files.get_file_info(self._path(path)).size
            return size

    def is_folder(self, path: str) -> bool:
        """Return whether a subfolder exists."""
        with self._errors("read", path):
            return bool(self._files.get_file_info(self._path(path)).type == pa_fs.FileType.Directory)

    def read(self, path: str) -> bytes | None:
        """Return the content of a file; None if the file does not exist."""
        with self._errors("read", path):
            try:
                with self._files.open_input_stream(self._path(path)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

    def read_model(self, path: str, model: type[Model], newest: int, problem: str) -> Model | None:
        """Parse a JSON file that states its ``format``; None if the file does not exist.

        Raises VersionError for a format above ``newest``, and for a malformed file. The message for a
        malformed file is the file's URL and ``problem``.
        """
        content, where = self.read(path), f"{self.url}/{path}"
        if content is None:
            return None
        try:
            check_version(Format.model_validate_json(content).format, newest, where)
            return model.model_validate_json(content)
        except ValidationError as error:
            raise VersionError(f"{where} {problem}") from error
        except UnknownFormat as error:
            raise VersionError(str(error)) from error

    def read_record(self, path: str, model: type[Model]) -> Model | None:
        """Parse a JSON file that a job wrote; None if the file does not exist or is malformed."""
        content = self.read(path)
        try:
            return None if content is None else model.model_validate_json(content)
        except ValidationError:
            return None

    def check_size(self, path: str, expected: int) -> None:
        """Raise VersionError if a file is missing, or has another size than ``expected`` bytes."""
        if (size := self.size(path)) != expected:
            found = "is missing" if size is None else f"has {size} bytes"
            raise VersionError(f"{self.url}/{path} {found}: expected {expected} bytes")

    def open(self, path: str) -> Any:
        """Open a file for reading at any position, as a `pyarrow.NativeFile`."""
        with self._errors("open", path):
            if self.local is None:
                return pa.PythonFile(bucket_files.open_file(self._path(path)), "r")
            return self._files.open_input_file(self._path(path))

    def dataset(self, paths: Sequence[str], schema: Any) -> Any:
        """Return Parquet files as a `pyarrow.dataset.Dataset`, read lazily."""
        import pyarrow.dataset as pa_dataset

        with self._errors("open", paths[0]):
            files = [self._path(path) for path in paths]
            return pa_dataset.dataset(files, schema, format="parquet", filesystem=self._files)

    @contextmanager
    def writing(self, path: str) -> Iterator[Any]:
        """Yield a binary stream to a file. The file appears, or is replaced, only at the end of the block.

        If the block raises, nothing changes on a disk, but a bucket keeps the incomplete file.
        """
        local = self.local
        with self._errors("write", path):
            if local is None:
                with self._files.open_output_stream(self._path(path)) as stream:
                    yield stream
                return
            with _temporary(local / path) as (file, name):
                yield file
                _sync(file)
                os.replace(name, local / path)

    def write(self, path: str, content: bytes) -> None:
        """Write a file, or replace it."""
        with self.writing(path) as stream:
            stream.write(content)

    def create(self, path: str, content: bytes) -> bool:
        """Write a file unless it exists; return whether it was written. Only one of many writers succeeds."""
        local = self.local
        with self._errors("write", path):
            if local is None:
                return bucket_files.create(self._path(path), content)
            with _temporary(local / path) as (file, name):
                file.write(content)
                _sync(file)
                try:
                    os.link(name, local / path)
                except FileExistsError:
                    return False
        return True

    @contextmanager
    def locked(self, path: str) -> Iterator[bool]:
        """Hold a file lock during the block; yield False if another process holds the lock.

        The lock is also released when the process exits. For a bucket, which has no locks, yields True.
        """
        local = self.local
        if local is None:
            yield True
            return
        with self._errors("lock", path):
            file = (local / path).open("rb")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def delete(self, path: str) -> None:
        """Delete a file; a missing file is no error."""
        with self._errors("delete", path), suppress(FileNotFoundError):
            self._files.delete_file(self._path(path))

    def delete_folder(self, path: str) -> None:
        """Delete a folder and its content; a missing folder is no error."""
        with self._errors("delete", path), suppress(FileNotFoundError):
            if self.is_folder(path):  # a bucket has another error for one that does not exist
                self._files.delete_dir(self._path(path))

    def _path(self, path: str) -> str:
        return str(self._base / path)

    @contextmanager
    def _errors(self, what: str, path: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            where = f"{self.url}/{path}".rstrip("/")
            raise VersionError(f"cannot {what} {where}: {error}") from error


@contextmanager
def _temporary(target: Path) -> Iterator[tuple[Any, Path]]:
    """Yield a new file in the target's folder, and its path. The file is deleted at the end of the block."""
    target.parent.mkdir(parents=True, exist_ok=True)
    name = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        with name.open("xb") as file:
            yield file, name
    finally:
        name.unlink(missing_ok=True)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _file_system(url: str) -> tuple[Any, str]:
    """Return the file system, and the path of a folder in it."""
    if url.startswith("gs://") and (host := emulator_address(bucket_files.EMULATOR)):
        scheme, _, address = host.rpartition("://")
        emulated = pa_fs.GcsFileSystem(anonymous=True, endpoint_override=address, scheme=scheme or "http")
        return emulated, url.removeprefix("gs://")
    found: tuple[Any, str] = pa_fs.FileSystem.from_uri(url)
    return found
