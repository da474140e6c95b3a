"""Read pickles from other services without running the functions that they name.

First, the opcodes are checked, because a pickle can do harm even if it names no function: one large memo
index makes Python's unpickler allocate 64 GiB, and hashing nested tuples can overflow the stack or never end.
Then Python's unpickler runs. Instead of calling an allowed class or function, it creates an inert `Record` of
the arguments and state. Finally, the values are built from the records.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_BYTES, MAX_BITS, MAX_DEPTH = 1 << 20, 1024, 100
"""Maximum bytes of a pickle, bits of an integer in a pickle, and nesting levels of the result."""
MAX_OPCODES, MAX_KEYS, MAX_HASHES = 400_000, 5_000, 10_000
"""Maximum counts in a pickle: opcodes; keys of dictionaries and sets; dictionaries and sets.

`MAX_OPCODES` also limits the number of values in the result. Keys are limited because keys of equal hash are
slow to insert, and sets because even an empty set takes 216 bytes.
"""
_OPCODES = {
    opcode.name: ([kind.name for kind in opcode.stack_before], [kind.name for kind in opcode.stack_after])
    for opcode in pickletools.opcodes
    if opcode.proto <= 5
    and opcode.name not in {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ"}
    and opcode.name not in {"NEWOBJ_EX", "NEXT_BUFFER", "READONLY_BUFFER"}
}
"""Allowed opcodes, with the types that each takes from the stack and the types that it puts there."""
_SCALARS = {type(None), bool, int, float, str, bytes}


class Record:
    """Inert stand-in for the result of an allowed class or function; holds its arguments and state."""

    __match_args__ = ("name", "args", "state")
    name: str
    args: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *args: Any) -> Record:
        record = super().__new__(cls)
        record.args = args
        return record

    def __setstate__(self, state: Any) -> None:
        if self.state is not None:
            raise ValueError(f"the state of {self.name} is set twice, expected once")
        self.state = state


Allowed = Mapping[tuple[str, str], type[Record]]


def _records(modules: str, names: str) -> Allowed:
    return {(m, n): type(n, (Record,), {"name": n}) for m in modules.split() for n in names.split()}


GRAPH_META: Allowed = {
    **_records("pychunkedgraph.graph.meta", "ChunkedGraphMeta GraphConfig DataSource"),
    **_records("datetime", "timedelta"),
}
"""Names that are allowed in the ``meta`` row of a PyChunkedGraph table."""
ARRAYS: Allowed = {
    **_records("numpy.core.multiarray numpy._core.multiarray", "_reconstruct scalar"),
    **_records("numpy.core.numeric numpy._core.numeric", "_frombuffer"),
    **_records("numpy", "ndarray dtype"),
    **_records("_codecs", "encode"),
    **_records("builtins __builtin__", "bytes"),
}
"""Names that are allowed in pickled arrays of integers, and in numpy integers; the latter become ints."""


def plain_loads(data: bytes, allowed: Allowed | None = None) -> Any:
    """Unpickle an object made of builtin containers, strings, numbers and ``allowed`` names only.

    Raises ValueError for anything else, and for more than 1 MiB.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"a pickle of {len(data)} bytes: expected {MAX_BYTES} at most")
    try:
        _vet(data)
        return _Builder(len(data)).build(_Unpickler(data, allowed or {}).load())
    except Exception as error:  # a broken pickle can raise nearly any error
        reason = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    # Raised outside the handler, so that the error does not keep the partial result alive.
    raise ValueError(f"cannot be unpickled: {ascii(reason)[1:-1]:.300}")


def shown(value: Any) -> str:
    """Return a short description of any value, even of a list that contains itself."""
    if type(value) in {str, bytes}:
        return ascii(value[:40])
    if type(value) is int and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    return repr(value) if type(value) in _SCALARS else f"a {type(value).__name__}"


