"""Tests of gzipped files: whole ones in every form, and broken ones, which never count as empty."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from l2features.core.errors import VolumeError
from l2features.core.geometry import Chunk
from l2features.testing.layers import GEOMETRY, cells_of_labels, make_layer, read_whole
from l2features.volume import Volume
from l2features.volume.storage import gunzip

DATA = bytes(range(256)) * 100
WHOLE = gzip.compress(DATA)


@pytest.mark.parametrize(
    "content",
    [
        WHOLE,
        WHOLE + bytes(512),
        gzip.compress(DATA[:9000]) + gzip.compress(DATA[9000:]),
        gzip.compress(DATA[:-9]) + gzip.compress(DATA[-9:]),
        WHOLE + gzip.compress(b""),
    ],
    ids=["one", "zeros", "two", "small_second", "empty_second"],
)
def test_whole_files(content: bytes) -> None:
    assert gunzip(content, len(DATA)) == DATA


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (WHOLE[:-9], "the gzip stream is cut off"),
        (WHOLE[:-4] + bytes(4), "incorrect length check"),
        (WHOLE + b"more", "incorrect header check"),
        (b"\xff" * 40, "incorrect header check"),
        (gzip.compress(bytes(len(DATA) + 1)), "expected at most 25600 bytes when decompressed"),
        (gzip.compress(bytes(1 << 20)) + gzip.compress(b"a"), "expected at most 25600 bytes"),
    ],
    ids=["cut_off", "length", "more_behind", "no_gzip", "too_large", "too_large_first"],
)
def test_broken_files(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        gunzip(content, len(DATA))


def test_a_file_that_ends_in_zeros_is_not_empty(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    labels = cells_of_labels()
    make_layer(tmp_path, labels)
    path = sorted((tmp_path / "16_16_40").iterdir())[0]
    content = gzip.compress(path.read_bytes())
    path.unlink()
    compressed = Path(f"{path}.gz")
    volume = Volume(f"file://{tmp_path}", empty_files="background")
    compressed.write_bytes(content + bytes(512))
    found, files = read_whole(volume, Chunk(0, 0, 0), GEOMETRY)
    np.testing.assert_array_equal(found, labels)
    assert files.read == 4
    for broken, said in ((content[:-50] + bytes(50), "gzip compression: "), (b"\1" * 99, "incorrect header")):
        compressed.write_bytes(broken)
        with pytest.raises(VolumeError, match=rf"file 16_16_40/{path.name}: broken .*{said}"):
            read_whole(volume, Chunk(0, 0, 0), GEOMETRY)
    assert not capfd.readouterr().out
