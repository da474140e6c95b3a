"""Root ids in arguments and files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import TextIO

import numpy as np

from ..core.errors import ConfigError
from ..core.ids import Ids, parse_id

NAMES = ("root_id", "pt_root_id", "segment_id")
"""Names of columns that are recognized as root ids."""


def root_id(text: str, where: str = "") -> int:
    """Parse a root id. Raises ConfigError for other text; the message starts with ``where``."""
    try:
        return parse_id(text)
    except ValueError as error:
        is_float = _is_number(text) and not text.lstrip("-").isdecimal()
        why = "expected an integer, since floats round ids: export the column as text" if is_float else error
        raise ConfigError(f"{where}{text!r:.100} is not a root id: {why}") from error


def read_root_ids(file: TextIO, name: str, column: str | None = None) -> Ids:
    """Return the distinct root ids of a text file, in the order of the file, shape (n,).

    The file has one id per line, or is a CSV file with a header. Empty lines and lines that begin with # are
    skipped. ``column`` names the CSV column of the ids. By default, it is the first of root_id, pt_root_id
    and segment_id in the header, or else the only column.

    Raises ConfigError for an invalid file. If a line is invalid, the message names the line.
    """
    try:
        rows = _rows(file)
        ids = dict.fromkeys(
            root_id(text, f"{name}: line {line}: ") for line, text in _texts(rows, name, column)
        )
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{name}: expected a text file of root ids: {error}") from error
    if not ids:
        raise ConfigError(f"{name}: no root id: expected one id per line, or a CSV file with a header")
    return np.array(list(ids), dtype=np.uint64)


def _rows(file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """Yield tuples: the number of a line; its cells. Skips empty lines and comments."""
    reader = csv.reader(file, skipinitialspace=True)
    for cells in reader:
        stripped = [cell.strip().removeprefix("\ufeff") for cell in cells]
        if any(stripped) and not stripped[0].startswith("#"):
            yield reader.line_num, stripped


def _texts(rows: Iterator[tuple[int, list[str]]], name: str, column: str | None) -> Iterator[tuple[int, str]]:
    """Yield tuples: the number of a line; the text of the id in that line."""
    first = next(rows, None)
    if first is None:
        return
    line, header = first
    has_header = column is not None or not any(map(_is_number, header))
    place = _place(header, name, column) if has_header else 0
    if not has_header:
        if len(header) > 1:
            raise ConfigError(
                f"{name}: line {line} has {len(header)} cells: expected one id, or a header above this line"
            )
        yield line, header[0]
    for line, cells in rows:
        if place >= len(cells):
            raise ConfigError(f"{name}: line {line} has {len(cells)} cells: expected {place + 1} or more")
        yield line, cells[place]


def _place(header: Sequence[str], name: str, column: str | None) -> int:
    """Return the index of the root id column."""
    wanted = (column,) if column is not None else NAMES
    for known in wanted:
        if known in header:
            return header.index(known)
    if len(header) == 1 and column is None:
        return 0
    what = f"no column {column!r}" if column is not None else "no known column of root ids"
    raise ConfigError(f"{name}: {what}: expected --column with one of {', '.join(header)}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
