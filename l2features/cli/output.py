"""Files that a command writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import ConfigError, L2FeaturesError

if TYPE_CHECKING:
    from ..query.table_files import TableFile


def to_option(help_text: str) -> Callable[[Any], Any]:
    """Return the option ``--to`` of a command that writes a table to a file."""

    def checked(_: object, __: object, path: Path | None) -> Path | None:
        if path is not None:
            check_file(path, ".parquet", ".csv")
        return path

    kind = click.Path(path_type=Path, dir_okay=False)
    return click.option("--to", type=kind, metavar="FILE", callback=checked, help=help_text)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` at the end, or remove it after an error.

    Raises L2FeaturesError if the file cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise L2FeaturesError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_table(path: Path, about: Mapping[str, str]) -> Iterator[TableFile]:
    """Yield a table file with the metadata ``about``; it appears at ``path`` when the block ends.

    Raises L2FeaturesError if the file cannot be written.
    """
    from ..query.table_files import TableFile

    with new_file(path) as part, closing(TableFile(part, path.suffix, about)) as table:
        yield table


def check_file(path: Path, *suffixes: str) -> None:
    """Raise ConfigError unless the path has one of these suffixes and its folder exists."""
    if path.suffix not in suffixes:
        raise ConfigError(f"{path}: expected a file name that ends with {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: folder does not exist")
