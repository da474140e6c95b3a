"""Reading pickles that others wrote, without running anything that they name.

Not by `pickle.Unpickler`, even with names restricted: from a few bytes it takes 64 GiB (a memo entry),
ends the process (hashing nested tuples), runs for ever (hashing tuples of tuples that are shared, or
integers of one hash) and changes what was allowed (a state for a class). Here each opcode is one of few,
nothing is hashed that is not a string or a number, and what comes out is a tree.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

MAX_BYTES = 1 << 20
MAX_OPCODES = 400_000
"""Most opcodes, and most items of the result; shared ones count as often as they stand there."""
MAX_KEYS = 5_000
"""Most keys of all dictionaries and items of all sets: as many may have one hash."""
MAX_HASHES = 10_000
"""Most dictionaries and sets; an empty set takes 216 bytes of memory and one of the pickle."""
MAX_DEPTH = 100
MAX_BITS = 1024

Name = tuple[str, str]
Make = Callable[[tuple[Any, ...]], Any]
"""What stands for a class or function: makes a value, or a `Stand`, from the arguments."""


_SCALARS = {type(None), bool, int, float, str, bytes}
_LEAVES = {*_SCALARS, bytearray, timedelta}


class Refused(ValueError):
    """The pickle holds what is not read here."""


def shown(value: Any) -> str:
    """A value in a few words, whatever it is: a list of lists of itself cannot be printed."""
    if type(value) in {str, bytes}:
        return ascii(value[:40])
    if type(value) not in _SCALARS:
        return f"a {type(value).__name__}"
    if type(value) is int and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    return repr(value)


class Stand:
    """What stands for an instance, to which a pickle may give a state."""

    def build(self, state: Any) -> None:
        """Take the state. Raises Refused for one that cannot be."""
        raise NotImplementedError

    def children(self) -> Iterable[Any]:
        """The values within it. Raises Refused where it may not stand in a result."""
        raise NotImplementedError


class Record(Stand):
    """Stands for an instance of a class that is not needed here: its arguments and its state."""

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.args = args
        self.state: Any = None

    def build(self, state: Any) -> None:
        self.state = state

    def children(self) -> Iterable[Any]:
        return (*self.args, self.state)


def _timedelta(args: tuple[Any, ...]) -> timedelta:
    if len(args) > 3:
        raise Refused(f"timedelta with {len(args)} arguments")
    return timedelta(*args)


GRAPH_META: Mapping[Name, Make] = {
    **{
        ("pychunkedgraph.graph.meta", name): Record
        for name in ("ChunkedGraphMeta", "GraphConfig", "DataSource")
    },
    ("datetime", "timedelta"): _timedelta,
}
"""What the ``meta`` row of a PyChunkedGraph table names."""


class _Global:
    """An allowed name on the stack."""

    def __init__(self, make: Make) -> None:
        self.make = make


_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = (
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
)
_BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8")


class _Machine:
    """The stack, the marks and the memo of a pickle that is read."""

    def __init__(self, data: bytes, allowed: Mapping[Name, Make]) -> None:
        self.size, self.allowed = len(data), allowed
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.keys = self.hashes = self.made = 0

    def run(self, data: bytes) -> Any:
        argument: Any
        for count, (opcode, argument, place) in enumerate(pickletools.genops(data)):
            if opcode.name == "STOP":
                return self.stack.pop()
            if count == MAX_OPCODES:
                raise Refused(f"more than {MAX_OPCODES} opcodes")
            if opcode.name == "FRAME" and argument > self.size - 9 - (place or 0):
                raise Refused(f"a frame of {argument} bytes in a pickle of {self.size}")
            step = _STEPS.get(opcode.name)
            if step is None:
                raise Refused(f"opcode {opcode.name} of {shown(argument)} is not allowed here")
            step(self, argument)
        raise Refused("no end")

    def proto(self, version: int) -> None:
        if version > pickle.HIGHEST_PROTOCOL:
            raise Refused(f"protocol {version}: expected {pickle.HIGHEST_PROTOCOL} at most")

    def push(self, value: Any) -> None:
        if type(value) is int and value.bit_length() > MAX_BITS:
            raise Refused(f"an integer of {value.bit_length()} bits: expected {MAX_BITS} at most")
        self.stack.append(value)

    def mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.marked()

    def put(self, entry: int) -> None:
        if not 0 <= entry <= self.size:
            raise Refused(f"memo entry {entry} of {self.size} bytes")
        self.memo[entry] = self.stack[-1]

    def push_tuple(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise Refused("a tuple of more than there is")
        self.stack[-count:] = [items]

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Refused(f"items for a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    def hashed(self, items: list[Any]) -> list[Any]:
        """These items, which may be hashed."""
        for item in items:
            if type(item) not in _SCALARS:
                raise Refused(f"a {type(item).__name__} as a key")
        self.keys += len(items)
        if self.keys > MAX_KEYS:
            raise Refused(f"more than {MAX_KEYS} keys")
        return items

    def push_hash(self, made: Any) -> None:
        self.hashes += 1
        if self.hashes > MAX_HASHES:
            raise Refused(f"more than {MAX_HASHES} dictionaries and sets")
        self.stack.append(made)

    def setitems(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise Refused(f"{len(items)} keys and values for a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(zip(self.hashed(items[::2]), items[1::2], strict=True))

    def additems(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not set:
            raise Refused(f"items of a set for a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(self.hashed(items))

    def push_dict(self, items: list[Any]) -> None:
        self.push_hash({})
        self.setitems(items)

    def last_two(self) -> list[Any]:
        """Takes a key and its value from the stack."""
        value, key = self.stack.pop(), self.stack.pop()
        return [key, value]

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise Refused(f"{shown(module)} and {shown(name)} in place of a name")
        if (module, name) not in self.allowed:
            raise Refused(f"{module:.80}.{name:.80} is not allowed here")
        self.stack.append(_Global(self.allowed[module, name]))

    def reduce(self, _: None) -> None:
        args, made_by = self.stack.pop(), self.stack.pop()
        if type(made_by) is not _Global or type(args) is not tuple:
            raise Refused(f"a call of a {type(made_by).__name__}")
        value = made_by.make(args)
        if type(value) is bytes:  # which a few opcodes can have made of one text again and again
            self.made += len(value)
            if self.made > self.size:
                raise Refused(f"calls that make more bytes than the pickle's {self.size}")
        self.push(value)

    def build(self, _: None) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Stand):
            raise Refused(f"a state for a {type(self.stack[-1]).__name__}")
        self.stack[-1].build(state)


_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys((*_NUMBERS, *_TEXTS, *_BYTES), _Machine.push),
    "PROTO": _Machine.proto,
    "FRAME": lambda m, _: None,
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push_hash({}),
    "EMPTY_SET": lambda m, _: m.push_hash(set()),
    "FROZENSET": lambda m, _: m.push_hash(frozenset(m.hashed(m.marked()))),
    "TUPLE": lambda m, _: m.push(tuple(m.marked())),
    "TUPLE1": lambda m, _: m.push_tuple(1),
    "TUPLE2": lambda m, _: m.push_tuple(2),
    "TUPLE3": lambda m, _: m.push_tuple(3),
    "LIST": lambda m, _: m.push(m.marked()),
    "DICT": lambda m, _: m.push_dict(m.marked()),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.marked()),
    "SETITEM": lambda m, _: m.setitems(m.last_two()),
    "SETITEMS": lambda m, _: m.setitems(m.marked()),
    "ADDITEMS": lambda m, _: m.additems(m.marked()),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda m, _: m.marked().clear(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, entry: m.push(m.memo[entry])),
    "GLOBAL": lambda m, names: m.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.last_two()),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.reduce),
    "BUILD": _Machine.build,
}


def _items(value: Any) -> Iterable[Any]:
    """What stands within a value of the result, keys apart."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, Stand):
        return value.children()
    if type(value) not in _LEAVES:
        raise Refused("a name in place of a value")
    return ()


def _check_tree(value: Any) -> None:
    """Refuse what those who use the result could not walk through: loops, and what is shared too often."""
    level, count = [value], 1
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for item in level:
            before = len(deeper)
            deeper.extend(_items(item))
            count += len(deeper) - before
            if count > MAX_OPCODES:
                raise Refused(f"more than {MAX_OPCODES} items")
        if not deeper:
            return
        level = deeper
    raise Refused(f"nested more than {MAX_DEPTH} deep")


def plain_loads(data: bytes, allowed: Mapping[Name, Make] | None = None) -> Any:
    """The object of a pickle made of builtin containers, strings and numbers, and of what ``allowed`` names.

    Raises ValueError for anything else, and for more than 1 MiB.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"a pickle of {len(data)} bytes: expected {MAX_BYTES} at most")
    try:
        value = _Machine(data, allowed or {}).run(data)
        _check_tree(value)
        return value
    except Exception as error:  # a broken pickle can raise nearly anything
        reason = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    # Raised here, the error does not keep what had been read.
    raise ValueError(f"cannot be unpickled: {ascii(reason)[1:-1]:.300}")
