"""Tests of zarr and N5 arrays whose metadata names their axes, in any order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2features.core.chunks import FileCounts
from l2features.core.errors import VolumeError
from l2features.core.geometry import Chunk
from l2features.testing.layers import read_whole
from l2features.volume import Volume
from tests.support.volume_zarr import GEOMETRY, LABELS, SHAPE, write

RESOLUTION = {"x": 16, "y": 16, "z": 40}
Write = Callable[[Path, list[str]], None]


def stored(axes: list[str]) -> np.ndarray:
    """Return the labels with their axes in this order; other axes have size 1."""
    spatial = [axis.lower() for axis in axes if axis.lower() in "xyz"]
    data = LABELS.transpose(["xyz".index(axis) for axis in spatial])
    return data.reshape(
        [n for axis in axes for n in [dict(zip("xyz", SHAPE, strict=True)).get(axis.lower(), 1)]]
    )


def write_zarr2(folder: Path, axes: list[str]) -> None:
    data = stored(axes)
    meta = {"zarr_format": 2, "shape": data.shape, "chunks": data.shape, "dtype": "<u8", "order": "C"}
    write(folder / ".zarray", meta | {"fill_value": 0, "compressor": None, "filters": None})
    write(folder / ".zattrs", {"_ARRAY_DIMENSIONS": axes})
    write(folder / ".".join("0" * data.ndim), data.tobytes())


def write_zarr3(folder: Path, axes: list[str]) -> None:
    data = stored(axes)
    meta: dict[str, Any] = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": data.shape,
        "data_type": "uint64",
    }
    meta["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": data.shape}}
    meta["codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    write(folder / "zarr.json", meta | {"fill_value": 0, "dimension_names": axes})
    write(folder / "c" / "/".join("0" * data.ndim), data.tobytes())


def write_n5(folder: Path, axes: list[str], units: list[str] | None = None) -> None:
    data = stored(axes)
    meta = {"dimensions": data.shape, "blockSize": data.shape, "dataType": "uint64", "axes": axes}
    resolution = [RESOLUTION[axis.lower()] for axis in axes]
    write(folder / "attributes.json", meta | {"resolution": resolution, "units": units or ["nm"] * 3})
    header = b"\0\0\0\3" + b"".join(n.to_bytes(4, "big") for n in data.shape)
    write(folder / "0" / "0" / "0", header + data.astype(">u8").tobytes("F"))


@pytest.mark.parametrize("axes", ["xyz", "zyx", "yxz", "zxy", "XYZ"])
@pytest.mark.parametrize(
    ("kind", "write_array"), [("zarr2", write_zarr2), ("zarr3", write_zarr3), ("n5", write_n5)]
)
def test_axes_by_name(tmp_path: Path, axes: str, kind: str, write_array: Write) -> None:
    write_array(tmp_path, list(axes))
    volume = Volume(f"{kind}://file://{tmp_path}", scale=(16, 16, 40))
    assert volume.bounds.voxel_size == SHAPE
    labels, files = read_whole(volume, Chunk(0, 0, 0), GEOMETRY)
    np.testing.assert_array_equal(labels, LABELS)
    assert files == FileCounts(1, 1)


@pytest.mark.parametrize(("kind", "write_array"), [("zarr2", write_zarr2), ("zarr3", write_zarr3)])
def test_channels_behind_or_before_the_space(tmp_path: Path, kind: str, write_array: Write) -> None:
    for axes in (["c", "x", "y", "z"], ["z", "y", "x", "channel"], ["t", "c", "y", "x", "z"]):
        write_array(tmp_path / "".join(axes), axes)
        volume = Volume(f"{kind}://{tmp_path / ''.join(axes)}", scale=(16, 16, 40))
        np.testing.assert_array_equal(read_whole(volume, Chunk(0, 0, 0), GEOMETRY).labels, LABELS)


@pytest.mark.parametrize(("kind", "write_array"), [("zarr2", write_zarr2), ("zarr3", write_zarr3)])
def test_axes_with_other_names_are_refused(tmp_path: Path, kind: str, write_array: Write) -> None:
    write_array(tmp_path, ["z", "y", "x"])
    path = tmp_path / (".zattrs" if kind == "zarr2" else "zarr.json")
    path.write_text(path.read_text().replace('["z", "y", "x"]', '["dim_0", "dim_1", "dim_2"]'))
    with pytest.raises(VolumeError, match=r"axes are \['dim_0', 'dim_1', 'dim_2'\] of sizes"):
        Volume(f"{kind}://{tmp_path}", scale=(16, 16, 40))


def test_n5_has_its_resolution_in_the_order_and_units_of_its_axes(tmp_path: Path) -> None:
    write_n5(tmp_path / "nm", list("zyx"))
    assert Volume(f"n5://{tmp_path / 'nm'}").bounds.resolution == (16, 16, 40)
    write_n5(tmp_path / "um", list("zyx"), ["um", "nm", "nm"])
    assert Volume(f"n5://{tmp_path / 'um'}").bounds.resolution == (16, 16, 40_000)
