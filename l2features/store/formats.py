"""Encodings that all stores share, for geometries, chunk records, segments and root cells.

A stored text names its format; a text without a format has format 1. Older formats are read. For a newer
format, UnknownFormat is raised.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np

from ..core.chunks import FileCounts
from ..core.errors import StoreError, UnknownFormat
from ..core.geometry import Geometry
from ..core.ids import Ids
from .base import CELL_NAME, MOST_CELL_BYTES, ChunkRecord

GEOMETRY_FORMAT = 2
"""Newest format of a geometry. 1: equally many bits for x, y and z. 2: a number of bits for each axis."""
ROOT_FORMAT = 1
"""Newest format of a root's cell: the first byte is the format, all other bytes are the value."""
CHUNK_FORMAT = 2
"""Newest format of a chunk record. 1: nodes, orphans and reason. 2: also files and saturated."""


def check_version(version: object, newest: int, what: str) -> None:
    """Raise UnknownFormat unless the version is an integer from 1 to ``newest``.

    ``what`` begins the message.
    """
    if type(version) is not int or not 1 <= version <= newest:
        raise UnknownFormat(
            f"{what}: format {version!r:.80}, expected {newest} at most: "
            "a newer version of l2features wrote it and is needed to read it"
        )


def check_format(content: Any, newest: int, what: str) -> None:
    """Raise UnknownFormat for JSON of a format above ``newest``; JSON without a format has format 1."""
    check_version(content.get("format", 1) if isinstance(content, dict) else 1, newest, what)


def geometry_text(geometry: Geometry) -> str:
    """Return the geometry as JSON, in the oldest format that can express it."""
    content = json.loads(geometry.to_json())
    per_axis = any(isinstance(bits, list) for bits in content["spatial_bits"].values())
    return json.dumps({"format": 2 if per_axis else 1, **content}, separators=(",", ":"))


def parse_geometry(text: str | bytes | None, name: str) -> Geometry | None:
    """Return the geometry that `geometry_text` wrote; None for None. ``name`` is the table's, for messages.

    Raises UnknownFormat for a newer format, and StoreError for malformed text.
    """
    if text is None:
        return None
    try:
        check_format(json.loads(text), GEOMETRY_FORMAT, f"table {name}: the geometry")
        return Geometry.from_json(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"table {name}: the row 'geometry' is not a geometry: {error!r}") from error


def chunk_content(record: ChunkRecord) -> dict[str, Any]:
    """Return a record as a dict for JSON, without chunk id, state and time; see `chunk_record`."""
    files = record.files._asdict() if any(record.files) else {}
    content = {"nodes": record.nodes, "orphans": record.orphans, "reason": record.reason}
    return {**content, "files": files, "saturated": dict(record.saturated)}


def chunk_text(record: ChunkRecord) -> str:
    """Return a record as JSON, with a format number and without chunk id, state and time."""
    return json.dumps({"format": CHUNK_FORMAT, **chunk_content(record)}, separators=(",", ":"))


def chunk_record(
    chunk_id: int, state: str, load: Callable[[], tuple[datetime, Any]], where: str
) -> ChunkRecord:
    """Return a chunk's record. ``load`` returns the record's time, and a dict like that of `chunk_content`.

    ``where`` names the table in messages. Raises UnknownFormat for a newer format, and StoreError for
    malformed content.
    """
    what = f"{where}: the record of chunk {chunk_id}"
    try:
        time, content = load()
        check_format(content, CHUNK_FORMAT, what)
        nodes, orphans, reason = int(content["nodes"]), int(content["orphans"]), str(content["reason"])
        files = FileCounts(**{name: int(count) for name, count in content.get("files", {}).items()})
        saturated = {str(name): int(count) for name, count in content.get("saturated", {}).items()}
        return ChunkRecord(chunk_id, state, time, nodes, orphans, reason, files, saturated)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{what} cannot be read: {error!r}") from error


def parse_segments(value: bytes, what: str) -> Ids:
    """Return a chunk's segments, stored as little-endian uint64; ``what`` begins the message of an error.

    Raises StoreError for a length that is not a multiple of 8.
    """
    if len(value) % 8:
        raise StoreError(f"{what}: the segments have {len(value)} bytes, expected a multiple of 8")
    return np.frombuffer(value, dtype="<u8")


def root_cell(root: int, name: str, value: bytes) -> bytes:
    """Return ``value`` as stored in cell ``name`` of a root: a format byte, then the value.

    Raises ValueError for a malformed name, and for more than `MOST_CELL_BYTES`.
    """
    if not CELL_NAME.fullmatch(name):
        raise ValueError(f"root cell {name!r}: expected 1 to 50 lower-case letters, digits or '_'")
    if len(value) > MOST_CELL_BYTES:
        raise ValueError(
            f"root {root}: cell {name!r} has {len(value)} bytes, expected {MOST_CELL_BYTES} at most"
        )
    return bytes([ROOT_FORMAT]) + value


def parse_root_cell(stored: bytes, root: int, name: str, where: str) -> bytes:
    """Return the value that `root_cell` encoded.

    Raises UnknownFormat for an unknown format, with ``where`` in the message.
    """
    check_version(stored[0] if stored else 0, ROOT_FORMAT, f"{where}: cell {name!r} of root {root}")
    return stored[1:]
