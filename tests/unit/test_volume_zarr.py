"""Tests of zarr and N5: labels stored in each way, and missing or broken files."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import blosc
import numpy as np
import pytest
import zstandard

from l2features.core.chunks import FileCounts
from l2features.core.errors import VolumeError
from l2features.core.geometry import Chunk
from l2features.testing.layers import read_whole
from l2features.volume import Volume
from tests.support.volume_zarr import GEOMETRY, LABELS, SHAPE, STEP, write

N_BLOCKS = 27
Compress = Callable[[bytes], bytes]
COMPRESS: dict[str, Compress] = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "blosc": lambda data: bytes(blosc.compress(data, typesize=8)),
    "raw": bytes,
}


def multiscales(path: str, unit: str | None = "nanometer") -> dict[str, Any]:
    axes = [{"name": name, "type": "space", **({"unit": unit} if unit else {})} for name in "zyx"]
    scale = {"type": "scale", "scale": [40, 16, 16]}
    return {
        "multiscales": [{"axes": axes, "datasets": [{"path": path, "coordinateTransformations": [scale]}]}]
    }


def blocks(full: bool = True) -> Any:
    """Yield each block's grid coordinates and voxels. ``full`` pads blocks that the array's end cuts off."""
    for cell in np.ndindex(*(math.ceil(n / step) for n, step in zip(SHAPE, STEP, strict=True))):
        part = LABELS[tuple(slice(a * n, a * n + n) for a, n in zip(cell, STEP, strict=True))]
        pad = [(0, n - m) for n, m in zip(STEP, part.shape, strict=True)] if full else [(0, 0)] * 3
        yield cell, np.pad(part, pad)


def write_zarr2(
    folder: Path, codec: str = "gzip", order: str = "C", separator: str = ".", **more: Any
) -> None:
    write(folder / ".zattrs", multiscales("s0"))
    compressor = None if codec == "raw" else {"id": codec}
    meta = {"shape": SHAPE[::-1], "chunks": STEP[::-1], "dtype": "<u8", "order": order, "fill_value": 0}
    meta |= {"compressor": compressor, "filters": None, "dimension_separator": separator, "zarr_format": 2}
    write(folder / "s0" / ".zarray", meta | more)
    for cell, part in blocks():
        data = part.transpose(2, 1, 0).tobytes(order)  # type: ignore[arg-type]
        write(folder / "s0" / separator.join(map(str, cell[::-1])), COMPRESS[codec](data))


def write_zarr3(folder: Path, codec: str = "zstd", **more: Any) -> None:
    ome = {"version": "0.5", **multiscales("0")}
    write(folder / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}})
    codecs = [{"name": "bytes", "configuration": {"endian": "big"}}]
    codecs += [] if codec == "raw" else [{"name": codec, "configuration": {}}]
    grid = {"name": "regular", "configuration": {"chunk_shape": STEP[::-1]}}
    meta = {"zarr_format": 3, "node_type": "array", "shape": SHAPE[::-1], "chunk_grid": grid}
    meta |= {"data_type": "uint64", "codecs": codecs, "fill_value": 0}
    write(folder / "0" / "zarr.json", meta | more)
    for cell, part in blocks():
        data = part.transpose(2, 1, 0).astype(">u8").tobytes()
        write(folder / "0" / "c" / "/".join(map(str, cell[::-1])), COMPRESS[codec](data))


def write_n5(folder: Path, codec: str = "gzip") -> None:
    write(folder / "attributes.json", {"pixelResolution": {"unit": "nm", "dimensions": [16, 16, 40]}})
    meta = {"dimensions": SHAPE, "blockSize": STEP, "dataType": "uint64", "compression": {"type": codec}}
    write(folder / "s0" / "attributes.json", meta)
    for cell, part in blocks(full=False):
        header = b"\0\0\0\3" + b"".join(n.to_bytes(4, "big") for n in part.shape)
        data = part.astype(">u8").tobytes("F")
        write(folder / "s0" / "/".join(map(str, cell)), header + COMPRESS[codec](data))


WAYS: dict[str, Callable[[Path], None]] = {
    **{f"zarr2://{codec}": partial(write_zarr2, codec=codec) for codec in COMPRESS},
    "zarr2://fortran": partial(write_zarr2, order="F", separator="/"),
    **{f"zarr3://{codec}": partial(write_zarr3, codec=codec) for codec in COMPRESS},
    **{f"n5://{codec}": partial(write_n5, codec=codec) for codec in COMPRESS},
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_store_labels(tmp_path: Path, way: str) -> None:
    WAYS[way](tmp_path)
    kind = way.partition("://")[0]
    for path in (f"{kind}://file://{tmp_path}", f"{tmp_path}|{kind}:", f"{kind}://{tmp_path}"):
        volume = Volume(path)
        assert volume.bounds.resolution == (16, 16, 40)
        labels, files = read_whole(volume, Chunk(0, 0, 0), GEOMETRY)
        np.testing.assert_array_equal(labels, LABELS)
        assert files == FileCounts(N_BLOCKS, N_BLOCKS)


def test_zarr_without_a_number_is_either(tmp_path: Path) -> None:
    write_zarr2(tmp_path / "two")
    write_zarr3(tmp_path / "three")
    for name in ("two", "three"):
        labels = read_whole(Volume(f"zarr://file://{tmp_path / name}"), Chunk(0, 0, 0), GEOMETRY).labels
        np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("way", WAYS)
def test_files_that_are_missing_empty_or_broken(tmp_path: Path, way: str) -> None:
    WAYS[way](tmp_path)
    path = f"{way.partition('://')[0]}://file://{tmp_path}"
    victim = sorted(p for p in tmp_path.rglob("*") if p.is_file() and p.name[0].isdigit())[5]
    content = victim.read_bytes()
    for broken in (content[:-9], content[: len(content) // 2], b"\xff" * 40):
        victim.write_bytes(broken)
        with pytest.raises(VolumeError, match=rf"chunk 0,0,0: cannot read .*file \S*{victim.name}: "):
            read_whole(Volume(path), Chunk(0, 0, 0), GEOMETRY)
    victim.write_bytes(b"")
    with pytest.raises(VolumeError, match="is empty: 'empty_files: background'"):
        read_whole(Volume(path), Chunk(0, 0, 0), GEOMETRY)
    assert read_whole(Volume(path, empty_files="background"), Chunk(0, 0, 0), GEOMETRY).files.empty == 1
    victim.unlink()
    assert read_whole(Volume(path), Chunk(0, 0, 0), GEOMETRY).files == FileCounts(N_BLOCKS, N_BLOCKS - 1, 1)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"fill_value": 7}, "fill_value is 7, expected 0"),
        ({"filters": [{"id": "delta"}]}, "has filters"),
        ({"compressor": {"id": "lz4"}}, "codec is 'lz4', expected one of blosc"),
        ({"dtype": "<f4"}, "voxels are float32, expected integers"),
        ({"shape": [2, *SHAPE[::-1]]}, "axes are"),
        ({"chunks": None}, "metadata is not valid zarr2: "),
    ],
)
def test_arrays_that_are_not_read(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    write_zarr2(tmp_path, **more)
    with pytest.raises(VolumeError, match=r"^cannot open zarr2://") as error:
        Volume(f"zarr2://file://{tmp_path}")
    assert said in str(error.value)


def test_sharded_zarr_is_refused_by_name(tmp_path: Path) -> None:
    write_zarr3(tmp_path, codecs=[{"name": "sharding_indexed", "configuration": {}}])
    with pytest.raises(VolumeError, match="codec is 'sharding_indexed', expected one of bytes, transpose, "):
        Volume(f"zarr3://file://{tmp_path}")


@pytest.mark.parametrize("unit", [None, "parsec"])
def test_a_resolution_without_a_unit_is_asked_for(tmp_path: Path, unit: str | None) -> None:
    write_zarr2(tmp_path)
    write(tmp_path / ".zattrs", multiscales("s0", unit))
    with pytest.raises(VolumeError, match=r"the layer has no resolution with units: give 'scale: \[x"):
        Volume(f"zarr2://file://{tmp_path}")
    volume = Volume(f"zarr2://file://{tmp_path}", scale=(16, 16, 40))
    assert volume.bounds.resolution == (16, 16, 40)
