"""What both stores keep as text or bytes: geometries, chunk records and segments.

Text says its format; a text that does not is of format 1. Older formats are read, newer ones refused by name.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import numpy as np

from ..core.chunks import FileCounts
from ..core.errors import StoreError, UnknownFormat
from ..core.geometry import Geometry
from ..core.ids import Ids
from .base import DONE, ChunkRecord

GEOMETRY_FORMAT = 2
"""1: id layouts with equally many bits on each axis. 2: ``spatial_bits`` with a number for each axis."""
CHUNK_FORMAT = 2
"""1: nodes, orphans and reason. 2: also files and saturated."""
_NUMBERS = ("nodes", "orphans")


def unknown_format(what: str, version: object, newest: int) -> UnknownFormat:
    """Return the error for a format that this version does not know."""
    return UnknownFormat(
        f"{what}: format {version!r:.80}, expected {newest} at most: "
        "a newer version of l2features wrote it and is needed to read it"
    )


def check_format(content: Any, newest: int, what: str) -> None:
    """Raise UnknownFormat where a JSON object says a format other than 1 to ``newest``."""
    version = content.get("format", 1) if isinstance(content, dict) else 1
    if type(version) is not int or not 1 <= version <= newest:
        raise unknown_format(what, version, newest)


def geometry_text(geometry: Geometry) -> str:
    """Return the geometry as JSON with its format: the oldest that can express it."""
    content = json.loads(geometry.to_json())
    per_axis = any(isinstance(bits, list) for bits in content["spatial_bits"].values())
    return json.dumps({"format": 2 if per_axis else 1, **content}, separators=(",", ":"))


def parse_geometry(text: str | bytes | None, name: str) -> Geometry | None:
    """Return the geometry kept with table ``name``. Raises UnknownFormat, or StoreError where it is none."""
    if text is None:
        return None
    try:
        check_format(json.loads(text), GEOMETRY_FORMAT, f"table {name}: the geometry")
        return Geometry.from_json(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"table {name}: the row 'geometry' is not a geometry: {error!r}") from error


def chunk_text(record: ChunkRecord) -> str:
    """Return what a chunk's record holds beside state and time, as JSON; `parse_chunk` is the inverse."""
    content: dict[str, Any] = {"format": CHUNK_FORMAT}
    content |= {"nodes": record.nodes, "orphans": record.orphans, "reason": record.reason}
    content |= {"files": files_of(record), "saturated": dict(record.saturated)}
    return json.dumps(content, separators=(",", ":"))


def parse_chunk(chunk_id: int, state: str, time: datetime, text: str | bytes, where: str) -> ChunkRecord:
    """Return a chunk's record. Raises UnknownFormat, or StoreError where it is none."""
    what = f"{where}: the record of chunk {chunk_id}"
    try:
        content = json.loads(text)
        check_format(content, CHUNK_FORMAT, what)
        nodes, orphans = (int(content[name]) for name in _NUMBERS)
        files = FileCounts(**content.get("files", {}))
        saturated = {str(name): int(count) for name, count in content.get("saturated", {}).items()}
        return ChunkRecord(chunk_id, state, time, nodes, orphans, str(content["reason"]), files, saturated)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{what} cannot be read: {error!r}") from error


def files_of(record: ChunkRecord) -> dict[str, int]:
    """Return the files of a chunk by outcome; empty where none are known."""
    return record.files._asdict() if any(record.files) else {}


def is_incomplete(record: ChunkRecord) -> bool:
    """Return whether a chunk is done although files of the segmentation were missing or empty."""
    return record.state == DONE and record.files.missing + record.files.empty > 0


def parse_segments(value: bytes, what: str) -> Ids:
    """Return the segments of a chunk, which are kept as little-endian u64. Raises StoreError."""
    if len(value) % 8:
        raise StoreError(f"{what}: the segments have {len(value)} bytes, expected a multiple of 8")
    return np.frombuffer(value, dtype="<u8")
