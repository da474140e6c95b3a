"""Convert a column of values to JSON texts, one text per row.

orjson serializes a column as a whole, and the text is cut between rows. For a column of arrays of 16-bit
numbers, the text of each number is looked up in a table instead. Of these steps, only orjson's holds the GIL.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from ..core.schema import ATTRIBUTES, BY_NAME, Attribute

COMMA, COLON, BRACKET, QUOTE = b',:["'
Mask = npt.NDArray[np.bool_]


def scalar(text: bytes) -> Any:
    return pa.scalar(text, pa.binary())


def choose(choices: list[bytes], which: npt.NDArray[np.integer]) -> Any:
    """Return ``choices[which[i]]`` for each row i, shape (n,); a scalar if all rows have the same."""
    if (which == which[0]).all():
        return scalar(choices[which[0]])
    return pa.array(choices, pa.binary()).take(pa.array(which))


def member_texts(name: str, values: np.ndarray, present: Mask) -> Any:
    """Return what `texts_of` returns for the values of an attribute.

    For arrays of 16-bit numbers, the text of each number is looked up in a table, which is faster for many
    rows.
    """
    attribute = BY_NAME[name]
    if not _is_short(attribute):
        return texts_of(values, present)
    values = values if present.all() else values[present]
    table, starts = _short_texts(attribute.dtype, attribute.shape)
    which = values.astype(attribute.dtype).view(np.uint16).reshape(-1, len(starts)) + starts
    _, offsets, text = table.take(pa.array(which.reshape(-1))).buffers()
    ends = np.frombuffer(offsets, dtype=np.int32, count=which.size + 1)[:: len(starts)]
    return _array(text, ends, present)


def _is_short(attribute: Attribute) -> bool:
    return attribute.dtype.itemsize == 2 and attribute.shape != () and attribute.serving is None


def warm_up() -> None:
    """Make the tables that `member_texts` uses; otherwise, the first large answer has to wait for them."""
    for attribute in filter(_is_short, ATTRIBUTES):
        _short_texts(attribute.dtype, attribute.shape)


@cache
def _short_texts(dtype: np.dtype, shape: tuple[int, ...]) -> tuple[Any, npt.NDArray[np.int32]]:
    """Return a tuple: a table of texts; the index of the first text of each position, shape (prod(shape),).

    For each position in an array of ``shape``, the table has one text per 16-bit number: the number as JSON,
    with the brackets or comma next to it. The text of number x (viewed as uint16) is x entries after the
    position's first text. The texts of an array's numbers, joined in order, are ``:`` and the array as JSON.
    """
    numbers = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    texts = texts_of(numbers, np.ones(len(numbers), dtype=bool))
    *before, last = (b":" + orjson.dumps(np.zeros(shape, dtype=int).tolist())).split(b"0")
    around = list(zip(before, [b""] * (len(before) - 1) + [last], strict=True))
    kinds = list(dict.fromkeys(around))
    tables = [
        pc.binary_join_element_wise(pc.binary_replace_slice(texts, 0, 1, start), scalar(end), scalar(b""))
        for start, end in kinds
    ]
    starts = len(numbers) * np.array([kinds.index(pair) for pair in around], dtype=np.int32)
    return pa.concat_arrays(tables), starts


def texts_of(values: np.ndarray, present: Mask, before: int = COLON) -> Any:
    """Return each row's value as JSON after the character ``before``, or empty text if absent; shape (n,)."""
    values = values if present.all() else values[present]
    if values.dtype.kind == "f":
        values = values.astype(np.float64, copy=False)
    listed = values.tolist() if values.dtype.kind == "U" else values
    text = np.frombuffer(bytearray(orjson.dumps(listed, option=orjson.OPT_SERIALIZE_NUMPY)), dtype=np.uint8)
    if values.ndim == 1:
        starts = np.append([0], np.flatnonzero(text == COMMA))
    else:
        brackets_of_a_row = 1 if values.ndim == 2 else 1 + values.shape[1]
        starts = np.flatnonzero(text == BRACKET)[1::brackets_of_a_row] - 1
    text[starts] = before
    return _array(text, np.append(starts, len(text) - 1).astype(np.int32), present)


def _array(text: Any, ends: npt.NDArray[np.int32], present: Mask) -> Any:
    """Return an array (n,): ``text`` cut at ``ends``, and empty texts where ``present`` (n,) is false."""
    offsets = ends[np.append([0], present.cumsum())]
    return pa.Array.from_buffers(pa.binary(), len(present), [None, pa.py_buffer(offsets), pa.py_buffer(text)])
