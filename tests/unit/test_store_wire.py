"""Tests of the decoder of ReadRows streams, compared with Google's client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from google.cloud.bigtable.data._sync_autogen._read_rows import _ReadRowsOperation
from google.cloud.bigtable.data.exceptions import InvalidChunk
from google.cloud.bigtable_v2.types import ReadRowsResponse
from hypothesis import example, given
from hypothesis import strategies as st

from l2features.core.ids import ids_of_row_keys, row_keys
from l2features.core.rows import NOT_COMPUTED, Rows
from l2features.core.schema import ATTRIBUTES, NAMES
from l2features.store.bigtable.decoded import decode, decode_cells
from l2features.store.bigtable.row_arrays import FEATURE_COLUMNS, Columns, Decoded, features_of
from l2features.testing.reference import decode_cells as set_cells

Response: Any = type(ReadRowsResponse.pb(ReadRowsResponse()))
Chunk: Any = Response.CellChunk
Cells = list[tuple[str, bytes, bytes]]
UNKNOWN_FIELDS = [
    b"",
    b"\xa2\x06\x03abc",
    b"\xa0\x06\x96\x01",
    b"\xa1\x06" + bytes(8),
    b"\xa5\x06" + bytes(4),
]
"""Field 100 of each wire type."""


def key_of(node: int) -> bytes:
    return row_keys(np.array([node], dtype=np.uint64))[0]


# ------------------------------------------------------------------ what the decoder is held against
def merged(messages: Sequence[bytes]) -> Iterator[tuple[bytes, Cells]]:
    """Yield committed rows as merged by Google's client. Raises InvalidChunk."""
    operation = object.__new__(_ReadRowsOperation)
    operation._operation_metric = SimpleNamespace(
        end_with_success=lambda: None, end_with_status=lambda status: None, active_attempt=None
    )
    chunks = [chunk for message in messages for chunk in Response.FromString(message).chunks]
    last = b""
    for row in operation.merge_rows(chunks):
        if row.row_key <= last:
            raise InvalidChunk("row keys should be strictly increasing")
        last = row.row_key
        yield row.row_key, [(cell.family, cell.qualifier, cell.value) for cell in row.cells]


def plainly_decoded(messages: Sequence[bytes]) -> Rows | str:
    """Return a stream's rows, decoded by Google's client and `set_cells`, or the error."""
    rows: list[tuple[bytes, Cells]] = []
    complaint = ""
    try:
        rows.extend(merged(messages))
    except InvalidChunk as error:
        complaint = error.message
    found = [(key, cells) for key, cells in rows if is_key(key)]
    out = Rows.empty(ids_of_row_keys([key for key, _ in found]))
    for i, (_, cells) in enumerate(found):
        newest: dict[bytes, bytes] = {}
        for family, qualifier, value in cells:
            if family == "0":
                newest.setdefault(qualifier, value)
        try:
            set_cells(out, i, newest.items())
        except ValueError as error:
            return str(error)
    return complaint or out


def is_key(key: bytes) -> bool:
    try:
        return len(ids_of_row_keys([key])) == 1
    except ValueError:
        return False


def attempt(messages: Sequence[bytes]) -> Decoded | str:
    """Return the rows from our decoder, or the error."""
    try:
        decoded = decode(messages, FEATURE_COLUMNS)
    except ValueError as error:
        return str(error)
    return decoded if decoded.whole else "premature end of stream"


def agree(messages: Sequence[bytes]) -> Decoded | None:
    """Check that our decoder and Google's client agree. Return the rows, or None for an error."""
    agree_on_cells(messages)
    expected, decoded = plainly_decoded(messages), attempt(messages)
    if isinstance(decoded, str) or isinstance(expected, str):
        assert isinstance(decoded, str), f"decoded, but Google's client says: {expected}"
        assert isinstance(expected, str), f"{decoded}, but Google's client reads it"
        assert (
            decoded == expected or "the response to ReadRows has a cell chunk that cannot follow" in decoded
        )
        return None
    rows = features_of(decoded)
    assert rows.features.tobytes() == expected.features.tobytes()
    np.testing.assert_array_equal(rows.present, expected.present)
    return decoded


def agree_on_cells(messages: Sequence[bytes]) -> None:
    """Check that our decoder and Google's client agree on the cells of all columns."""
    expected: list[tuple[int, bytes, bytes]] = []
    complaint = ""
    try:
        for key, cells in merged(messages):
            expected += [(int(key), name, value) for _, name, value in cells if is_key(key)]
    except InvalidChunk as error:
        complaint = error.message
    found = None
    with suppress(ValueError):
        found = decode_cells(messages)
    if complaint:
        assert found is None or not found.whole
        return
    assert found
    assert found.whole
    assert list(zip(found.ids.tolist(), found.names, found.values, strict=True)) == expected


