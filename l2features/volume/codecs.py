"""Decompression of the blocks of zarr and N5 arrays, up to a known size."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable


def _blosc(content: bytes, size: int) -> bytes:
    import blosc

    header = [int.from_bytes(content[at : at + 4], "little") for at in (4, 12)]
    if len(content) < 16 or header != [size, len(content)]:
        raise ValueError(f"blosc: header has {header} bytes, expected {[size, len(content)]}")
    return bytes(blosc.decompress(content))


def _zlib(content: bytes, size: int) -> bytes:
    stream = zlib.decompressobj(wbits=47)  # gzip or zlib, by its first bytes
    out = stream.decompress(content, size + 1)
    if not stream.eof and len(out) <= size:
        out += stream.flush()
    if not stream.eof or stream.unused_data:
        raise ValueError("gzip: end is missing or misplaced")
    return out


def _zstd(content: bytes, size: int) -> bytes:
    import zstandard

    if zstandard.frame_content_size(content) > size:
        raise ValueError(f"zstd: more than {size} bytes")
    return zstandard.ZstdDecompressor().decompress(content, max_output_size=size)


def _bz2(content: bytes, size: int) -> bytes:
    stream = bz2.BZ2Decompressor()
    out = stream.decompress(content, size + 1)
    if len(out) <= size and not stream.eof:
        raise ValueError("bz2: end is missing")
    return out


def _crc32c(content: bytes, size: int) -> bytes:
    import google_crc32c

    body, stored = content[:-4], int.from_bytes(content[-4:], "little")
    if len(content) < 4 or google_crc32c.value(body) != stored:
        raise ValueError("crc32c: checksum is wrong")
    return body


CODECS: dict[str, Callable[[bytes, int], bytes]] = {
    "blosc": _blosc,
    "gzip": _zlib,
    "zlib": _zlib,
    "zstd": _zstd,
    "bz2": _bz2,
    "bzip2": _bz2,
    "crc32c": _crc32c,
}
"""Each takes stored bytes and the size of the result."""


def decoded(content: bytes, codecs: tuple[str, ...], size: int) -> bytes:
    """Decode a block of ``size`` bytes, last codec first. Raises ValueError for a broken block."""
    for place in reversed(range(len(codecs))):
        overhead = 4 * codecs[:place].count("crc32c")
        try:
            content = CODECS[codecs[place]](content, size + overhead)
        except ValueError:
            raise
        except Exception as error:  # decompressors share no base class
            raise ValueError(f"{codecs[place]}: {error}") from error
    if len(content) != size:
        raise ValueError(f"{len(content)} bytes, expected {size}")
    return content
