"""Files that a command writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core.errors import ConfigError, L2FeaturesError


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``. It becomes ``path`` at the end, and is removed after an error.

    Raises L2FeaturesError where it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise L2FeaturesError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def check_file(path: Path, *suffixes: str) -> None:
    """Raise ConfigError for a path with another suffix than these, or in a folder that does not exist."""
    if path.suffix not in suffixes:
        raise ConfigError(f"{path}: expected a file name that ends with {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: its folder does not exist")