# ------------------------------------------------------------------ streams as a server may send them
def values(name: str) -> st.SearchStrategy[bytes]:
    """Draw values of an attribute, mostly of the right length."""
    attribute = next((a for a in ATTRIBUTES if a.name == name), ATTRIBUTES[0])
    right = st.binary(min_size=attribute.nbytes, max_size=attribute.nbytes)
    special = [b""] if attribute.optional else [NOT_COMPUTED] if name == "size_nm3" else []
    wrong = st.binary(max_size=40)
    return st.one_of(
        right, right, right, *(st.just(value) for value in special), *([wrong] * (name == "pca"))
    )


CELL = st.one_of(
    [
        st.tuples(st.sampled_from(["0", "0", "0", "1", "00"]), st.just(name.encode()), values(name))
        for name in [*NAMES, *NAMES, "left_over", ""]
    ]
)
NODE_KEY = st.integers(0, 2**64 - 1).map(key_of)
OTHER_KEY = st.sampled_from(
    [b"meta", b"chunk_" + b"1" * 20, b"9" * 20, b"18446744073709551616", b"0" * 19, b"1"]
)
ROWS = st.dictionaries(
    st.one_of(NODE_KEY, NODE_KEY, OTHER_KEY), st.lists(CELL, min_size=1, max_size=10), max_size=6
)


def chunks_of_row(draw: st.DrawFn, key: bytes, cells: Cells) -> Iterator[Any]:
    """Yield a row's ReadRows chunks. Fields equal to the previous chunk's may be unset, and values split."""
    before: tuple[Any, Any] = (None, None)
    for i, (family, qualifier, value) in enumerate(cells):
        chunk = Chunk(timestamp_micros=draw(st.sampled_from([0, 1000, 2**62])), value=value)
        if i == 0 or draw(st.booleans()):
            chunk.row_key = key
        if family != before[0] or draw(st.booleans()):
            chunk.family_name.value = family
        if chunk.HasField("family_name") or qualifier != before[1] or draw(st.booleans()):
            chunk.qualifier.value = qualifier
        before = family, qualifier
        for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
            at = draw(st.integers(0, len(chunk.value)))
            rest, chunk.value, chunk.value_size = chunk.value[at:], chunk.value[:at], len(value) + 1
            yield chunk
            chunk = Chunk(value=rest)
        yield chunk


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Draw a stream's messages, in order."""
    chunks = []
    for key, cells in sorted(draw(ROWS).items()):
        made = list(chunks_of_row(draw, key, cells))
        if draw(st.sampled_from([False, False, True])):  # the server starts the row again
            chunks += [*made[: draw(st.integers(1, len(made)))], Chunk(reset_row=True)]
            made = list(chunks_of_row(draw, key, cells))
        made[-1].commit_row = True
        chunks += made
    return packed(draw, chunks)


def packed(draw: st.DrawFn, chunks: list[Any]) -> list[bytes]:
    messages = []
    while chunks:
        n = draw(st.integers(0, len(chunks)))
        scanned = draw(st.sampled_from([b"", b"0" * 20, key_of(2**64 - 1)]))
        part = [
            b"\x0a" + varint(len(raw)) + raw
            for raw in (c.SerializeToString() + draw(st.sampled_from(UNKNOWN_FIELDS)) for c in chunks[:n])
        ]
        rest = Response(last_scanned_row_key=scanned).SerializeToString()
        messages.append(b"".join([*part, rest, draw(st.sampled_from(UNKNOWN_FIELDS))]))
        chunks = chunks[n:] if n or draw(st.booleans()) else []
    return messages


def varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


# ------------------------------------------------------------------ properties
@given(streams())
def test_every_form_of_a_stream_is_decoded_as_googles_client_does(messages: list[bytes]) -> None:
    agree(messages)


CHUNKS = st.builds(
    Chunk,
    row_key=st.sampled_from([b"", b"", key_of(5), key_of(6), b"meta"]),
    family_name=st.sampled_from([None, None, {"value": "0"}, {"value": "1"}, {}]),
    qualifier=st.sampled_from([None, {"value": b"max_dt_nm"}, {"value": b"size_nm3"}, {}]),
    timestamp_micros=st.sampled_from([0, 0, 1000]),
    value=st.sampled_from([b"ab", b"a", b"", bytes(8), bytes(4)]),
    value_size=st.sampled_from([0, 0, 0, 4, -1]),
).flatmap(
    lambda chunk: st.sampled_from(
        [{}, {}, {"commit_row": True}, {"reset_row": True}, {"commit_row": False}]
    ).map(lambda status: Chunk.FromString(chunk.SerializeToString() + Chunk(**status).SerializeToString()))
)


@given(st.lists(CHUNKS, max_size=8))
@example([Chunk(row_key=key_of(5)), Chunk(reset_row=True)])
def test_chunks_in_any_order_are_refused_as_googles_client_does(chunks: list[Any]) -> None:
    agree([Response(chunks=[chunk]).SerializeToString() for chunk in chunks])


