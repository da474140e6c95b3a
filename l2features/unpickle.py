"""Reading pickles that others wrote, without running anything that they name."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

MAX_BYTES = 1 << 20
MAX_TUPLES = 1000
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")

Name = tuple[str, str]


class Record:
    """Stands for an instance of a class that is not needed here: its arguments and its state."""

    args: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *args: Any) -> Record:
        record = super().__new__(cls)
        record.args = args
        return record

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


GRAPH_META: Mapping[Name, Any] = {
    **{
        ("pychunkedgraph.graph.meta", name): Record
        for name in ("ChunkedGraphMeta", "GraphConfig", "DataSource")
    },
    ("datetime", "timedelta"): timedelta,
}
"""What the ``meta`` row of a PyChunkedGraph table names."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, allowed: Mapping[Name, Any]) -> None:
        super().__init__(io.BytesIO(data))
        self.allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed here")
        return self.allowed[module, name]


def _check(data: bytes) -> None:
    """Refuse what would harm the unpickler itself.

    It takes memory up to the number that a memo entry names, 64 GiB from seven bytes, and ends the
    process when it hashes tuples that are nested too deeply.
    """
    tuples = 0
    argument: Any
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in _PUTS and argument > len(data):
            raise pickle.UnpicklingError(f"memo entry {argument} of {len(data)} bytes")
        tuples += opcode.name.startswith("TUPLE")
    if tuples > MAX_TUPLES:
        raise pickle.UnpicklingError(f"{tuples} tuples: expected {MAX_TUPLES} at most")


def plain_loads(data: bytes, allowed: Mapping[Name, Any] | None = None) -> Any:
    """The object of a pickle made of builtin containers, strings and numbers, and of what ``allowed`` names.

    Raises ValueError for anything else, and for more than 1 MiB.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"a pickle of {len(data)} bytes: expected {MAX_BYTES} at most")
    try:
        _check(data)
        return _Unpickler(data, allowed or {}).load()
    except Exception as error:  # a broken pickle can make the unpickler raise nearly anything
        raise ValueError(f"cannot be unpickled: {error}") from error
