"""Pickles that others wrote: what is read, and that nothing else happens."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from l2features.unpickle import GRAPH_META, MAX_BYTES, Record, plain_loads

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


class Evil:
    """Unpickling it makes the file ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@given(plain, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_objects_come_back(value: Any, protocol: int) -> None:
    if protocol >= 3:  # older ones spell bytes as a call
        assert plain_loads(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("value", [{1, 2}, frozenset({3}), bytearray(b"x"), 1 << 100, 1 + 2**63])
def test_other_builtins_come_back(value: Any) -> None:
    assert plain_loads(pickle.dumps(value, 5)) == value


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (timedelta(1), "timedelta"),
        (datetime(2026, 1, 1), "datetime"),
        (OrderedDict(), "OrderedDict"),
        (np.uint64(1), "numpy"),
        (os.system, "system"),
        (print, "print"),
        (1j, "complex"),
        (Path("/"), "pathlib"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_what_is_named_must_be_allowed(value: Any, named: str, protocol: int) -> None:
    with pytest.raises(ValueError, match=f"cannot be unpickled: .*{named}"):
        plain_loads(pickle.dumps(value, protocol))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("allowed", [None, GRAPH_META])
def test_an_evil_pickle_does_nothing(tmp_path: Path, protocol: int, allowed: Any) -> None:
    path = tmp_path / "done"
    for value in (Evil(path), {"operation_id": Evil(path)}):
        with pytest.raises(ValueError, match="mkdir is not allowed here"):
            plain_loads(pickle.dumps(value, protocol), allowed)
    assert not path.exists()


@pytest.mark.parametrize("name", ["ChunkedGraphMeta.__init__", "GraphConfig.__class__", "timedelta"])
def test_names_are_not_followed_into_what_is_allowed(name: str) -> None:
    module = "pychunkedgraph.graph.meta"
    data = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(n)]) + n.encode() for n in (module, name)) + b"\x93."
    with pytest.raises(ValueError, match="is not allowed here"):
        plain_loads(data, GRAPH_META)


def test_instances_of_allowed_names() -> None:
    name = b"\x8c\x19pychunkedgraph.graph.meta\x8c\x0bGraphConfig\x93"
    data = b"\x80\x04" + name + b"K\x01K\x02\x86\x81}\x8c\x01aK\x03sb."
    record = plain_loads(data, GRAPH_META)
    assert isinstance(record, Record)
    assert (record.args, record.state) == ((1, 2), {"a": 3})
    assert plain_loads(pickle.dumps(timedelta(hours=2)), GRAPH_META) == timedelta(hours=2)


def test_the_recorded_pickles_are_read(shared: Callable[[str], Path]) -> None:
    cave = shared("cave")
    with gzip.open(cave / "graph_v2.json.gz", "rt") as f:
        rows = {base64.b64decode(key): cells for key, cells in json.load(f)["rows"]}
    meta = plain_loads(base64.b64decode(rows[b"meta"][0][2]), GRAPH_META)
    assert list(meta.args[0].args[2]) == [64, 64, 32]
    messages = sorted(cave.glob("pubsub/[0-9]*.bin"))
    for message in messages:
        edit = plain_loads(message.read_bytes())
        assert {"operation_id", "new_lvl2_ids", "new_root_ids"} <= set(edit)
    assert len(messages) >= 18


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"N",
        b"not a pickle",
        b"Nr\xff\xff\xff\xff.",  # a memo of 64 GiB
        b"Np99999999999\n.",
        b"Np-1\n.",
        b"\x80\x05\x96" + (1 << 50).to_bytes(8, "little") + b"x.",
        b"\x80\x04\x8e" + (1 << 62).to_bytes(8, "little") + b"x.",
        b"\x80\x04\x95" + (1 << 62).to_bytes(8, "little") + b"N.",
        b"}" + b")" + b"\x85" * 500_000 + b"Ns.",  # hashing it overflows the stack
        b"\x82\x01.",
        b"Pid\n.",
        b"K\x01K\x02R.",
        b"K\x01}b.",
        b"\x80\xff.",
    ],
    ids=range(16),
)
def test_broken_and_hostile_pickles_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be unpickled"):
        plain_loads(data)


@settings(max_examples=500)
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"\x80\x04" + tail))
@example(b"(" * 100 + b"t.")
def test_any_bytes_give_an_object_or_value_error(data: bytes) -> None:
    try:
        plain_loads(data, GRAPH_META)
    except ValueError:
        return
    assert b"." in data


@settings(max_examples=300)
@given(plain, st.data())
def test_damaged_pickles_give_an_object_or_value_error(value: Any, data: st.DataObject) -> None:
    damaged = bytearray(pickle.dumps({"operation_id": 7, "value": value}, 4))
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] = data.draw(st.integers(0, 255))
    try:
        plain_loads(bytes(damaged))
    except ValueError:
        return
    assert b"." in damaged


def test_the_largest_pickle() -> None:
    overhead = len(pickle.dumps(bytes(MAX_BYTES - 1000), 4)) - (MAX_BYTES - 1000)
    largest = pickle.dumps(bytes(MAX_BYTES - overhead), 4)
    assert len(largest) == MAX_BYTES
    assert plain_loads(largest) == bytes(MAX_BYTES - overhead)
    with pytest.raises(ValueError, match=f"a pickle of {MAX_BYTES + 1} bytes: expected {MAX_BYTES} at most"):
        plain_loads(largest + b".")
