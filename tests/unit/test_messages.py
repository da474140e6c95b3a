"""Tests of decoding messages."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2features.config.datasets import Dataset, datasets_of_table
from l2features.core.ids import as_ids
from l2features.core.unpickle import MAX_BYTES
from l2features.messages.decoding import (
    EDIT_IDS,
    MAX_MISSING_BYTES,
    Kind,
    Priority,
    Reason,
    check_ids,
    decode,
    missing_message,
)
from tests.support.messages import EDIT, GEOMETRY, LAYOUT, MISSING, NODE, edit, refusal


def test_the_recorded_edits(shared: Callable[[str], Path]) -> None:
    cave = shared("cave")
    named = []
    for path in sorted(cave.glob("pubsub/[0-9]*.json")):
        recorded = json.loads(path.read_text())
        request = decode(path.with_suffix(".bin").read_bytes(), recorded["attributes"])
        payload, high = recorded["payload_unpickled"], recorded["attributes"]["remesh_priority"] == "true"
        assert request.ids.dtype == np.uint64
        assert request.ids.tolist() == sorted(payload["new_lvl2_ids"])
        assert (request.table_id, request.operation_id) == ("fixture_v2", payload["operation_id"])
        assert (request.kind, request.priority) == (Kind.EDIT, Priority.HIGH if high else Priority.LOW)
        assert (request.l2cache_id, request.refused, request.empty) == (None, {}, False)
        assert check_ids(request.ids, GEOMETRY)[1] == {}
        named += request.ids.tolist()
    nodes = json.loads((cave / "l2_children.json").read_text())["l2"]
    assert sorted(named) == sorted(int(i) for i, node in nodes.items() if node["from_edit"])


def test_the_recorded_missing_ids(shared: Callable[[str], Path]) -> None:
    recorded = json.loads(shared("cave/pubsub/missing.json").read_text())
    request = decode(shared("cave/pubsub/missing.bin").read_bytes(), recorded["attributes"])
    assert request.ids.tolist() == sorted(recorded["ids"])
    assert (request.kind, request.priority, request.operation_id) == (Kind.MISSING, Priority.LOW, None)
    assert (request.table_id, request.l2cache_id) == ("fixture_v2", "l2cache_fixture")


def test_what_the_older_server_published_is_decoded_and_mostly_empty(shared: Callable[[str], Path]) -> None:
    exchanges = json.loads(shared("cave/http/index.json").read_text())["exchanges"]
    published = [message for exchange in exchanges for message in exchange["published"]]
    requests = [decode(base64.b64decode(m["data_base64"]), m["attributes"]) for m in published]
    assert [set(r.ids.tolist()) for r in requests] == [set(m["ids"]) for m in published]
    assert [r.empty for r in requests] == [not m["ids"] for m in published]
    assert sum(r.empty for r in requests) > len(requests) / 2


def test_our_own_message_comes_back() -> None:
    ids = as_ids([NODE, (1 << 64) - 1, NODE, 3])
    for priority in Priority:
        message = missing_message(ids, "a", "b", priority)
        request = decode(*message)
        assert request.ids.tolist() == [3, NODE, (1 << 64) - 1]
        assert (request.priority, request.kind, request.l2cache_id) == (priority, Kind.MISSING, "b")
        assert ("priority" in message.attributes) is (priority is Priority.HIGH)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "ids",
    [
        [NODE, NODE + 1, NODE],
        (NODE + 1, NODE),
        {NODE, NODE + 1},
        frozenset([NODE, NODE + 1]),
        np.array([NODE, NODE + 1], np.uint64),
        np.array([NODE + 1, NODE], np.int64),
        np.array([[NODE], [NODE + 1]], ">u8"),
        [np.uint64(NODE), np.int64(NODE + 1), np.uint64(NODE)],
    ],
    ids=str,
)
def test_ids_in_any_container(ids: Any, protocol: int) -> None:
    if isinstance(ids, (set, frozenset)) and protocol < 4:
        assert "set is not allowed here" in str(refusal(edit(ids, protocol)))
        return
    request = decode(edit(ids, protocol), EDIT)
    assert request.ids.tolist() == [NODE, NODE + 1]
    assert request.refused == {}


def test_names_of_an_older_numpy_are_read() -> None:
    newer = edit([np.uint64(NODE), np.arange(3)], 4)
    older = newer.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    assert older != newer
    shorter = (len(older) - 11).to_bytes(8, "little")
    assert decode(older[:3] + shorter + older[11:], EDIT).ids.tolist() == [NODE]


@pytest.mark.parametrize("protocol", [0, 1, 2])
@pytest.mark.parametrize("core", [b"cnumpy.core.", b"cnumpy._core."])
def test_arrays_of_older_protocols(protocol: int, core: bytes) -> None:
    ids = np.arange(NODE, NODE + 100_000, 7, dtype=np.uint64)
    for array in (ids, np.full(500, (1 << 64) - 1, np.uint64), np.array(NODE, np.uint64), ids[:0]):
        for fix_imports in (True, False):  # the names of Python 2, or of 3
            data = pickle.dumps({"new_lvl2_ids": array}, protocol, fix_imports=fix_imports)
            named = data.replace(b"cnumpy._core.", core)
            assert core in named
            assert decode(named, EDIT).ids.tolist() == np.unique(array).tolist()


def encoded(text: bytes, encoding: bytes = b"latin1", times: int = 1) -> bytes:
    """Return an edit with ``times`` equal calls of ``_codecs.encode``."""
    args = b"X" + len(text).to_bytes(4, "little") + text + b"X\x06\0\0\0" + encoding + b"\x86q\x010"
    calls = b"h\x00h\x01R" * times
    return b"\x80\x02}X\x0c\0\0\0new_lvl2_ids](c_codecs\nencode\nq\x000" + args + calls + b"es."


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encoded(b"ab" * 100_000, times=100_000), "expected 700064 bytes of encoded texts at most"),
        (encoded(b"ab", b"rot_13"), "encode has unexpected arguments"),
        (encoded("Ā".encode()), "codec can't encode character"),
        (encoded(b"ab").replace(b"\x86q", b"\x85q"), "encode has unexpected arguments"),
        (
            edit([]).replace(b"]\x94", b"cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R", 1),
            "bytes has unexpected arguments",
        ),
    ],
    ids=range(5),
)
def test_calls_of_older_protocols_make_nothing_else(data: bytes, words: str) -> None:
    refused = refusal(data)
    assert words in str(refused)
    assert refused.reason is Reason.BAD_PICKLE


def test_good_ids_of_a_bad_message_are_kept() -> None:
    ids = [NODE, -1, 1.5, True, "12", None, b"x", 1 << 64, 1 << 900, [NODE], {}, NODE + 1, np.int8(-3), -1]
    request = decode(edit(ids), EDIT)
    assert request.ids.tolist() == [NODE, NODE + 1]
    assert request.refused == {
        Reason.OUT_OF_RANGE: ("-1", "18446744073709551616", "an integer of 901 bits", "-3"),
        Reason.NOT_AN_INTEGER: ("1.5", "True", "'12'", "None", "b'x'", "a list", "a dict"),
    }
    assert not request.empty
    assert not decode(edit([-1]), EDIT).empty
    assert decode(edit(np.array([-5, NODE])), EDIT).refused == {Reason.OUT_OF_RANGE: ("-5",)}


def test_ids_that_are_no_nodes_of_the_data_set() -> None:
    chunk = LAYOUT.chunk_id
    bad = {
        Reason.OTHER_LAYER: [0, chunk(0, 0, 0, 1) + 5, chunk(0, 0, 0, 3) + 5, (9 << 56) + 1, (1 << 64) - 1],
        Reason.OUTSIDE_GRID: [chunk(3, 0, 0) + 1, chunk(0, 2, 0) + 1, chunk(0, 0, 1023)],
        Reason.NO_SEGMENT: [chunk(0, 0, 0), chunk(2, 1, 1)],
    }
    good = [NODE, chunk(0, 0, 0) + 1, chunk(2, 1, 1) + 1]
    left, refused = check_ids(as_ids([*good, *(i for ids in bad.values() for i in ids)]), GEOMETRY)
    assert left.tolist() == good
    assert {reason: ids.tolist() for reason, ids in refused.items()} == bad
    assert check_ids(as_ids([]), GEOMETRY)[0].dtype == np.uint64


@pytest.mark.parametrize(
    ("attributes", "priority"),
    [
        ({}, Priority.HIGH),
        ({"remesh_priority": "true"}, Priority.HIGH),
        ({"remesh_priority": "false"}, Priority.LOW),
        ({"remesh_priority": "False"}, Priority.LOW),
        ({"remesh_priority": "?"}, Priority.HIGH),
    ],
)
def test_priority_of_edits(attributes: dict[str, str], priority: Priority) -> None:
    assert decode(edit([NODE]), {"table_id": "a", **attributes}).priority is priority


@pytest.mark.parametrize("operation", [0, -1, 1 << 63, "7", None, 7.0, True, [7]])
def test_an_unexpected_operation_does_not_lose_the_ids(operation: Any) -> None:
    request = decode(edit([NODE], operation_id=operation), EDIT)
    assert (request.ids.tolist(), request.operation_id) == ([NODE], None)


def test_an_edit_needs_nothing_but_its_ids() -> None:
    request = decode(pickle.dumps({"new_lvl2_ids": [NODE]}), {"table_id": "a", "user_id": ""})
    assert (request.ids.tolist(), request.operation_id) == ([NODE], None)


def test_attributes_tell_the_kind_and_the_length_does_not() -> None:
    """PCGL2Cache's worker read every payload as ids if its length was a multiple of 8 bytes."""
    payload = pickle.dumps({"new_lvl2_ids": [NODE], "pad": "xxx"}, 4)
    assert len(payload) % 8 == 0
    for attributes in (EDIT, {"table_id": "a"}, {"table_id": "a", "remesh": "true"}):
        assert decode(payload, attributes).kind is Kind.EDIT
    looks_pickled = as_ids([0x2E00000000000480])
    assert decode(looks_pickled.tobytes(), MISSING).ids.tolist() == looks_pickled.tolist()
    assert decode(as_ids([NODE]).tobytes(), {"table_id": "a"}).kind is Kind.MISSING
    assert refusal(as_ids([NODE]).tobytes(), EDIT).reason is Reason.BAD_PICKLE
    assert len(decode(payload, MISSING).ids) == len(payload) // 8


