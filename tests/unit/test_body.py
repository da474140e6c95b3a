"""Tests of reading ids from a request's body: every form is read exactly, and anything else is an error."""

from __future__ import annotations

import io
import json
import sys
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.body import ids_of_buffer, ids_of_json, requested_ids
from api.error_responses import MAX_SHOWN, ApiError
from l2features.core.gunzip import MAX_MEMBERS
from tests.support.body import ID, LIMITS, MANY, packed, refused, request_of

LAST = (1 << 64) - 1


def ids_of(value: Any) -> list[int]:
    return ids_of_json(orjson.dumps({"l2_ids": value}), MANY).tolist()


def accepted(body: bytes | io.RawIOBase, **headers: str) -> list[int]:
    ids = requested_ids(request_of(body, **headers), LIMITS)
    assert ids.dtype == np.uint64
    return ids.tolist()


# ------------------------------------------------------------------ JSON
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], []),
        ([ID + 2, ID, ID + 2], [ID + 2, ID, ID + 2]),
        ([LAST, 1 << 63, (1 << 63) - 1], [LAST, 1 << 63, (1 << 63) - 1]),
        ([str(ID), f" {LAST} "], [ID, LAST]),
        ([float((1 << 53) - 1), 0.0, -0.0], [(1 << 53) - 1, 0, 0]),
        ([-1.0, float(1 - (1 << 53))], [LAST, LAST - (1 << 53) + 2]),
        ([-1, ID], [LAST, ID]),
        ([-(1 << 63)], [1 << 63]),
        ([str(-1)], [LAST]),
        (ID, [ID]),
        (str(ID), [ID]),
        ([[ID, ID + 1], [[ID + 2]], []], [ID, ID + 1, ID + 2]),
        ([ID + 1, 5.0, str(LAST), [LAST - 1]], [ID + 1, 5, LAST, LAST - 1]),
        ([LAST, 2.0], [LAST, 2]),
        ([LAST, "3"], [LAST, 3]),
        ([(1 << 53) + 1, 1.0], [(1 << 53) + 1, 1]),
    ],
)
def test_ids_of_json(value: Any, expected: list[int]) -> None:
    assert ids_of(value) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("1.5", "-0.5", "true", "false", "null", "{}", '{"a":1}', '"abc"', '""', '" "', '"1.0"', '"1e3"'),
        *('"0x10"', '"--5"', '"- 5"', '"1_000"', '"nan"', '"inf"', '"\\u0661"', '"5\\u0000"'),
        *(str(1 << 64), f'"{1 << 64}"', "18446744073709551616.0", "1e300", "-1e300", f'"{"9" * 50}"'),
        *(str(-(1 << 63) - 1), f'"{-(1 << 63) - 1}"', "-18446744073709551615"),
    ],
)
@pytest.mark.parametrize("form", ["[%s]", "[144115188075855873,%s]", "%s", "[[%s]]", '["1",[%s]]'])
def test_what_is_no_id_is_named(text: str, form: str) -> None:
    with pytest.raises(ApiError) as caught:
        ids_of_json(b'{"l2_ids":%b}' % (form % text).encode(), MANY)
    error = caught.value
    assert (error.status, error.body.code, error.body.field) == (422, "not_an_id", "l2_ids")
    assert "expected an integer from 0 to 18446744073709551615" in error.body.message
    value = orjson.loads(text)
    assert error.body.value == (value if value is None or isinstance(value, str) else repr(value))


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "not_json"),
        (b"hello", 400, "not_json"),
        (b'{"l2_ids":[1]} x', 400, "not_json"),
        (b'{"l2_ids":[1]', 400, "not_json"),
        (b'{"l2_ids":[1,]}', 400, "not_json"),
        (b'{"l2_ids":[NaN]}', 400, "not_json"),
        (b'{"l2_ids":[1e400x]}', 422, "not_an_id"),
        (b'{"l2_ids":[1e4x]}', 400, "not_json"),
        (b'{"l2_ids":[01]}', 400, "not_json"),
        (b'{"l2_ids":["\xff"]}', 400, "not_json"),
        (b'{"l2_ids":["\\ud800"]}', 400, "not_json"),
        (b'\xef\xbb\xbf{"l2_ids":[1]}', 400, "not_json"),
        ('{"l2_ids":[1]}'.encode("utf-16"), 400, "not_json"),
        (b"[" * 99_000, 400, "not_json"),
        (b'{"l2_ids":' + b"[" * 40_000 + b"]" * 40_000 + b"}", 400, "not_json"),
        (b'{"a":' * 10_000, 400, "not_json"),
        (b"[]", 422, "missing_field"),
        (b"{}", 422, "missing_field"),
        (b"1", 422, "missing_field"),
        (b'"l2_ids"', 422, "missing_field"),
        (b"null", 422, "missing_field"),
        (b'[{"l2_ids":[1]}]', 422, "missing_field"),
        (b'{"L2_IDS":[1]}', 422, "missing_field"),
    ],
)
def test_what_is_no_request(body: bytes, status: int, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        ids_of_json(body, 100_000)
    assert (caught.value.status, caught.value.body.code) == (status, code)
    assert len(caught.value.body.message) < 1000


def test_the_last_of_a_repeated_field_counts() -> None:
    assert ids_of_json(b'{"l2_ids":[1],"x":{"l2_ids":[2]},"l2_ids":[3]}', MANY).tolist() == [3]


def test_a_list_as_deep_as_the_parser_reads() -> None:
    deep = b"[" * 1000 + str(ID).encode() + b"]" * 1000
    assert ids_of_json(b'{"l2_ids":%b}' % deep, MANY).tolist() == [ID]


def test_an_error_shows_a_deep_or_large_value_shortened() -> None:
    deep = b'{"a":' * 1000 + b"1" + b"}" * 1000
    wide = orjson.dumps({str(i): "x" * 500 for i in range(500)})
    for value in (deep, wide, orjson.dumps("x" * 50_000)):
        with pytest.raises(ApiError) as caught:
            ids_of_json(b'{"l2_ids":[%b]}' % value, MANY)
        body = caught.value.body
        assert body.code == "not_an_id"
        assert len(body.message) < 2 * MAX_SHOWN
        assert len(body.value or "") <= MAX_SHOWN + 1


@pytest.mark.parametrize("nodes", [LAST >> 8, 5, 0])
def test_an_id_has_a_layer(nodes: int) -> None:
    error = refused(orjson.dumps({"l2_ids": [ID, nodes]}))
    assert (error.status, error.body.code, error.body.value) == (422, "not_an_id", str(nodes))
    error = refused(np.array([ID, nodes], "<u8").tobytes(), Content_Type="application/octet-stream")
    assert (error.status, error.body.code, error.body.value) == (422, "not_an_id", str(nodes))


def test_the_number_of_ids_is_limited() -> None:
    ids = list(range(ID, ID + MANY))
    assert ids_of(ids) == ids
    assert ids_of([[i] for i in ids]) == ids
    assert ids_of([str(i) for i in ids]) == ids
    for value in ([*ids, ID], [ids, "1"], [[i] for i in [*ids, ID]]):
        with pytest.raises(ApiError) as caught:
            ids_of(value)
        error = caught.value
        assert (error.status, error.body.code, error.body.limit) == (413, "too_many_ids", MANY)
        assert error.body.value == str(MANY + 1)


@pytest.mark.parametrize("item", [b"[],", b"{},", b"1,", b'"",', b"[[[[]]]],"])
def test_many_values_are_refused_before_they_are_parsed(item: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.body.orjson.loads", pytest.fail)
    with pytest.raises(ApiError) as caught:
        ids_of_json(b'{"l2_ids":[%b1]}' % (item * 5_000), MANY)
    assert (caught.value.status, caught.value.body.code) == (413, "too_many_ids")


numbers = st.integers(-(1 << 65), 1 << 65) | st.sampled_from([0, LAST, 1 << 63, 1 << 53, -(1 << 63)])
scalars = (
    st.none() | st.booleans() | numbers | numbers.map(str) | numbers.map(float) | st.floats() | st.text()
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)


@given(st.binary() | st.text().map(str.encode) | anything.map(lambda v: json.dumps({"l2_ids": v}).encode()))
@example(b'{"l2_ids":"\\u3000-5"}')
def test_whatever_comes_is_read_or_refused(body: bytes) -> None:
    with suppress(ApiError):
        ids = ids_of_json(body, MANY)
        assert ids.dtype == np.uint64
        assert ids.ndim == 1


def exact(value: Any) -> list[int]:
    if isinstance(value, list):
        return [i for item in value for i in exact(item)]
    return [int(value) % (1 << 64)]


id_numbers = st.integers(-(1 << 63), LAST)
exact_floats = st.integers(1 - (1 << 53), (1 << 53) - 1).map(float)
id_items = id_numbers | id_numbers.map(str) | exact_floats


@given(st.recursive(st.lists(id_items), st.lists, max_leaves=10) | id_items)
def test_ids_are_exact(value: Any) -> None:
    assert ids_of_json(json.dumps({"l2_ids": value}).encode(), MANY).tolist() == exact(value)


# ------------------------------------------------------------------ buffers
@given(st.lists(id_numbers.filter(lambda i: i >= 0)))
def test_ids_of_a_buffer(ids: list[int]) -> None:
    assert ids_of_buffer(np.array(ids, dtype="<u8").tobytes(), MANY).tolist() == ids


@pytest.mark.parametrize("size", [1, 7, 9, 8 * MANY + 1])
def test_a_buffer_of_odd_length(size: int) -> None:
    error = refused(b"\x02" * size, Content_Type="application/octet-stream")
    assert (error.status, error.body.code, error.body.value) == (422, "not_ids", f"{size} bytes")


def test_a_buffer_of_too_many_ids() -> None:
    error = refused(b"\x02" * 8 * (MANY + 1), Content_Type="application/octet-stream")
    assert (error.status, error.body.code, error.body.limit) == (413, "too_many_ids", MANY)


# ------------------------------------------------------------------ the body as it is sent
def test_the_content_type_says_which_form() -> None:
    buffer, text = np.array([ID, LAST], "<u8").tobytes(), orjson.dumps({"l2_ids": [ID, LAST]})
    for kind in (
        "application/octet-stream",
        "Application/Octet-Stream; charset=utf-8",
        "APPLICATION/OCTET-STREAM",
    ):
        assert accepted(buffer, Content_Type=kind) == [ID, LAST]
        assert accepted(b"", Content_Type=kind) == []
    for kind in (
        "application/json",
        "application/json; charset=latin-1",
        "text/plain",
        "*/*",
        "nonsense",
        "",
    ):
        assert accepted(text, Content_Type=kind) == [ID, LAST]
    assert accepted(text) == [ID, LAST]
    for kind in (
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "MULTIPART/Form-Data",
    ):
        error = refused(text, Content_Type=kind)
        assert (error.status, error.body.code, error.body.field) == (
            415,
            "unsupported_media_type",
            "Content-Type",
        )


def test_a_gzipped_body() -> None:
    text = orjson.dumps({"l2_ids": [ID, LAST]})
    for body in (
        packed(text),
        packed(text[:5], b"", text[5:]),
        packed(*(text[i : i + 1] for i in range(len(text)))),
    ):
        for encoding in ("gzip", "GZIP", " gzip "):
            assert accepted(body, Content_Encoding=encoding) == [ID, LAST]
    assert accepted(text, Content_Encoding="identity") == [ID, LAST]
    incompressible = np.random.default_rng(0).integers(1 << 56, LAST, MANY, dtype=np.uint64)
    body = packed(incompressible.tobytes())
    sent = request_of(Drops(body, 100), Content_Type="application/octet-stream", Content_Encoding="gzip")
    assert (requested_ids(sent, LIMITS) == incompressible).all()


@pytest.mark.parametrize(
    "body",
    [
        *(b"hello", b"\x1f\x8b", packed(b"{}" * 100)[:-1], packed(b"{}" * 100)[:20], packed(b"{}") + b"tail"),
        *(packed(b"{}") + packed(b"{}")[:12], zlib.compress(b"{}"), packed(b"{}")[:-8] + b"\0" * 8),
        b"".join([packed(b"")] * (MAX_MEMBERS + 1)),
    ],
)
def test_a_body_that_is_not_gzip(body: bytes) -> None:
    error = refused(body, Content_Encoding="gzip")
    assert (error.status, error.body.code, error.body.field) == (400, "not_gzip", "Content-Encoding")


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "x-gzip", "*", "nonsense" * 100])
def test_other_encodings(encoding: str) -> None:
    error = refused(packed(b"{}"), Content_Encoding=encoding)
    assert (error.status, error.body.code, error.body.field) == (
        415,
        "unsupported_encoding",
        "Content-Encoding",
    )
    assert len(error.body.message) < 2 * MAX_SHOWN


