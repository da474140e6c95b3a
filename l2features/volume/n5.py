"""N5: attributes of the root and of the arrays ``s0``, ``s1``, …"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .arrays import Array
from .storage import Storage, StorageError

_COMPRESSION = {"raw": (), "gzip": ("gzip",), "blosc": ("blosc",), "zstd": ("zstd",), "bzip2": ("bzip2",)}
Resolution = tuple[list[float] | None, list[str | None]]
ReadJson = Callable[[Storage, str], dict[str, Any] | None]


def read_n5(read_json: ReadJson, storage: Storage) -> Iterator[tuple[Array, Resolution]]:
    """Arrays and their resolutions (numbers and units), the finest first. Raises ValueError."""
    root = read_json(storage, "attributes.json")
    if root is None:
        raise StorageError("it has no file attributes.json")
    if "dimensions" in root and "blockSize" in root:
        yield _array("", root), _resolution(root, [1, 1, 1])
        return
    factors = root.get("scales") or root.get("downsamplingFactors")
    place = 0
    while (meta := read_json(storage, f"s{place}/attributes.json")) is not None:
        listed = factors[place] if factors and place < len(factors) else [1, 1, 1] if place == 0 else None
        factor = meta.get("downsamplingFactors", listed)
        if factor is None:
            raise ValueError(f"its array s{place} has no downsamplingFactors")
        yield _array(f"s{place}/", meta), _resolution(root, factor)
        place += 1
    if place == 0:
        raise StorageError("it has no file s0/attributes.json")


def _resolution(attributes: dict[str, Any], factor: list[float]) -> Resolution:
    said = attributes.get("pixelResolution")
    unit: str | None = "nm"
    if isinstance(said, dict):
        unit, said = said.get("unit"), said.get("dimensions")
    numbers = said or attributes.get("resolution")
    if not numbers or len(numbers) != 3:
        return None, [None] * 3
    return [float(n) * float(f) for n, f in zip(numbers, factor, strict=True)], [unit] * 3


def _array(prefix: str, meta: dict[str, Any]) -> Array:
    shape, chunks = tuple(map(int, meta["dimensions"])), tuple(map(int, meta["blockSize"]))
    if len(shape) != 3 or len(chunks) != 3 or min(shape) < 1 or min(chunks) < 1:
        raise ValueError(f"its array has dimensions {list(shape)}, expected x, y and z")
    compression = meta.get("compression", {"type": meta.get("compressionType", "raw")})["type"]
    if compression not in _COMPRESSION:
        raise ValueError(f"its codec is {compression!r}, expected one of {', '.join(_COMPRESSION)}")
    dtype = np.dtype(meta["dataType"]).newbyteorder(">")
    codecs = _COMPRESSION[compression]
    return Array(prefix, "/", shape, chunks, (0, 1, 2), dtype, codecs, (2, 1, 0), has_header=True)
