"""Dead letters in a folder, one JSON file each.

A file's name is a digest of the payload and the attributes. So there is one file for a message, even if the
message is redelivered and refused again.
"""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ..core.errors import ConfigError
from .letter import DeadLetter, DeadLetterError

SUFFIX = ".json"
ALL = ("",)
_ADDRESS = re.compile(r".*://|//|topics/|subscriptions/", re.DOTALL)


class LetterFolder:
    """A folder of dead letters. `check` or the first `put` creates the folder."""

    def __init__(self, path: str | os.PathLike[str], limit: int | None = None) -> None:
        self.path, self.limit, self.limited = Path(path), limit, False
        self.unread: list[str] = []

    def put(self, letter: DeadLetter) -> None:
        """Write a letter atomically and durably. Raises DeadLetterError if it cannot be written."""
        temporary = self.path / f"{letter.name}-{uuid.uuid4().hex}.part"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with open(temporary, "x") as file:  # tempfile would make it readable for its owner only
                file.write(letter.to_json())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path / f"{letter.name}{SUFFIX}")
            _sync_folder(self.path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise DeadLetterError(f"folder {self.path}: cannot write a dead letter: {error}") from error

    def check(self) -> None:
        """Create the folder. Raises DeadLetterError if no letter can be written to the folder."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()
        except OSError as error:
            raise DeadLetterError(f"folder {self.path}: cannot write dead letters: {error}") from error

    def letters(self, prefixes: Sequence[str] = ALL) -> Iterator[tuple[str, DeadLetter]]:
        """Yield pairs (name, letter), sorted by name, for the names that begin with one of ``prefixes``.

        Stops after ``self.limit`` letters, unless it is None. Skips files that are not dead letters, and adds
        their errors to ``self.unread``. Raises DeadLetterError if the folder is missing.
        """
        if not self.path.is_dir():
            raise DeadLetterError(f"folder {self.path} does not exist: expected a folder of dead letters")
        count = 0
        self.limited = False
        for file in sorted(self.path.glob(f"*{SUFFIX}")):
            if not file.stem.startswith(tuple(prefixes)):
                continue
            if count == self.limit:
                self.limited = True
                return
            try:
                letter = read_letter(file)
            except DeadLetterError as error:
                if str(error) not in self.unread:
                    self.unread.append(str(error))
                continue
            count += 1
            yield file.stem, letter

    def remove(self, name: str) -> None:
        """Remove a letter's file, if it exists. Raises DeadLetterError if it cannot be removed."""
        file = self.path / f"{name}{SUFFIX}"
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise DeadLetterError(f"{file}: cannot be removed: {error.strerror}") from error

    def refused(self, name: str, letter: DeadLetter) -> None:
        """Replace the letter ``name`` by ``letter``, after its message was retried and refused again.

        Raises DeadLetterError if a file cannot be written or removed.
        """
        self.put(letter)
        if name != letter.name:
            self.remove(name)

    def close(self) -> None:
        """Do nothing: a folder has no connection."""


def folder_at(where: str, otherwise: str, limit: int | None = None) -> LetterFolder:
    """Return the folder at the path ``where``.

    Raises ConfigError if ``where`` is a URL or a Pub/Sub name; the error's text says that ``otherwise`` or
    a folder is expected.
    """
    if _ADDRESS.match(where):
        raise ConfigError(f"dead letters {where!r}: expected {otherwise}, or a folder of this machine")
    return LetterFolder(where, limit)


def read_letter(file: Path) -> DeadLetter:
    """Return the dead letter in a file. Raises DeadLetterError if it is unreadable or malformed."""
    try:
        return DeadLetter.from_json(file.read_bytes())
    except OSError as error:
        raise DeadLetterError(f"{file}: {error.strerror}") from error
    except DeadLetterError as error:
        raise DeadLetterError(f"{file}: {error}") from error


def _sync_folder(path: Path) -> None:
    """Make the entries of a folder durable, by fsync."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
