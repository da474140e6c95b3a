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
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: its folder does not exist")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise L2FeaturesError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def check_suffix(path: Path, *suffixes: str) -> str:
    """Return the suffix of a path. Raises ConfigError for another one than these."""
    if path.suffix not in suffixes:
        raise ConfigError(f"{path}: expected a file name that ends with {' or '.join(suffixes)}")
    return path.suffix
