"""Tests of opening layers: a scale is chosen, and unsupported layers fail with a one-line error."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2features.core.errors import VolumeError
from l2features.core.geometry import Chunk
from l2features.testing.layers import GEOMETRY, cells_of_labels, edit_info, make_layer, read_whole
from l2features.volume import Volume, layer


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return cells_of_labels()


def refusal(folder: Path | str, **keys: Any) -> str:
    """Return the one-line error with which a layer is refused."""
    path = str(folder) if "://" in str(folder) else f"precomputed://file://{folder}"
    with pytest.raises(VolumeError) as error:
        Volume(path, **keys)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"cannot open {path}: ")


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"@type": "neuroglancer_annotations_v1"}, "holds annotations"),
        ({"@type": "neuroglancer_multilod_draco"}, "holds meshes"),
        ({"@type": "neuroglancer_legacy_mesh"}, "holds meshes"),
        ({"@type": "neuroglancer_skeletons"}, "holds skeletons"),
        ({"@type": "neuroglancer_segment_properties"}, "holds segment properties"),
        ({"vertex_quantization_bits": 10}, "holds meshes"),
        ([], "info is list, expected a JSON object"),
        ({}, "type is None, expected 'segmentation'"),
        ({"type": "segmentation", "data_type": "uint64", "num_channels": 1}, "info has no scales"),
    ],
)
def test_other_layers(tmp_path: Path, info: Any, said: str) -> None:
    (tmp_path / "info").write_text(json.dumps(info))
    assert refusal(tmp_path).startswith(said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"type": "image"}, "type is 'image', expected 'segmentation'"),
        ({"num_channels": 3}, "3 channels, expected 1"),
        ({"data_type": "float32"}, "voxels are float32, expected integers of 8 to 64 bits"),
        ({"encoding": "jpeg"}, "encoding is 'jpeg', expected an encoding for segmentations: raw, "),
        (
            {"encoding": "compressed_segmentation", "data_type": "uint8"},
            "data_type is uint8, expected uint32 or uint64 for encoding compressed_segmentation",
        ),
        ({"size": [64, 64]}, "size is [64, 64], expected three integers of at least 1"),
        ({"chunk_sizes": []}, "chunk_sizes are [], expected lists"),
        ({"chunk_sizes": [[0, 8, 8]]}, "chunk_sizes is [0, 8, 8], expected three integers of at least 1"),
        ({"resolution": [16, 16, 0]}, "resolution is [16, 16, 0], expected three positive numbers"),
        ({"key": 7}, "key of the scale is 7, expected a string"),
    ],
)
def test_infos_of_what_cannot_be_read(
    tmp_path: Path, labels: np.ndarray, changes: dict[str, Any], said: str
) -> None:
    edit_info(make_layer(tmp_path, labels), **changes)
    assert refusal(tmp_path).startswith(said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"@type": "other"}, "expected @type neuroglancer_uint64_sharded_v1"),
        ({"minishard_bits": -1}, "'minishard_bits': -1, 'shard_bits': 1}: expected integers of 0 or more, "),
        ({"hash": "md5"}, "has the hash 'md5', expected identity or murmurhash3_x86_128"),
        ({"data_encoding": "zip"}, "has the data_encoding 'zip', expected raw or gzip"),
    ],
)
def test_shardings_that_cannot_be_read(
    tmp_path: Path, labels: np.ndarray, changes: dict[str, Any], said: str
) -> None:
    make_layer(tmp_path, labels, sharded=True)
    sharding = json.loads((tmp_path / "info").read_text())["scales"][0]["sharding"]
    edit_info(tmp_path, sharding=sharding | changes)
    assert said in refusal(tmp_path)


def test_a_decoder_that_is_not_installed(
    tmp_path: Path, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(layer.DECODERS, "crackle", ("no_such_module", "crackle-codec"))
    edit_info(make_layer(tmp_path, labels), encoding="crackle")
    assert refusal(tmp_path) == "encoding is crackle, whose decoder is missing: pip install crackle-codec"


@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation", "crackle", "compresso"])
@pytest.mark.parametrize("sharded", [False, True])
def test_encodings(tmp_path: Path, labels: np.ndarray, encoding: str, sharded: bool) -> None:
    make_layer(tmp_path, labels, sharded, encoding=encoding)
    read = read_whole(Volume(f"precomputed://file://{tmp_path}"), Chunk(0, 0, 0), GEOMETRY)
    np.testing.assert_array_equal(read.labels, labels)
    assert read.files[:3] == (4, 4, 0)


@pytest.mark.parametrize("encoding", ["crackle", "compresso", "compressed_segmentation"])
def test_a_block_of_another_size(tmp_path: Path, labels: np.ndarray, encoding: str) -> None:
    make_layer(tmp_path, labels, encoding=encoding)
    one, *_ = sorted((tmp_path / "16_16_40").iterdir())
    make_layer(tmp_path / "other", labels, encoding=encoding, chunk_size=(16, 16, 16))
    one.write_bytes(next((tmp_path / "other" / "16_16_40").iterdir()).read_bytes())
    with pytest.raises(VolumeError, match=f"chunk 0,0,0: cannot read .*file 16_16_40/{one.name}: "):
        read_whole(Volume(f"precomputed://file://{tmp_path}"), Chunk(0, 0, 0), GEOMETRY)


@pytest.mark.parametrize("encoding", ["crackle", "compresso", "compressed_segmentation"])
@pytest.mark.parametrize("missing", [1, 8, 100, 0.5])
def test_a_block_that_was_cut_off(tmp_path: Path, labels: np.ndarray, encoding: str, missing: float) -> None:
    make_layer(tmp_path, labels, encoding=encoding)
    one, *_ = sorted((tmp_path / "16_16_40").iterdir())
    whole = one.read_bytes()
    one.write_bytes(whole[: -int(missing if missing >= 1 else len(whole) * missing)])
    with pytest.raises(VolumeError, match=f"chunk 0,0,0: cannot read .*file 16_16_40/{one.name}: "):
        read_whole(Volume(f"precomputed://file://{tmp_path}"), Chunk(0, 0, 0), GEOMETRY)


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_signed_labels(tmp_path: Path, bits: int) -> None:
    labels = cells_of_labels(f"int{bits}")
    make_layer(tmp_path, labels)
    read = read_whole(Volume(f"precomputed://file://{tmp_path}"), Chunk(0, 0, 0), GEOMETRY).labels
    assert read.dtype == f"uint{bits}"
    np.testing.assert_array_equal(read, labels)
    labels[5, 40, 3] = -7
    make_layer(tmp_path, labels)
    with pytest.raises(VolumeError, match=r"file 16_16_40/0-32_32-64_0-32: label -7 is negative"):
        read_whole(Volume(f"precomputed://file://{tmp_path}"), Chunk(0, 0, 0), GEOMETRY)


@pytest.fixture
def two_scales(tmp_path: Path, labels: np.ndarray) -> Path:
    """A layer whose first scale has no files."""
    make_layer(tmp_path, labels)
    info = json.loads((tmp_path / "info").read_text())
    fine = info["scales"][0] | {"key": "8_8_40", "resolution": [8, 8, 40], "size": [128, 128, 32]}
    (tmp_path / "info").write_text(json.dumps(info | {"scales": [fine, *info["scales"]]}))
    return tmp_path


@pytest.mark.parametrize("keys", [{"mip": 1}, {"scale": (16, 16, 40)}, {"scale": (16.0, 16.0, 40.0)}])
def test_a_scale_is_chosen(two_scales: Path, labels: np.ndarray, keys: dict[str, Any]) -> None:
    volume = Volume(f"file://{two_scales}", **keys)
    assert (volume.mip, volume.bounds.resolution, volume.placeholder()) == (1, (16, 16, 40), "")
    np.testing.assert_array_equal(read_whole(volume, Chunk(0, 0, 0), GEOMETRY).labels, labels)


def test_missing_scales(two_scales: Path) -> None:
    there = "expected one of mip 0 ([8, 8, 40] nm), mip 1 ([16, 16, 40] nm)"
    assert refusal(two_scales, mip=2) == f"mip 2: {there}"
    assert refusal(two_scales, scale=(4, 4, 40)) == f"scale [4, 4, 40]: {there}"


def test_a_scale_without_files_is_named(two_scales: Path) -> None:
    volume = Volume(f"file://{two_scales}")
    said = "mip 0 ([8, 8, 40] nm) has no files; scales with files: mip 1 ([16, 16, 40] nm)"
    assert volume.placeholder().endswith(said)


def test_a_redirected_info(tmp_path: Path, labels: np.ndarray) -> None:
    make_layer(tmp_path / "there", labels)
    (tmp_path / "info").write_text(json.dumps({"redirect": f"precomputed://file://{tmp_path}/there"}))
    read = read_whole(Volume(f"file://{tmp_path}"), Chunk(0, 0, 0), GEOMETRY).labels
    np.testing.assert_array_equal(read, labels)
    (tmp_path / "info").write_text(json.dumps({"redirect": f"precomputed://file://{tmp_path}"}))
    assert refusal(tmp_path) == "info redirects 10 times, expected fewer"


@pytest.mark.parametrize("kind", ["precomputed", "graphene", "zarr2", "n5"])
def test_a_host_that_does_not_exist_is_named_soon(kind: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{closed.getsockname()[1]}"
        start = time.monotonic()
        said = refusal(f"{kind}://http://{host}/segmentation/table/x")
    assert said == f"host {host} cannot be reached: Connection refused"
    assert time.monotonic() - start < 5