@given(
    streams(), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=4), st.integers(0, 3)
)
def test_broken_bytes_are_an_error_or_what_the_library_reads(
    messages: list[bytes], edits: list[tuple[int, int]], cut: int
) -> None:
    raw = bytearray(b"".join(messages))
    for place, byte in edits:
        if raw:
            raw[place % len(raw)] = byte
    broken = bytes(raw[: len(raw) - cut])
    try:
        decoded = decode([broken], FEATURE_COLUMNS)
    except ValueError:
        return
    assert len(decoded.ids) <= decoded.committed <= len(broken)
    try:
        Response.FromString(broken)
    except Exception:  # names that are no UTF-8 matter to the library only
        return
    agree([broken])


@given(st.binary(max_size=60))
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x0a\x02\x0a\x7f")
@example(b"\x80")
def test_any_bytes(raw: bytes) -> None:
    decoded = attempt([raw])
    assert (
        "stream" in decoded or "is malformed" in decoded if isinstance(decoded, str) else not len(decoded.ids)
    )


# ------------------------------------------------------------------ examples
def cell(name: str, value: bytes, **more: Any) -> Any:
    return Chunk(family_name={"value": "0"}, qualifier={"value": name.encode()}, value=value, **more)


def one_message(*chunks: Any, **more: Any) -> list[bytes]:
    return [Response(chunks=chunks, **more).SerializeToString()]


def test_of_several_versions_the_newest_counts() -> None:
    first = cell("max_dt_nm", b"\x01\x00", row_key=key_of(7), timestamp_micros=2000)
    messages = one_message(first, Chunk(value=b"\x02\x00", timestamp_micros=1000, commit_row=True))
    decoded = agree(messages)
    assert decoded
    assert features_of(decoded).features["max_dt_nm"].tolist() == [1]
    assert decoded.times.tolist() == [2000]


def test_the_mark_and_values_of_the_wrong_length() -> None:
    marked = agree(one_message(cell("size_nm3", bytes(8), row_key=key_of(7), commit_row=True)))
    assert marked
    assert features_of(marked).not_computed.tolist() == [True]
    for value in (b"", b"\x01" * 8, bytes(7) + b"\x01", bytes(9), bytes(70_000)):
        said = f"row 7: size_nm3 has {len(value)} bytes, expected 4"
        with pytest.raises(ValueError, match=f"^{said}$"):
            decode(one_message(cell("size_nm3", value, row_key=key_of(7), commit_row=True)), FEATURE_COLUMNS)


def test_the_last_scanned_key() -> None:
    whole = cell("size_nm3", bytes(4), row_key=key_of(7), commit_row=True)
    begun = cell("size_nm3", bytes(4), row_key=key_of(8))
    decoded = decode(one_message(whole, begun), FEATURE_COLUMNS)
    assert (decoded.ids.tolist(), decoded.whole, decoded.last_key) == ([7], False, key_of(7))
    decoded = decode(one_message(whole, last_scanned_row_key=key_of(9)), FEATURE_COLUMNS)
    assert (decoded.ids.tolist(), decoded.whole, decoded.last_key) == ([7], True, key_of(9))
    decoded = decode([], FEATURE_COLUMNS)
    assert (decoded.ids.tolist(), decoded.whole, decoded.last_key) == ([], True, b"")


def test_keys_without_an_id_are_reported() -> None:
    unexpected = cell("size_nm3", b"wrong length", row_key=b"00000x", commit_row=True)
    decoded = decode(one_message(unexpected), FEATURE_COLUMNS)
    assert (len(decoded.ids), decoded.committed, decoded.unexpected_key) == (0, 1, b"00000x")


def test_cells_of_any_column_behind_a_prefix_with_their_times() -> None:
    key, other = b"root_" + key_of(7), b"root_y"
    messages = one_message(
        cell("a", b"12", row_key=key, timestamp_micros=2000, value_size=5),
        Chunk(value=b"345"),
        Chunk(value=b"", timestamp_micros=1000),
        cell("b", b"", timestamp_micros=3000, commit_row=True),
        cell("a", b"x", row_key=b"root_x", commit_row=True),
        cell("a", b"begun", row_key=other),
    )
    found = decode_cells(messages, b"root_")
    assert found.ids.tolist() == [7, 7, 7]
    assert (found.names, found.values) == ([b"a", b"a", b"b"], [b"12345", b"", b""])
    assert found.times.tolist() == [2000, 1000, 3000]
    assert (found.committed, found.unexpected_key, found.whole) == (2, b"root_x", False)
    assert found.last_key == b"root_x"
    assert not len(decode_cells(messages).ids)


def test_other_columns_without_values_behind_a_prefix() -> None:
    columns = Columns(("done", "failed"), prefix=b"chunk_")
    rows = [
        cell(state, b"", row_key=b"chunk_" + key_of(i), commit_row=True, timestamp_micros=i)
        for i, state in enumerate(("done", "failed", "segments"))
    ]
    decoded = decode(one_message(*rows), columns)
    assert decoded.ids.tolist() == [0, 1, 2]
    assert decoded.present.tolist() == [[True, False], [False, True], [False, False]]
    assert decoded.times.tolist() == [0, 1, 0]