@pytest.mark.parametrize("data", [b"", edit([]), edit(()), edit(np.array([], np.uint64))], ids=range(4))
def test_messages_that_ask_for_nothing_are_empty(data: bytes) -> None:
    assert decode(data, EDIT if data else MISSING).empty


@pytest.mark.parametrize(
    ("data", "attributes", "reason", "words"),
    [
        (b"12345678", {}, Reason.NO_TABLE, "has no attribute table_id"),
        (b"12345678", {"table_id": "", "l2_cache_id": "b"}, Reason.NO_TABLE, "table_id"),
        (b"1234567", MISSING, Reason.BAD_LENGTH, "has 7 bytes: expected 8 per id"),
        (bytes(50_000_000), MISSING, Reason.TOO_LARGE, "50000000 bytes: expected 10485760 at most"),
        (bytes(50_000_000), EDIT, Reason.TOO_LARGE, "50000000 bytes"),
        (bytes(MAX_BYTES + 1), EDIT, Reason.TOO_LARGE, "1048577 bytes: expected 1048576 at most"),
        (b"", EDIT, Reason.BAD_PICKLE, "cannot be unpickled"),
        (edit([NODE])[:-1], EDIT, Reason.BAD_PICKLE, "cannot be unpickled"),
        (pickle.dumps([NODE]), EDIT, Reason.BAD_EDIT, "is a list: expected a dictionary"),
        (pickle.dumps({"operation_id": 1}), EDIT, Reason.BAD_EDIT, "has no new_lvl2_ids"),
        (edit(None), EDIT, Reason.BAD_EDIT, "new_lvl2_ids of an edit is None: expected a list"),
        (edit(NODE), EDIT, Reason.BAD_EDIT, f"is {NODE}: expected a list"),
        (edit(b"12345678"), EDIT, Reason.BAD_EDIT, "is b'12345678': expected a list"),
        (edit({NODE: NODE}), EDIT, Reason.BAD_EDIT, "is a dict"),
        (edit(np.array([1.0])), EDIT, Reason.BAD_PICKLE, "dtype 'f8': expected a dtype of integers"),
        (edit(np.array([None])), EDIT, Reason.BAD_PICKLE, "dtype 'O8': expected a dtype of integers"),
        (edit(np.zeros(EDIT_IDS + 1, "i1")), EDIT, Reason.TOO_MANY_IDS, "of 131073 ids: expected 131072"),
        (edit(os.system), EDIT, Reason.BAD_PICKLE, "system is not allowed here"),
    ],
    ids=range(18),
)
def test_messages_with_permanent_errors(
    data: bytes, attributes: dict[str, str], reason: Reason, words: str
) -> None:
    error = refusal(data, attributes)
    assert error.reason is reason
    assert words in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (again.reason, str(again)) == (reason, str(error))


