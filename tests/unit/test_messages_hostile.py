"""Tests of hostile and damaged edits: each becomes a request or a `BadMessage`, without side effects."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2features.messages.decoding import (
    BadMessage,
    NodeRequest,
    check_ids,
    decode,
)
from tests.support.messages import EDIT, GEOMETRY, NODE, edit, refusal


class Evil:
    """Unpickling it creates the folder ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_evil_edit_does_nothing(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "done"
    for ids in ([NODE, Evil(path)], Evil(path), {NODE: Evil(path)}):
        assert "mkdir is not allowed here" in str(refusal(edit(ids, protocol)))
    assert not path.exists()


NUMPY = b"\x8c\x05numpy\x8c\x05dtype\x93"
UINT64 = NUMPY + b"\x8c\x02u8\x89\x88\x87R(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
BARE = b"().0123NQR]abdeloqrstu}\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98"
PIECES = [
    *(bytes([opcode]) for opcode in BARE),
    *(b"K\x02", b"M\x00\x01", b"J\xff\xff\xff\xff", b"I7\n", b"L7L\n", b"F1.5\n", b"S'x'\n", b"V\\ud800\n"),
    *(b"\x8a\x08\x07\0\0\0\0\0\0\x02", b"\x8b\x04\0\0\0\1\1\1\1", b"G\x7f\xf8\0\0\0\0\0\0", b"\x8c\x01a"),
    *(b"C\x08abcdefgh", b"\x96\x08\0\0\0\0\0\0\0abcdefgh", b"\x8c\x0cnew_lvl2_ids", b"\x80\x04"),
    *(b"h\x00", b"h\x01", b"j\x02\0\0\0", b"g3\n", b"q\x01", b"p2\n", b"r\xff\xff\xff\xff", b"\x82\x01"),
    *(b"cos\nsystem\n", b"ios\nsystem\n", b"Pid\n", b"\x8c\x02os\x8c\x06system\x93", NUMPY, UINT64),
    *(b"cnumpy._core.multiarray\n_reconstruct\n", b"cnumpy.core.numeric\n_frombuffer\n"),
    *(b"c_codecs\nencode\n", b"cbuiltins\nbytes\n", b"X\x06\0\0\0latin1", b"X\x02\0\0\0a\xff"),
    *(b"cnumpy.core.multiarray\nscalar\n", b"cnumpy\nndarray\n", b"\x95\x04\0\0\0\0\0\0\0"),
]


def decoded(data: bytes, attributes: dict[str, str]) -> NodeRequest | None:
    """Return the checked request, or None for a `BadMessage`."""
    problem, request = "", None
    try:
        request = decode(data, attributes)
    except BadMessage as error:
        problem = str(error)
    assert len(problem) < 500
    assert problem.isprintable()
    if request is None:
        return None
    assert request.ids.dtype == np.uint64
    assert (request.ids[1:] > request.ids[:-1]).all()
    good, refused = check_ids(request.ids, GEOMETRY)
    assert len(good) + sum(map(len, refused.values())) == len(request.ids)
    return request


@given(st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join), st.booleans())
def test_any_opcodes_give_a_request_or_a_named_error(body: bytes, as_ids_of_edit: bool) -> None:
    head, tail = (b"\x80\x04}\x8c\x0cnew_lvl2_ids", b"s.") if as_ids_of_edit else (b"\x80\x04", b".")
    decoded(head + body + tail, EDIT)


words = st.text(max_size=20) | st.sampled_from(["true", "false", "fixture_v2", "high"])
names = st.sampled_from(["table_id", "l2_cache_id", "remesh_priority", "remesh", "user_id", "priority"])


@given(st.binary(max_size=100), st.dictionaries(names | words, words))
def test_any_message_gives_a_request_or_a_named_error(data: bytes, attributes: dict[str, str]) -> None:
    decoded(data, attributes)


SEEDS = [edit([NODE, NODE + 1]), edit(np.array([NODE, NODE + 1], np.uint64)), edit([np.uint64(NODE)], 5)]
SEEDS += [edit(np.array([NODE, NODE + 1], np.uint64), 5), edit({NODE}, 5), edit((NODE,), 3)]
SEEDS += [edit(np.array([NODE, NODE + 1], np.uint64), 2), edit(np.array([NODE], np.uint64), 0)]


PLACES = st.integers(0, max(map(len, SEEDS)) - 1)
DAMAGES = st.tuples(PLACES, st.integers(0, 3), st.binary(max_size=3) | st.sampled_from(PIECES))
"""A place, how many bytes are cut out there, and what is put in."""


@given(st.sampled_from(SEEDS), st.lists(DAMAGES, min_size=1, max_size=4))
def test_damaged_edits_give_a_request_or_a_named_error(
    seed: bytes, damages: list[tuple[int, int, bytes]]
) -> None:
    damaged = bytearray(seed)
    for anywhere, length, piece in damages:
        place = anywhere % len(damaged)
        damaged[place : place + length] = piece
        damaged = damaged or bytearray(b".")
    decoded(bytes(damaged), EDIT)
