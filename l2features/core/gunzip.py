"""Decompress gzip data that clients send, within limits."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

MAX_MEMBERS = 1000
"""Maximum members (concatenated gzip streams) of a file: a file of many empty members would take long."""
_GZIP = 31
"""Value of zlib's ``wbits`` that selects the gzip format."""


class GunzipTooLarge(ValueError):
    """The content is larger than the limit."""


def gunzipped(pieces: Iterable[bytes], most: int) -> bytearray:
    """Return the content of a gzip file that arrives in pieces.

    Raises:
        GunzipTooLarge: the content has more than ``most`` bytes; unpacking stops there.
        ValueError: the file is not valid gzip, or has more than `MAX_MEMBERS` members.
    """
    out, members, ended = bytearray(), 0, True
    for piece in pieces:
        while piece:
            if ended:
                unpacker, members = zlib.decompressobj(_GZIP), members + 1
                if members > MAX_MEMBERS:
                    raise ValueError(f"the gzip file has too many members: expected {MAX_MEMBERS} at most")
            try:
                out += unpacker.decompress(piece, most + 1 - len(out))
            except zlib.error as error:
                raise ValueError(str(error)) from error
            if len(out) > most:
                raise GunzipTooLarge(f"the gzip content is too large: expected {most} bytes at most")
            piece, ended = unpacker.unused_data, unpacker.eof
    if not ended:
        raise ValueError("the gzip content ends too early: expected the end of its last member")
    return out
