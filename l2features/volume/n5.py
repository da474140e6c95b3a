"""N5: attributes of the root and of the arrays ``s0``, ``s1``, …"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .arrays import Array, spatial_axes
from .storage import Storage, StorageError

_COMPRESSION = {"raw": (), "gzip": ("gzip",), "blosc": ("blosc",), "zstd": ("zstd",), "bzip2": ("bzip2",)}
Resolution = tuple[list[float] | None, list[str | None]]
ReadJson = Callable[[Storage, str], dict[str, Any] | None]


def read_n5(read_json: ReadJson, storage: Storage) -> Iterator[tuple[Array, Resolution]]:
    """Yield arrays and their resolutions (numbers and units), the finest first. Raises ValueError."""
    root = read_json(storage, "attributes.json")
    if root is None:
        raise StorageError("it has no file attributes.json")
    if "dimensions" in root and "blockSize" in root:
        array = _array("", root, root)
        yield array, _resolution(root, [1, 1, 1], array.axes)
        return
    factors = root.get("scales") or root.get("downsamplingFactors")
    place = 0
    while (meta := read_json(storage, f"s{place}/attributes.json")) is not None:
        listed = factors[place] if factors and place < len(factors) else [1, 1, 1] if place == 0 else None
        factor = meta.get("downsamplingFactors", listed)
        if factor is None:
            raise ValueError(f"its array s{place} has no downsamplingFactors")
        array = _array(f"s{place}/", meta, root)
        yield array, _resolution(root, factor, array.axes)
        place += 1
    if place == 0:
        raise StorageError("it has no file s0/attributes.json")


def _resolution(attributes: dict[str, Any], factor: list[float], axes: tuple[int, int, int]) -> Resolution:
    """Of x, y and z; the attributes have them in the order of the array's ``axes``."""
    numbers, units = attributes.get("pixelResolution"), attributes.get("units") or ["nm"] * 3
    if isinstance(numbers, dict):
        units, numbers = [numbers.get("unit")] * 3, numbers.get("dimensions")
    numbers = numbers or attributes.get("resolution")
    if not numbers or len(numbers) != 3 or len(units) != 3:
        return None, [None] * 3
    steps = [float(n) * float(f) for n, f in zip(numbers, factor, strict=True)]
    return [steps[axis] for axis in axes], [units[axis] for axis in axes]


def _array(prefix: str, meta: dict[str, Any], root: dict[str, Any]) -> Array:
    shape, chunks = tuple(map(int, meta["dimensions"])), tuple(map(int, meta["blockSize"]))
    if len(shape) != 3 or len(chunks) != 3 or min(shape) < 1 or min(chunks) < 1:
        raise ValueError(f"its array has dimensions {list(shape)}, expected x, y and z")
    names = meta.get("axes") or root.get("axes") or []
    axes = spatial_axes(names if any(names) else ["x", "y", "z"], shape)
    compression = meta.get("compression", {"type": meta.get("compressionType", "raw")})["type"]
    if compression not in _COMPRESSION:
        raise ValueError(f"its codec is {compression!r}, expected one of {', '.join(_COMPRESSION)}")
    dtype = np.dtype(meta["dataType"]).newbyteorder(">")
    codecs = _COMPRESSION[compression]
    return Array(prefix, "/", shape, chunks, axes, dtype, codecs, (2, 1, 0), has_header=True)
