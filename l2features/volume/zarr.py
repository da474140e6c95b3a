"""Labels in zarr 2, zarr 3 and N5: the arrays, and how they are stored.

cloud-volume has readers for these, but takes N5's big-endian numbers for little-endian ones and loses arrays
whose paths are not their numbers. Scales are those of OME-NGFF's ``multiscales``, or of N5's root attributes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..core.paths import Location
from .arrays import Array, spatial_axes
from .blocks import FileBlocks
from .codecs import CODECS
from .layer import check_voxels, choose_scale
from .n5 import read_n5
from .storage import Request, Storage, StorageError

_NM = {
    "angstrom": 0.1,
    "nanometer": 1.0,
    "nm": 1.0,
    "micrometer": 1e3,
    "um": 1e3,
    "µm": 1e3,
    "millimeter": 1e6,
    "meter": 1e9,
}
_CODECS_3 = {"gzip", "zstd", "blosc", "crc32c"}
Scales = list[tuple[Array, list[float] | None]]
"""Arrays, and their resolutions where known."""
OpenArray = Callable[[str, dict[str, Any], list[str]], Array]


def open_zarr(
    location: Location, storage: Storage, mip: int | None, scale: Sequence[float] | None
) -> tuple[dict[str, Any], int, FileBlocks]:
    """Return an info as of a precomputed layer, the chosen scale and a reader. Raises ValueError."""
    scales = _find_scales(location.format, storage)
    resolutions = [resolution for _, resolution in scales]
    if resolutions[0] is None:
        if scale is None:
            raise ValueError("it does not say its resolution in units: give 'scale: [x, y, z]' in nm")
        scales, resolutions, chosen = scales[:1], [list(scale)], 0
    else:
        chosen = choose_scale([r or [] for r in resolutions], mip, scale)
    array = scales[chosen][0]
    check_voxels(array.dtype.name, 1)
    info = {
        "data_type": array.dtype.name,
        "scales": [_scale_info(a, r or [1, 1, 1]) for (a, _), r in zip(scales, resolutions, strict=True)],
    }
    return info, chosen, FileBlocks(storage, array.grid, array.names, array.decode)


def _scale_info(array: Array, resolution: list[float]) -> dict[str, Any]:
    return {
        "key": array.prefix.rstrip("/") or ".",
        "encoding": "raw",
        "resolution": [int(r) if r == int(r) else r for r in resolution],
        "size": list(array.grid.size),
        "chunk_sizes": [list(array.grid.step)],
        "voxel_offset": [0, 0, 0],
    }


def _find_scales(kind: str, storage: Storage) -> Scales:
    if kind == "n5":
        return [(array, _in_nm(*resolution)) for array, resolution in read_n5(read_json, storage)]
    group = read_json(storage, "zarr.json") if kind in ("zarr", "zarr3") else None
    if group is not None:
        if group.get("node_type") == "array":
            return [(_array_3("", group, _names(group, group.get("dimension_names"))), None)]
        ome = group.get("attributes", {}).get("ome", {})
        return _multiscales(storage, ome, "zarr.json", _array_3)
    single = read_json(storage, ".zarray") if kind != "zarr3" else None
    if single is not None:
        named = (read_json(storage, ".zattrs") or {}).get("_ARRAY_DIMENSIONS")
        return [(_array_2("", single, _names(single, named)), None)]
    attributes = _needed(storage, "zarr.json" if kind == "zarr3" else ".zattrs")
    return _multiscales(storage, attributes, ".zarray", _array_2)


def read_json(storage: Storage, name: str) -> dict[str, Any] | None:
    """Return a file of metadata; None where it is missing."""
    content, forbidden = storage.fetch_one(Request(name, most=1 << 28))
    if content is None or forbidden:
        return None
    try:
        values = json.loads(content)
    except ValueError as error:
        raise ValueError(f"file {name} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"file {name}: expected a JSON object")
    return values


def _needed(storage: Storage, name: str) -> dict[str, Any]:
    values = read_json(storage, name)
    if values is None:
        raise StorageError(f"it has no file {name}")
    return values


def _multiscales(storage: Storage, attributes: dict[str, Any], file: str, open_array: OpenArray) -> Scales:
    multiscales = attributes.get("multiscales") or [{}]
    axes, datasets = multiscales[0].get("axes"), multiscales[0].get("datasets")
    if not axes or not datasets:
        raise ValueError("it is a group without 'multiscales' of OME-NGFF: expected these, or an array")
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in axes]
    units = [axis.get("unit") if isinstance(axis, dict) else None for axis in axes]
    whole = multiscales[0].get("coordinateTransformations", [])
    scales: Scales = []
    for dataset in datasets:
        path = dataset["path"].strip("/")
        array = open_array(path, _needed(storage, f"{path}/{file}"), names)
        factors = np.ones(len(names))
        steps = [*dataset.get("coordinateTransformations", []), *whole]
        for step in (s for s in steps if s.get("type") == "scale"):
            factors = factors * np.asarray(step["scale"], float)
        known = any(s.get("type") == "scale" for s in steps)
        numbers = [float(factors[axis]) for axis in array.axes]
        scales.append((array, _in_nm(numbers if known else None, [units[axis] for axis in array.axes])))
    return scales


def _in_nm(numbers: list[float] | None, units: list[str | None]) -> list[float] | None:
    if numbers is None or any(unit not in _NM for unit in units):
        return None
    return [round(n * _NM[str(unit)], 9) for n, unit in zip(numbers, units, strict=True)]


def _names(meta: dict[str, Any], named: list[str | None] | None) -> list[str]:
    """Names of an array's axes: those of its metadata, else z, y, x behind c and t."""
    dimensions = len(meta.get("shape", ()))
    if dimensions not in (3, 4, 5):
        raise ValueError(f"its array has {dimensions} axes, expected 3 to 5")
    return [str(name) for name in named] if named and any(named) else list("tczyx"[-dimensions:])


