"""Tests of unpickling data from other services, without side effects."""

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
from hypothesis import example, given
from hypothesis import strategies as st

from l2features.core.unpickle import ARRAYS, GRAPH_META, MAX_BYTES, Record, plain_loads

DTYPE = b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93"

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


class Evil:
    """Unpickling it creates the folder ``path``."""

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
def test_names_must_be_allowed(value: Any, named: str, protocol: int) -> None:
    with pytest.raises(ValueError, match=f"cannot be unpickled: .*{named}"):
        plain_loads(pickle.dumps(value, protocol))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("allowed", [None, GRAPH_META])
def test_an_evil_pickle_runs_nothing(tmp_path: Path, protocol: int, allowed: Any) -> None:
    path = tmp_path / "done"
    for value in (Evil(path), {"operation_id": Evil(path)}):
        with pytest.raises(ValueError, match="mkdir is not allowed here"):
            plain_loads(pickle.dumps(value, protocol), allowed)
    assert not path.exists()


@pytest.mark.parametrize("name", ["ChunkedGraphMeta.__init__", "GraphConfig.__class__", "timedelta"])
def test_attributes_of_allowed_names_are_refused(name: str) -> None:
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
        b"(cos\nsystem\nS'true'\no.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93)}\x92.",
        b"NQ.",
        b"\x80\x05\x97.",
        b"\x80\x05N\x98.",
        b"L" + b"9" * 1_000_000 + b"L\n.",
        b"\x8b" + (500_000).to_bytes(4, "little") + b"\x7f" * 500_000 + b".",  # hashing it takes long
        b"(1(",
        b"0.",
        b"]]KaNs.",
        b"}K\x01K\x02a.",
        b"\x8fK\x01a.",
        b"]\x94h\x00a.",  # a list of itself
        b"}\x94Nh\x00s.",
        b"]" * 101 + b"a" * 100 + b".",
        DTYPE + b"}\x8c\x01aNsb.",  # attributes for what is allowed
        DTYPE + b"N}\x8c\x0c__defaults__)s\x86b.",
        DTYPE + b".",
    ],
    ids=range(35),
)
def test_broken_and_hostile_pickles_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be unpickled"):
        plain_loads(data, ARRAYS)


def shared_lists(depth: int) -> bytes:
    """Return a pickle of lists nested ``depth`` deep, each holding its child ten times."""
    opcodes = b"]\x940"
    for entry in range(depth):
        opcodes += b"]\x94(" + bytes([ord("h"), entry]) * 10 + b"e0"
    return opcodes + bytes([ord("h"), depth])


SAME_HASH = [pickle.dumps(number * ((1 << 61) - 1), 2)[2:-1] for number in range(1, 70_000)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80\x04" + shared_lists(90) + b".", "expected 400000 items at most"),
        (b"\x80\x04" + shared_lists(90) + shared_lists(3) + b"\x93.", "takes a str, got a list"),
        (DTYPE + shared_lists(90) + b"\x85R.", "dtype has unexpected arguments"),
        (b"}" + b")" + b"2\x86" * 60 + b"Ns.", "dictionary or set is a tuple"),  # 2**60 hashes
        (b"}" + b")" + b"2\x86" * 60 + b"(eNs.", "takes a list, got a tuple"),  # nothing appended to a tuple
        (b"}" + b")" + b"2\x86" * 60 + b"(uNs.", "takes a dict, got a tuple"),
        (b"}" + b")" + b"2\x86" * 60 + b"(\x90Ns.", "takes a set, got a tuple"),
        (b"}" + b")" + b"2\x86" * 60 + b"NbNs.", "dictionary or set is a tuple"),  # no state for a tuple
        (b"}" + b")" + b"2\x86" * 60 + b"\x940h\x00Ns.", "dictionary or set is a tuple"),
        (b"(" + b")" + b"2\x86" * 60 + b"\x91.", "dictionary or set is a tuple"),
        (b"}(" + b"N".join(SAME_HASH) + b"Nu.", "expected 5000 keys at most"),
        (b"\x8f(" + b"".join(SAME_HASH) + b"\x90.", "expected 5000 keys at most"),
        (b"\x8f" * 500_000 + b".", "expected 10000 dictionaries and sets at most"),
        (b"]" * 1_000_000 + b".", "expected 400000 opcodes at most"),
        (b"\x8b" + (500_000).to_bytes(4, "little") + b"\x7f" * 500_000 + b".", "an integer of 3999999 bits"),
        (b"]\x94h\x00a.", "expected 100 nesting levels at most"),
    ],
    ids=range(16),
)
def test_bombs_are_refused_with_their_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        plain_loads(data, ARRAYS)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_containers_of_every_size(protocol: int) -> None:
    value = {
        "a": [[], [1], [1, 2, 3]],
        "b": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "c": {},
        "d": {1: 2},
    }
    again = [value["a"], "x" * 300, 1 << 40, -1, 70_000, 1.5, None, True]
    assert plain_loads(pickle.dumps([value, again], protocol)) == [value, again]


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.sampled_from("bhilq"), st.sampled_from("<>"))
def test_arrays_of_integers(values: list[int], code: str, order: str) -> None:
    array = np.array(values, np.int64).astype(order + code)
    for protocol in (3, 4, 5):
        read, scalars = plain_loads(pickle.dumps((array, list(array)), protocol), ARRAYS)
        assert isinstance(read, np.ndarray)
        assert (read.shape, read.tolist()) == (array.shape, array.tolist())
        assert scalars == array.tolist()


def test_inconsistent_arrays_are_refused() -> None:
    array = pickle.dumps(np.arange(3), 4)
    for old, new in [
        (b"K\x03\x85", b"K\x04\x85"),  # the shape
        (b"i8", b"i4"),
        (b"i8", b"O8"),
        (b"\x8c\x01<", b"\x8c\x01?"),
        (b"K\x00t", b"K\x01t"),  # flags of the dtype
        (b"t\x94b.", b"t\x940."),  # no state
    ]:
        assert old in array
        with pytest.raises(ValueError, match="cannot be unpickled"):
            plain_loads(array.replace(old, new), ARRAYS)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"\x80\x04" + tail))
@example(b"(" * 100 + b"t.")
def test_any_bytes_give_an_object_or_value_error(data: bytes) -> None:
    try:
        plain_loads(data, GRAPH_META)
    except ValueError:
        return
    assert b"." in data


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
