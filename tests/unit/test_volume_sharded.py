"""Tests of sharded layers: every layout is read, and all visible damage fails the chunk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloudvolume.datasource.precomputed import mmh3
from cloudvolume.datasource.precomputed.common import compressed_morton_code

from l2features.core.errors import VolumeError
from l2features.core.geometry import Chunk, Geometry
from l2features.core.ids import IdLayout
from l2features.testing.layers import GEOMETRY, cells_of_labels, make_layer, read_whole
from l2features.volume import Volume
from l2features.volume.sharded import morton_codes, murmurhash3

SHARD = "16_16_40/0.shard"


def read(folder: Path, geometry: Geometry = GEOMETRY, xyz: tuple[int, ...] = (0, 0, 0)) -> Any:
    return read_whole(Volume(f"file://{folder}"), Chunk(*xyz), geometry)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"data_encoding": "gzip", "minishard_index_encoding": "gzip"},
        {"hash": "murmurhash3_x86_128", "shard_bits": 3, "preshift_bits": 1},
        {"minishard_bits": 0, "shard_bits": 0},
        {"minishard_bits": 5, "preshift_bits": 2},
        {"chunk_size": (16, 8, 32), "shard_bits": 5},
    ],
)
def test_layouts(tmp_path: Path, keys: dict[str, Any]) -> None:
    labels = cells_of_labels()
    make_layer(tmp_path, labels, sharded=True, **keys)
    np.testing.assert_array_equal(read(tmp_path).labels, labels)
    small = Geometry((16.0, 16.0, 40.0), (0, 0, 0), labels.shape, (24, 40, 20), IdLayout({2: 10}))
    for xyz in np.ndindex(*small.grid):
        part = labels[tuple(slice(a * n, a * n + n) for a, n in zip(xyz, small.chunk_size, strict=True))]
        found = read(tmp_path, small, xyz).labels
        np.testing.assert_array_equal(found[tuple(map(slice, part.shape))], part)


def test_encodings_that_the_info_leaves_out_are_raw(tmp_path: Path) -> None:
    labels = cells_of_labels()
    make_layer(tmp_path, labels, sharded=True)
    info = json.loads((tmp_path / "info").read_text())
    for name in ("data_encoding", "minishard_index_encoding"):
        del info["scales"][0]["sharding"][name]
    (tmp_path / "info").write_text(json.dumps(info))
    np.testing.assert_array_equal(read(tmp_path).labels, labels)


def test_a_minishard_without_blocks_is_missing(tmp_path: Path) -> None:
    make_layer(tmp_path, cells_of_labels(), sharded=True)
    path = tmp_path / SHARD
    path.write_bytes(bytes(16) + path.read_bytes()[16:])
    labels, files = read(tmp_path)
    assert files[:3] == (4, 3, 1)
    assert not labels[:32, :32].any()


def changed(content: bytes, at: int, value: int) -> bytes:
    return content[:at] + value.to_bytes(8, "little") + content[at + 8 :]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c, i: c[:20], "cut off after 20 bytes: its index takes 32"),
        (lambda c, i: c[: i + 10], "the index of minishard 0 is cut off: 10 bytes, expected 24"),
        (lambda c, i: c[:-30], "cut off"),
        (lambda c, i: changed(c, 0, 2**63), "index is broken: points beyond the file's end"),
        (lambda c, i: bytes(32) + c[32:], "names no minishard, but data follows the index"),
        (lambda c, i: c[:8] + c, "names no minishard, but data follows the index"),
        (lambda c, i: changed(c, 16, i - 32), "minishards overlap"),
        (lambda c, i: changed(c, 8, i - 40), "index places minishard 0 at bytes "),
        (lambda c, i: changed(c, 8, i - 32 + 16), "has 16 bytes, expected a multiple of 24"),
        (lambda c, i: changed(c, i, 1), "lists ids of another minishard"),
        (lambda c, i: changed(c, i, 2**40), "lists an id beyond the grid"),
        (lambda c, i: changed(c, i + 8, 2**63), "places a block beyond the file"),
        (lambda c, i: changed(c, i + 8, i - 32), "blocks overlap"),
        (lambda c, i: changed(c, i + 8, i - 32 + 24), "blocks overlap"),
        (lambda c, i: changed(c, i + 16, 2**40), "blocks overlap"),
        (lambda c, i: changed(c, i + 16, 100), "100 bytes, expected 262144"),
    ],
)
def test_damages(tmp_path: Path, damage: Any, said: str) -> None:
    """``damage`` changes the file's bytes ``c``; ``i`` is the offset of minishard 0's index in the file."""
    make_layer(tmp_path, cells_of_labels(), sharded=True)
    content = (tmp_path / SHARD).read_bytes()
    start, stop = (int(n) for n in np.frombuffer(content[:16], "<u8"))
    assert stop - start == 24
    (tmp_path / SHARD).write_bytes(damage(content, start + 32))
    with pytest.raises(VolumeError, match=r"^chunk 0,0,0: cannot read .*file 16_16_40/0.shard") as error:
        read(tmp_path)
    assert said in str(error.value)


def test_murmurhash_and_morton_codes_are_those_of_cloud_volume() -> None:
    values = np.random.default_rng(0).integers(0, 2**64, 50, dtype=np.uint64)
    expected = [mmh3.hash64(value.tobytes(), x64arch=False)[0] % 2**64 for value in values]
    assert murmurhash3(values).tolist() == expected
    for shape in [(5, 3, 1), (1, 1, 1), (17, 9, 4), (2, 64, 3)]:
        cells = np.array(list(np.ndindex(*shape)))
        assert morton_codes(cells, shape).tolist() == compressed_morton_code(cells, shape).tolist()