class Drops(io.RawIOBase):
    """A stream that returns a few bytes at a time; it may fail at the end."""

    def __init__(self, body: bytes, size: int, error: Exception | None = None) -> None:
        self.body, self.size, self.error = io.BytesIO(body), size, error
        self.given = 0

    def read(self, size: int = -1) -> bytes:
        piece = self.body.read(min(size, self.size) if size >= 0 else self.size)
        self.given += len(piece)
        if not piece and self.error:
            raise self.error
        return piece


def test_a_bomb_goes_off_before_it_is_received() -> None:
    bomb = Drops(packed(b" " * 50_000_000), 4096)
    error = refused(bomb, Content_Encoding="gzip")
    assert (error.status, error.body.code, error.body.limit) == (413, "body_too_large", 100_000)
    assert bomb.given == 4096
    assert sys.getsizeof(error.body.message) < 1000


def test_the_size_of_a_body_is_limited() -> None:
    text = b'{"l2_ids":[%d]' % ID
    assert accepted(text + b" " * (99_999 - len(text)) + b"}") == [ID]
    unread = Drops(b"x", 1)
    assert refused(unread, Content_Length="100001").body.code == "body_too_large"
    assert unread.given == 0
    endless = Drops(b" " * 10_000_000, 1 << 20)
    assert refused(endless).body.code == "body_too_large"
    assert endless.given < 300_000


def test_a_body_that_ends_too_early() -> None:
    buffer = np.array([ID] * 3, "<u8").tobytes()
    error = refused(buffer[:16], Content_Type="application/octet-stream", Content_Length="24")
    assert (error.status, error.body.code, error.body.value) == (400, "body_incomplete", "24")
    error = refused(
        Drops(buffer[:16], 8, error=OSError("no more data")), Content_Type="application/octet-stream"
    )
    assert (error.status, error.body.code) == (400, "bad_body")