def _checked(array: Array, fill_value: Any) -> Array:
    unknown = [codec for codec in array.codecs if codec not in CODECS]
    if unknown:
        raise ValueError(f"its codec is {unknown[0]!r}, expected one of {', '.join(CODECS)}")
    if fill_value not in (None, 0, False):
        raise ValueError(f"its fill_value is {fill_value!r}, expected 0")
    if len(array.chunks) != len(array.shape) or min(array.shape) < 1 or min(array.chunks) < 1:
        raise ValueError(
            f"its shape is {list(array.shape)} in chunks of {list(array.chunks)}, which is impossible"
        )
    return array


def _array_2(path: str, meta: dict[str, Any], names: list[str]) -> Array:
    shape, chunks = tuple(map(int, meta["shape"])), tuple(map(int, meta["chunks"]))
    if meta.get("filters"):
        raise ValueError(f"its array has filters {meta['filters']}, expected none")
    compressor = meta.get("compressor")
    codecs = (str(compressor["id"]),) if compressor else ()
    order = tuple(range(len(shape)))
    array = Array(
        f"{path}/" if path else "",
        meta.get("dimension_separator", "."),
        shape,
        chunks,
        spatial_axes(names, shape),
        np.dtype(meta["dtype"]),
        codecs,
        order[::-1] if meta.get("order") == "F" else order,
    )
    return _checked(array, meta.get("fill_value"))


def _array_3(path: str, meta: dict[str, Any], names: list[str]) -> Array:
    shape = tuple(map(int, meta["shape"]))
    chunks = tuple(map(int, meta["chunk_grid"]["configuration"]["chunk_shape"]))
    order, byteorder = list(range(len(shape))), "<"
    codecs: list[str] = []
    for codec in meta["codecs"]:
        name, config = codec["name"], codec.get("configuration", {})
        if name == "transpose" and not codecs:
            order = [order[axis] for axis in config["order"]]
        elif name == "bytes":
            byteorder = ">" if config.get("endian") == "big" else "<"
        elif name in _CODECS_3:
            codecs.append(name)
        else:
            raise ValueError(
                f"its codec is {name!r}, expected bytes, transpose, {', '.join(sorted(_CODECS_3))}"
            )
    keys = meta.get("chunk_key_encoding", {"name": "default"})
    is_default = keys.get("name") == "default"
    separator = keys.get("configuration", {}).get("separator", "/" if is_default else ".")
    array = Array(
        (f"{path}/" if path else "") + (f"c{separator}" if is_default else ""),
        separator,
        shape,
        chunks,
        spatial_axes(names, shape),
        np.dtype(meta["data_type"]).newbyteorder(byteorder),  # type: ignore[arg-type]
        tuple(codecs),
        tuple(order),
    )
    return _checked(array, meta.get("fill_value"))
