"""Decoding of a segmentation's blocks, with the checks that the decoders lack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.unsignedinteger[Any]]


class Encoding(NamedTuple):
    """An encoding: its name, its data type, and the block size in voxels for compressed_segmentation."""

    name: str
    dtype: np.dtype[Any]
    block_size: tuple[int, int, int] = (8, 8, 8)

    def most_bytes(self, shape: Sequence[int]) -> int:
        """Return the maximum size in bytes of an encoded block of ``shape`` voxels."""
        return 2 * int(np.prod(shape, dtype=object)) * self.dtype.itemsize + (1 << 20)

    def decode(self, content: bytes, shape: tuple[int, int, int]) -> Labels:
        """Return the labels of a block, an array of ``shape`` in Fortran order.

        For compressed_segmentation, return the block's 32-bit words instead, checked but not decoded. Raises
        ValueError for a broken block.
        """
        try:
            part = _DECODERS[self.name](content, shape, self)
        except ValueError:
            raise
        except Exception as error:  # decoders share no base class
            text = str(error) or type(error).__name__
            raise ValueError(f"the {self.name} encoding is broken: {text}") from error
        return as_labels(part)


def as_labels(part: npt.NDArray[Any]) -> Labels:
    """Return integers as unsigned labels. Raises ValueError if any is negative."""
    if part.dtype.kind == "u":
        return part
    if part.size and part.min() < 0:
        raise ValueError(f"label {part.min()} is negative, expected 0 or more")
    return part.view(f"u{part.dtype.itemsize}")


def _raw(content: bytes, shape: tuple[int, int, int], encoding: Encoding) -> npt.NDArray[Any]:
    expected = int(np.prod(shape)) * encoding.dtype.itemsize
    if len(content) != expected:
        raise ValueError(f"{len(content)} bytes, expected {expected}")
    return np.frombuffer(content, encoding.dtype).reshape(shape, order="F")


def _compressed(content: bytes, shape: tuple[int, int, int], encoding: Encoding) -> npt.NDArray[Any]:
    from .compressed import checked_words

    return checked_words(content, shape, encoding.dtype.itemsize, encoding.block_size)


def _crackle(content: bytes, shape: tuple[int, int, int], encoding: Encoding) -> npt.NDArray[Any]:
    import crackle
    from crackle import codec
    from google_crc32c import value

    header = crackle.header(content)
    _same_shape((header.sx, header.sy, header.sz), shape)
    checksums = 4 * header.sz + 4 if header.format_version else 0
    end = int(codec.grid_index(content)[-1]) + checksums
    if end != len(content):
        raise ValueError(f"{len(content)} bytes, expected {end}")
    if checksums and codec.labels_crc(content) != value(bytes(codec.raw_labels(content))):
        raise ValueError("the crackle encoding is broken: the checksum of its labels is wrong")
    return _same_type(np.asarray(crackle.decompress(content)), shape, encoding)


def _compresso(content: bytes, shape: tuple[int, int, int], encoding: Encoding) -> npt.NDArray[Any]:
    import compresso

    header = compresso.header(content)
    _same_shape((header["sx"], header["sy"], header["sz"]), shape)
    if header["format_version"] >= 1:  # it ends with counts per z; the first half sums to the number of ids
        width = compresso.zindex_byte_width(header["sx"], header["sy"])
        counts = np.frombuffer(content[-2 * header["sz"] * width :], f"<u{width}")
        if counts[: header["sz"]].sum(dtype=np.uint64) != header["id_size"]:
            raise ValueError("the compresso encoding is cut off, or broken: its index along z is wrong")
    return _same_type(np.asarray(compresso.decompress(content)), shape, encoding)


def _png(content: bytes, shape: tuple[int, int, int], encoding: Encoding) -> npt.NDArray[Any]:
    from cloudvolume import chunks

    part = chunks.decode(content, "png", (*shape, 1), encoding.dtype)
    return np.asarray(part)[..., 0]


def _same_shape(found: tuple[int, int, int], shape: tuple[int, int, int]) -> None:
    if tuple(found) != tuple(shape):
        raise ValueError(f"block has shape {tuple(found)}, expected {tuple(shape)}")


def _same_type(part: npt.NDArray[Any], shape: tuple[int, int, int], encoding: Encoding) -> npt.NDArray[Any]:
    part = part.reshape(shape)
    if part.dtype == encoding.dtype:
        return part
    if part.dtype.itemsize > encoding.dtype.itemsize:
        raise ValueError(f"labels are {part.dtype}, expected {encoding.dtype}")
    return part.astype(encoding.dtype)


_DECODERS = {
    "raw": _raw,
    "compressed_segmentation": _compressed,
    "crackle": _crackle,
    "compresso": _compresso,
    "png": _png,
}
