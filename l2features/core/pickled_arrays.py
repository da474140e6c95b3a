"""Integer arrays and scalars of numpy in a pickle, read without calling what the pickle names.

numpy pickles an array as a call that makes an empty one and a state that fills it, or, from protocol 5 on,
as a view of a buffer; a scalar as its dtype and bytes. Up to protocol 2, bytes are a call that encodes a text
as latin1, or one of the class ``bytes``, which makes none. Here each of these names is an inert stand-in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .unpickle import Make, Name, Refused, Stand, shown

_INTEGER = re.compile(r"[iu][1248]")
_DTYPE_STATE = (3, None, None, None, None, -1, -1, 0)


class IntegerArray(Stand):
    """A numpy array of integers: ``values`` is flat, in the order of memory."""

    shape: tuple[int, ...] | None = None
    values: npt.NDArray[np.integer[Any]] = np.empty(0, np.int64)

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5 or self.shape is not None:
            raise Refused("an array with a state that is not numpy's")
        _, shape, dtype, _, raw = state
        self.fill(raw, dtype, shape)

    def fill(self, raw: Any, dtype: Any, shape: Any) -> None:
        """Take the values. Raises Refused where bytes, dtype and shape do not fit."""
        kind = _dtype_of(dtype)
        if type(raw) not in (bytes, bytearray) or type(shape) is not tuple or len(shape) > 32:
            raise Refused("an array that is not made of bytes and a shape")
        if not all(type(n) is int and 0 <= n <= len(raw) for n in shape):
            raise Refused("an array whose shape does not fit its bytes")
        if math.prod(shape) * kind.itemsize != len(raw):
            raise Refused(f"an array of {len(raw)} bytes with the shape of another size")
        self.shape, self.values = shape, np.frombuffer(raw, kind)

    def children(self) -> Iterable[Any]:
        if self.shape is None:
            raise Refused("an array without values")
        return ()


class _Dtype(Stand):
    def __init__(self, args: tuple[Any, ...]) -> None:
        code = args[0] if args else None
        if type(code) is not str or not _INTEGER.fullmatch(code):
            raise Refused(f"numpy values of dtype {shown(code)}: expected integers")
        self.code, self.order = code, ""

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 8 or type(state[1]) is not str:
            raise Refused("a dtype with a state that is not numpy's")
        if (state[0], None, *state[2:]) != _DTYPE_STATE or state[1] not in {"<", ">", "|", "="}:
            raise Refused("a dtype that is not that of integers")
        self.order = state[1]


def _array_type(args: tuple[Any, ...]) -> Any:
    raise Refused("a call of numpy.ndarray")


def _dtype_of(value: Any) -> np.dtype[np.integer[Any]]:
    if type(value) is not _Dtype or not value.order:
        raise Refused("numpy values without a dtype")
    return np.dtype(value.order + value.code)


def _reconstruct(args: tuple[Any, ...]) -> IntegerArray:
    return IntegerArray()


def _frombuffer(args: tuple[Any, ...]) -> IntegerArray:
    if len(args) != 4:
        raise Refused(f"an array of {len(args)} arguments")
    array = IntegerArray()
    array.fill(*args[:3])
    return array


def _scalar(args: tuple[Any, ...]) -> int:
    if len(args) != 2 or type(args[1]) is not bytes:
        raise Refused("a numpy scalar that is not made of bytes")
    kind = _dtype_of(args[0])
    if len(args[1]) != kind.itemsize:
        raise Refused(f"a numpy scalar of {len(args[1])} bytes: expected {kind.itemsize}")
    return int(np.frombuffer(args[1], kind)[0])


def _encode(args: tuple[Any, ...]) -> bytes:
    if len(args) != 2 or type(args[0]) is not str or args[1] != "latin1":
        raise Refused("a text that is not encoded as latin1")
    return args[0].encode("latin1")


def _no_bytes(args: tuple[Any, ...]) -> bytes:
    if args:
        raise Refused("bytes that are made of something")
    return b""


def _names() -> Iterable[tuple[Name, Make]]:
    for core in ("numpy.core", "numpy._core"):
        yield (f"{core}.multiarray", "_reconstruct"), _reconstruct
        yield (f"{core}.multiarray", "scalar"), _scalar
        yield (f"{core}.numeric", "_frombuffer"), _frombuffer
    yield ("numpy", "ndarray"), _array_type
    yield ("numpy", "dtype"), _Dtype
    yield ("_codecs", "encode"), _encode
    for builtins in ("builtins", "__builtin__"):
        yield (builtins, "bytes"), _no_bytes


ARRAYS: Mapping[Name, Make] = dict(_names())
"""What a pickle of integer arrays and scalars names. A scalar becomes an int, an array an `IntegerArray`."""