def _vet(data: bytes) -> None:
    """Check opcodes, integers, memo indices, and the numbers of keys, dictionaries and sets.

    Tracks the types of the values on the unpickler's stack. Raises ValueError for what is not allowed or
    exceeds a limit.
    """
    stack: list[str] = []
    memo: dict[Any, str] = {}
    keys = hashes = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if name not in _OPCODES:
            raise ValueError(f"opcode {name} with argument {shown(argument)} is not allowed here")
        before, after = _OPCODES[name]
        if type(argument) is int and argument.bit_length() > MAX_BITS:
            raise ValueError(f"an integer of {argument.bit_length()} bits: expected {MAX_BITS} at most")
        if name in {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}:
            entry = len(memo) if argument is None else argument
            if not 0 <= entry <= len(data):
                raise ValueError(f"memo index {entry}: expected 0 to {len(data)}, the pickle's size in bytes")
            memo[entry] = stack[-1]
            continue
        items: list[str] = []
        if "mark" in before:
            while (kind := stack.pop()) != "mark":
                items.append(kind)
            before = before[: before.index("mark")]
        operands = [stack.pop() for _ in before]
        # With nothing to add, these opcodes ignore a wrong type, and the stack would not hold what we follow.
        if before and before[0] in {"list", "dict", "set", "str"} and operands[-1] != before[0]:
            raise ValueError(f"opcode {name} takes a {before[0]}, got a {operands[-1]}")
        if name in {"GET", "BINGET", "LONG_BINGET"}:
            after = [memo[argument]]
        elif name in {"DUP", "BUILD"}:
            after = operands[-1:] * len(after)
        elif name in {"SETITEM", "SETITEMS", "DICT", "ADDITEMS", "FROZENSET"}:
            step = 1 if name in {"ADDITEMS", "FROZENSET"} else 2
            hashed = operands[1:2] or items[step - 1 :: step]
            keys += len(hashed)
            if "tuple" in hashed:
                raise ValueError("a key of a dictionary or set is a tuple: expected a scalar")
        stack += after
        hashes += name in {"EMPTY_DICT", "DICT", "EMPTY_SET", "FROZENSET"}
        _limit(count + 1, MAX_OPCODES, "opcodes")
        _limit(keys, MAX_KEYS, "keys")
        _limit(hashes, MAX_HASHES, "dictionaries and sets")


def _limit(number: int, most: int, what: str) -> None:
    if number > most:
        raise ValueError(f"expected {most} {what} at most, got more")


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, allowed: Allowed) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.allowed = allowed

    def find_class(self, module: str, name: str) -> type[Record]:
        if (module, name) not in self.allowed:
            raise ValueError(f"{module:.80}.{name:.80} is not allowed here")
        return self.allowed[module, name]


class _Builder:
    """Builds the final values from records. Raises ValueError for cycles, and for too many values."""

    def __init__(self, size: int) -> None:
        self.size, self.items, self.keys, self.encoded = size, 0, 0, 0

    def build(self, value: Any, depth: int = 0) -> Any:
        kind, depth = type(value), depth + 1
        self.items += 1
        _limit(self.items, MAX_OPCODES, "items")
        if kind in _SCALARS or kind is bytearray:
            return value
        if depth > MAX_DEPTH:
            raise ValueError(f"expected {MAX_DEPTH} nesting levels at most, got more")
        if kind in {list, tuple}:
            return kind(self.build(item, depth) for item in value)
        if kind in {dict, set, frozenset}:
            keys = [self.build(key, depth) for key in value]
            self.keys += len(keys)
            _limit(self.keys, MAX_KEYS, "keys")
            if not {type(key) for key in keys} <= _SCALARS:
                raise ValueError(
                    "a key of a dictionary or set is not a scalar: expected None, a number, a string or bytes"
                )
            items = [self.build(item, depth) for item in value.values()] if kind is dict else ()
            return dict(zip(keys, items, strict=True)) if kind is dict else kind(keys)
        return self.called(value, depth)

    def called(self, value: Any, depth: int) -> Any:
        match value:
            case Record("ChunkedGraphMeta" | "GraphConfig" | "DataSource", args, state):
                record = type(value)(*self.build(args, depth))
                record.state = self.build(state, depth)
                return record
            case Record("timedelta", args, None) if len(args) <= 3:
                return timedelta(*args)
            case Record("_reconstruct", _, (_, shape, dtype, bool(fortran), raw)):
                return self.array(depth, raw, dtype, shape, "F" if fortran else "C")
            case Record("_frombuffer", (raw, dtype, shape, "C" | "F" as order), None):
                return self.array(depth, raw, dtype, shape, order)
            case Record("scalar", (dtype, raw), None):
                return int(self.array(depth, raw, dtype, (), "C"))
            case Record("encode", (str(text), "latin1"), None):
                self.encoded += len(text)
                _limit(self.encoded, self.size, "bytes of encoded texts")
                return text.encode("latin1")
            case Record("bytes", (), None):
                return b""
            case Record(name):
                raise ValueError(f"{name} has unexpected arguments or state")
        raise ValueError(f"{shown(value)}: expected a builtin container, a string or a number")

    def array(self, depth: int, raw: Any, dtype: Any, shape: Any, order: Any) -> npt.NDArray[np.integer[Any]]:
        match dtype, self.build(raw, depth), shape:
            case (
                Record(
                    "dtype", (str(code), *_), (3, "<" | ">" | "|" | "=" as end, None, None, None, -1, -1, 0)
                ),
                bytes(values) | bytearray(values),
                tuple(),
            ) if re.fullmatch("[iu][1248]", code) and all(type(n) is int and n >= 0 for n in shape):
                return np.frombuffer(values, end + code).reshape(shape, order=order)
            case Record("dtype", (code, *_)), _, _:
                wanted = "expected a dtype of integers, a shape, and values in bytes"
                raise ValueError(f"an array of dtype {shown(code)}: {wanted}")
        raise ValueError("an array has no dtype, expected a dtype of integers")
