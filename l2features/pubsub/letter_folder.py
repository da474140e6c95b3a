"""Dead letters in a folder, a file of JSON each.

A file's name is made from its message's payload and attributes alone: a message that comes and dies again has
one file still.
"""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..core.errors import ConfigError
from .letter import DeadLetter, DeadLetterError

SUFFIX = ".json"
_ADDRESS = re.compile(r".*://|//|topics/|subscriptions/", re.DOTALL)


class Folder:
    """Dead letters in a folder, a file of JSON each; the folder is made by `check`, or for the first."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def put(self, letter: DeadLetter) -> None:
        """Write a letter's file as a whole, or not at all. Raises DeadLetterError."""
        temporary = self.path / f"{letter.name}-{uuid.uuid4().hex}.part"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with open(temporary, "x") as file:  # with the mode of any new file, which tempfile's have not
                file.write(letter.to_json())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path / f"{letter.name}{SUFFIX}")
            _sync_folder(self.path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise DeadLetterError(f"folder {self.path}: cannot keep a dead letter: {error}") from error

    def check(self) -> None:
        """Make the folder, and see whether letters can be kept there. Raises DeadLetterError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()
        except OSError as error:
            raise DeadLetterError(f"folder {self.path}: cannot keep dead letters: {error}") from error

    def files(self) -> list[Path]:
        """The letters' files, sorted by name; others are passed over. Raises DeadLetterError."""
        if not self.path.is_dir():
            raise DeadLetterError(f"folder {self.path}: there is no such folder")
        return sorted(self.path.glob(f"*{SUFFIX}"))

    def letters(self) -> Iterator[tuple[Path, DeadLetter]]:
        """The letters and their files, sorted by name. Raises DeadLetterError for a file that holds none."""
        for file in self.files():
            yield file, read_letter(file)

    def close(self) -> None:
        """There is nothing to let go of."""


def folder_at(where: str, otherwise: str) -> Folder:
    """A folder. Raises ConfigError, with what else is expected, for an address of something else."""
    if _ADDRESS.match(where):
        raise ConfigError(f"dead letters {where!r}: expected {otherwise}, or a folder of this machine")
    return Folder(where)


def read_letter(file: Path) -> DeadLetter:
    """The dead letter in a file. Raises DeadLetterError."""
    try:
        return DeadLetter.from_json(file.read_bytes())
    except OSError as error:
        raise DeadLetterError(f"{file}: {error.strerror}") from error
    except DeadLetterError as error:
        raise DeadLetterError(f"{file}: {error}") from error


def _sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
