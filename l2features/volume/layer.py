"""Checks of a layer's info file, and the choice of one of the layer's scales.

The formats are neuroglancer's: https://github.com/google/neuroglancer/tree/master/src/datasource/precomputed
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

MULTISCALE = "neuroglancer_multiscale_volume"
SHARDED = "neuroglancer_uint64_sharded_v1"
INTEGERS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
COMPRESSED = "compressed_segmentation"
DECODERS = {
    "raw": None,
    COMPRESSED: None,
    "compresso": ("compresso", "compresso"),
    "crackle": ("crackle", "crackle-codec"),
    "png": ("pyspng", "pyspng-seunglab"),
}
"""Encodings of segmentations; for those with an optional decoder, the decoder's module and its package."""
_OTHER_LAYERS = {
    "neuroglancer_annotations_v1": "annotations",
    "neuroglancer_multilod_draco": "meshes",
    "neuroglancer_legacy_mesh": "meshes",
    "neuroglancer_skeletons": "skeletons",
    "neuroglancer_segment_properties": "segment properties",
}
_SIZES = {
    COMPRESSED: ("uint32", "uint64"),
    "png": ("uint8", "uint16"),
}
_SHARDING = ("preshift_bits", "minishard_bits", "shard_bits")
_ENCODED = ("minishard_index_encoding", "data_encoding")


def check_layer(info: Any) -> None:
    """Raise ValueError unless an info file describes a segmentation with one channel."""
    if not isinstance(info, dict):
        raise ValueError(f"info is {type(info).__name__}, expected a JSON object")
    kind = info.get("@type", MULTISCALE)
    if kind != MULTISCALE:
        what = _OTHER_LAYERS.get(kind, f"{kind!r}")
        raise ValueError(f"holds {what} (@type {kind}), expected a segmentation")
    if "scales" not in info and ("vertex_quantization_bits" in info or "lod_scale_multiplier" in info):
        raise ValueError("holds meshes, expected a segmentation")
    if info.get("type") != "segmentation":
        raise ValueError(f"type is {info.get('type')!r}, expected 'segmentation'")
    check_voxels(info.get("data_type"), info.get("num_channels"))
    scales = info.get("scales")
    if not isinstance(scales, list) or not scales or not all(isinstance(s, dict) for s in scales):
        raise ValueError("info has no scales: expected a list of JSON objects")


def check_voxels(data_type: Any, channels: Any) -> None:
    """Raise ValueError unless a voxel is a single integer."""
    if channels != 1:
        raise ValueError(f"{channels} channels, expected 1")
    if str(data_type).lower() not in INTEGERS:
        raise ValueError(f"voxels are {data_type}, expected integers of 8 to 64 bits")


def choose_scale(resolutions: Sequence[Any], mip: int | None, scale: Sequence[float] | None) -> int:
    """Return the index of the scale with resolution ``scale`` in nm.

    Without ``scale``, returns ``mip``; without both, 0. Raises ValueError if the layer has no such scale.
    """
    if scale is not None:
        for index, resolution in enumerate(resolutions):
            if len(resolution) == 3 and np.allclose(resolution, scale, rtol=1e-6, atol=0):
                return index
        raise ValueError(f"scale {_numbers(scale)}: expected one of {listed(resolutions)}")
    chosen = mip or 0
    if not 0 <= chosen < len(resolutions):
        raise ValueError(f"mip {chosen}: expected one of {listed(resolutions)}")
    return chosen


def listed(resolutions: Sequence[Any], mips: Iterable[int] | None = None) -> str:
    """Return scales as text for messages: their mips, by default 0, 1, ..., and their resolutions."""
    numbered = zip(range(len(resolutions)) if mips is None else mips, resolutions, strict=True)
    return ", ".join(f"mip {mip} ({_numbers(resolution)} nm)" for mip, resolution in numbered)


def check_scale(scale: Mapping[str, Any], data_type: str) -> None:
    """Raise ValueError if a scale's metadata are incomplete or invalid, or its encoding is not supported."""
    _check_whole("size", scale.get("size"), 1)
    _check_whole("voxel_offset", scale.get("voxel_offset", [0, 0, 0]))
    resolution: Any = scale.get("resolution")
    if not _is_triple(resolution) or not all(math.isfinite(r) and r > 0 for r in resolution):
        raise ValueError(f"resolution is {resolution!r}, expected three positive numbers in nm")
    if not isinstance(scale.get("key"), str):
        raise ValueError(f"key of the scale is {scale.get('key')!r}, expected a string")
    sizes = scale.get("chunk_sizes")
    if not isinstance(sizes, list) or not sizes:
        raise ValueError(f"chunk_sizes are {sizes!r}, expected lists of three integers")
    _check_whole("chunk_sizes", sizes[0], 1)
    _check_encoding(scale, data_type)
    _check_sharding(scale.get("sharding"))


def _check_encoding(scale: Mapping[str, Any], data_type: str) -> None:
    encoding = scale.get("encoding")
    if encoding not in DECODERS:
        raise ValueError(
            f"encoding is {encoding!r}, expected an encoding for segmentations: {', '.join(DECODERS)}"
        )
    if data_type not in _SIZES.get(str(encoding), (data_type,)):
        raise ValueError(
            f"data_type is {data_type}, expected {' or '.join(_SIZES[encoding])} for encoding {encoding}"
        )
    decoder = DECODERS[encoding]
    if decoder and importlib.util.find_spec(decoder[0]) is None:
        raise ValueError(f"encoding is {encoding}, whose decoder is missing: pip install {decoder[1]}")
    if encoding == COMPRESSED:
        name = "compressed_segmentation_block_size"
        _check_whole(name, scale.get(name, [8, 8, 8]), 1)


def _check_sharding(sharding: Any) -> None:
    if sharding is None:
        return
    if not isinstance(sharding, dict) or sharding.get("@type") != SHARDED:
        raise ValueError(f"sharding is {sharding!r}, expected @type {SHARDED}")
    bits: list[Any] = [sharding.get(name) for name in _SHARDING]
    if not all(isinstance(n, int) and 0 <= n <= 64 for n in bits) or bits[0] > 63 or bits[1] > 24:
        raise ValueError(
            f"sharding has {dict(zip(_SHARDING, bits, strict=True))}: expected integers of 0 or more, "
            "preshift_bits up to 63, minishard_bits up to 24, and shard_bits up to 64"
        )
    if sharding.get("hash") not in ("identity", "murmurhash3_x86_128"):
        raise ValueError(
            f"sharding has the hash {sharding.get('hash')!r}, expected identity or murmurhash3_x86_128"
        )
    for name in _ENCODED:
        if sharding.get(name, "raw") not in ("raw", "gzip"):
            raise ValueError(f"sharding has the {name} {sharding[name]!r}, expected raw or gzip")


def _check_whole(name: str, value: Any, least: float = -math.inf) -> None:
    """Raise ValueError unless a value is three integers of at least ``least``."""
    if not _is_triple(value) or not all(float(v).is_integer() and v >= least for v in value):
        limit = f" of at least {least:g}" if math.isfinite(least) else ""
        raise ValueError(f"{name} is {value!r}, expected three integers{limit}")


def _is_triple(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    )


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{v:g}' for v in values)}]"
