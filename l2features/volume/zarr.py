"""Segmentations in zarr 2, zarr 3 and N5: find the arrays, and how they are stored.

cloud-volume's readers are not used: they read N5's big-endian numbers as little-endian, and miss the arrays
of a zarr 2 group that has none at the path 0. Zarr groups list their scales in OME-NGFF's ``multiscales``.
N5's scales are the arrays ``s0``, ``s1``, …; if the root is an array, it is the only scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..core.paths import Location
from .arrays import Array, spatial_axes
from .blocks import FileBlocks
from .codecs import CODECS
from .layer import check_voxels, choose_scale
from .storage import Storage

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
_N5_CODECS = {"raw": (), "gzip": ("gzip",), "blosc": ("blosc",), "zstd": ("zstd",), "bzip2": ("bzip2",)}
_CODECS_3 = {"gzip", "zstd", "blosc", "crc32c"}
Scales = list[tuple[Array, list[float] | None]]
"""Arrays of a layer, each with its resolution in nm, or None if unknown."""
OpenArray = Callable[[str, dict[str, Any], list[str]], Array]


def open_zarr(
    location: Location, storage: Storage, mip: int | None, scale: Sequence[float] | None
) -> tuple[dict[str, Any], int, FileBlocks]:
    """Open a zarr or N5 layer at scale ``mip``, or at the scale with resolution ``scale`` in nm.

    If the first scale has no resolution with units, ``mip`` is ignored: the first scale is opened, and
    ``scale`` must state its resolution.

    Returns a tuple: the layer's info in precomputed form; the index of the scale; a reader of its blocks.
    Raises StorageError if a metadata file cannot be read, and ValueError if the layer is not supported. For
    malformed metadata, raises ValueError, KeyError, TypeError, IndexError or AttributeError.
    """
    scales = _find_scales(location.format, storage)
    resolutions = [resolution for _, resolution in scales]
    if resolutions[0] is None:
        if scale is None:
            raise ValueError("the layer has no resolution with units: give 'scale: [x, y, z]' in nm")
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
        return list(_n5_scales(storage))
    group = storage.read_json("zarr.json") if kind in ("zarr", "zarr3") else None
    if group is not None:
        if group.get("node_type") == "array":
            return [(_array_3("", group, _names(group, group.get("dimension_names"))), None)]
        ome = group.get("attributes", {}).get("ome", {})
        return _multiscales(storage, ome, "zarr.json", _array_3)
    single = storage.read_json(".zarray") if kind != "zarr3" else None
    if single is not None:
        named = (storage.read_json(".zattrs") or {}).get("_ARRAY_DIMENSIONS")
        return [(_array_2("", single, _names(single, named)), None)]
    attributes = storage.needed_json("zarr.json" if kind == "zarr3" else ".zattrs")
    return _multiscales(storage, attributes, ".zarray", _array_2)


def _multiscales(storage: Storage, attributes: dict[str, Any], file: str, open_array: OpenArray) -> Scales:
    multiscales = attributes.get("multiscales") or [{}]
    axes, datasets = multiscales[0].get("axes"), multiscales[0].get("datasets")
    if not axes or not datasets:
        raise ValueError("expected an array, or a group with axes and datasets in OME-NGFF's 'multiscales'")
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in axes]
    units = [axis.get("unit") if isinstance(axis, dict) else None for axis in axes]
    whole = multiscales[0].get("coordinateTransformations", [])
    scales: Scales = []
    for dataset in datasets:
        path = dataset["path"].strip("/")
        array = open_array(path, storage.needed_json(f"{path}/{file}"), names)
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
    """Return an array's axis names: those in ``named``, else for n axes the last n of t, c, z, y, x."""
    dimensions = len(meta.get("shape", ()))
    if dimensions not in (3, 4, 5):
        raise ValueError(f"array has {dimensions} axes, expected 3 to 5")
    return [str(name) for name in named] if named and any(named) else list("tczyx"[-dimensions:])


def _checked(array: Array, fill_value: Any) -> Array:
    unknown = [codec for codec in array.codecs if codec not in CODECS]
    if unknown:
        raise ValueError(f"codec is {unknown[0]!r}, expected one of {', '.join(CODECS)}")
    if fill_value not in (None, 0, False):
        raise ValueError(f"fill_value is {fill_value!r}, expected 0")
    if len(array.chunks) != len(array.shape) or min(array.shape) < 1 or min(array.chunks) < 1:
        raise ValueError(
            f"shape is {list(array.shape)} and chunk shape {list(array.chunks)}: "
            "expected equally many integers of 1 or more"
        )
    return array


def _array_2(path: str, meta: dict[str, Any], names: list[str]) -> Array:
    shape, chunks = tuple(map(int, meta["shape"])), tuple(map(int, meta["chunks"]))
    if meta.get("filters"):
        raise ValueError(f"array has filters {meta['filters']}, expected none")
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
            codecs_3 = ", ".join(["bytes", "transpose", *sorted(_CODECS_3)])
            raise ValueError(f"codec is {name!r}, expected one of {codecs_3}")
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


def _n5_scales(storage: Storage) -> Iterator[tuple[Array, list[float] | None]]:
    """Yield arrays with their resolutions: the root if it is an array, else ``s0`` (finest), ``s1``, …."""
    root = storage.needed_json("attributes.json")
    if "dimensions" in root and "blockSize" in root:
        yield _n5_scale("", root, root, [1, 1, 1])
        return
    factors = root.get("scales") or root.get("downsamplingFactors") or [[1, 1, 1]]
    meta: dict[str, Any] | None = storage.needed_json("s0/attributes.json")
    place = 0
    while meta is not None:
        factor = meta.get("downsamplingFactors", factors[place] if place < len(factors) else None)
        if factor is None:
            raise ValueError(f"array s{place} has no downsamplingFactors: expected three numbers")
        yield _n5_scale(f"s{place}/", meta, root, factor)
        place += 1
        meta = storage.read_json(f"s{place}/attributes.json")


def _n5_scale(
    prefix: str, meta: dict[str, Any], root: dict[str, Any], factor: list[float]
) -> tuple[Array, list[float] | None]:
    shape, chunks = tuple(map(int, meta["dimensions"])), tuple(map(int, meta["blockSize"]))
    if len(shape) != 3 or len(chunks) != 3 or min(shape) < 1 or min(chunks) < 1:
        raise ValueError(
            f"array has dimensions {list(shape)} and blockSize {list(chunks)}, "
            "expected three integers of 1 or more in each"
        )
    names = meta.get("axes") or root.get("axes") or []
    axes = spatial_axes(names if any(names) else ["x", "y", "z"], shape)
    compression = meta.get("compression", {"type": meta.get("compressionType", "raw")})["type"]
    if compression not in _N5_CODECS:
        raise ValueError(f"codec is {compression!r}, expected one of {', '.join(_N5_CODECS)}")
    dtype, codecs = np.dtype(meta["dataType"]).newbyteorder(">"), _N5_CODECS[compression]
    array = Array(prefix, "/", shape, chunks, axes, dtype, codecs, (2, 1, 0), has_header=True)
    numbers, units = root.get("pixelResolution"), root.get("units") or ["nm"] * 3
    if isinstance(numbers, dict):
        units, numbers = [numbers.get("unit")] * 3, numbers.get("dimensions")
    numbers = numbers or root.get("resolution")
    if not numbers or len(numbers) != 3 or len(units) != 3:
        return array, None
    steps = [float(n) * float(f) for n, f in zip(numbers, factor, strict=True)]
    return array, _in_nm([steps[axis] for axis in axes], [units[axis] for axis in axes])