def test_the_largest_messages() -> None:
    ids = np.arange(2 << 56, (2 << 56) + MAX_MISSING_BYTES // 8, dtype=np.uint64)
    assert np.array_equal(decode(ids.tobytes(), MISSING).ids, ids)
    assert np.array_equal(decode(edit(ids[:100_000].tolist()), EDIT).ids, ids[:100_000])
    assert np.array_equal(decode(edit(ids[:130_000]), EDIT).ids, ids[:130_000])


def test_every_truncation_of_an_edit_is_refused(shared: Callable[[str], Path]) -> None:
    for path in shared("cave").glob("pubsub/[0-9]*.bin"):
        data = path.read_bytes()
        for end in range(len(data)):
            assert refusal(data[:end]).reason is Reason.BAD_PICKLE


def dataset(name: str, graph: str, l2cache_id: str) -> Dataset:
    cv_path = (
        "graphene://https://server/segmentation/table/" + graph if graph != "flat" else "precomputed://x"
    )
    return Dataset(
        name=name,
        cv_path=cv_path,
        l2cache_id=l2cache_id,
        graph="flat" if graph == "flat" else "graphene",
        store="bigtable://p/i",
    )


def test_data_sets_of_a_table() -> None:
    datasets = [
        dataset("minnie65", "minnie3_v1", "cache_a"),
        dataset("minnie_public", "minnie3_v1", "cache_b"),
        dataset("fly", "fly_v31", "cache_c"),
        dataset("ingested", "flat", "cache_d"),
    ]

    def found(*args: str) -> list[str]:
        return [d.name for d in datasets_of_table(datasets, *args)]

    assert found("minnie3_v1") == ["minnie65", "minnie_public"]
    assert found("minnie3_v1", "cache_b") == ["minnie_public"]
    assert found("minnie65", "cache_a") == ["minnie65"]
    assert found("fly") == found("fly_v31") == ["fly"]
    assert found("ingested") == ["ingested"]
    assert found("flat") == found("other") == found("fly", "cache_a") == []


def test_reasons_have_explanations() -> None:
    for reason in Reason:
        assert re.fullmatch(r"(is|has|names|lies) .+", reason.meaning)
