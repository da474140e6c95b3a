"""Decompression of zarr and N5 blocks, whose decompressed size is known."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable


def _blosc(content: bytes, size: int) -> bytes:
    import blosc

    header = [int.from_bytes(content[at : at + 4], "little") for at in (4, 12)]
    if len(content) < 16 or header != [size, len(content)]:
        expected = f"expected {size} and {len(content)}"
        raise ValueError(f"blosc: header says {header[0]} bytes, {header[1]} compressed; {expected}")
    return bytes(blosc.decompress(content))


def _zlib(content: bytes, size: int) -> bytes:
    stream = zlib.decompressobj(wbits=47)  # gzip or zlib, by its first bytes
    out = stream.decompress(content, size + 1)
    if not stream.eof and len(out) <= size:
        out += stream.flush()
    if not stream.eof or stream.unused_data:
        raise ValueError(f"gzip: expected one whole stream of at most {size} bytes when decompressed")
    return out


def _zstd(content: bytes, size: int) -> bytes:
    import zstandard

    declared = zstandard.frame_content_size(content)
    if declared > size:
        raise ValueError(f"zstd: {declared} bytes when decompressed, expected at most {size}")
    return zstandard.ZstdDecompressor().decompress(content, max_output_size=size)


def _bz2(content: bytes, size: int) -> bytes:
    stream = bz2.BZ2Decompressor()
    out = stream.decompress(content, size + 1)
    if len(out) <= size and not stream.eof:
        raise ValueError("bz2: the stream is cut off")
    return out


def _crc32c(content: bytes, size: int) -> bytes:
    import google_crc32c

    body, stored = content[:-4], int.from_bytes(content[-4:], "little")
    if len(content) < 4 or google_crc32c.value(body) != stored:
        raise ValueError("crc32c: the stored checksum does not match the data")
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
"""Decoders by codec; each takes stored bytes and the expected size of the decoded bytes."""


def decoded(content: bytes, codecs: tuple[str, ...], size: int) -> bytes:
    """Decode a block, last codec first, to ``size`` bytes. Raises ValueError for a broken block."""
    for place in reversed(range(len(codecs))):
        overhead = 4 * codecs[:place].count("crc32c")
        try:
            content = CODECS[codecs[place]](content, size + overhead)
        except ValueError:
            raise
        except Exception as error:  # decompressors share no base class
            raise ValueError(f"{codecs[place]}: {error}") from error
    if len(content) != size:
        raise ValueError(f"{len(content)} bytes when decoded, expected {size}")
    return content
