"""Encode and decode the rows of a SQLite table: each row is one record, the bytes of a numpy dtype.

A table may have records of several dtypes. These differ in length, so the length of a record tells its dtype.
The file describes each dtype. A new attribute therefore needs no migration: older rows keep their dtype.

    >>> formats = {FIRST.itemsize: FIRST}
    >>> len(decode([bytes(FIRST.itemsize)], formats))
    1
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from ...core.rows import Rows
from ...core.schema import FEATURES, NAMES, SIZE

Formats = Mapping[int, np.dtype]
"""The dtypes of a table's records, by length in bytes."""
FIRST = np.dtype(
    [
        ("label", "<u8"),
        ("size_nm3", "<u4"),
        ("area_nm2", "<u4"),
        ("max_dt_nm", "<u2"),
        ("mean_dt_nm", "<f2"),
        ("rep_coord_nm", "<u2", (3,)),
        ("chunk_intersect_count", "<u2", (2, 3)),
        ("pca", "<f2", (3, 3)),
        ("pca_val", "<f4", (3,)),
        ("has_pca", "?"),
    ]
)
"""Dtype of the records in tables that do not describe their records. Never changes."""
_NEEDED = ("label", SIZE)


def describe(record: np.dtype) -> str:
    """Return a dtype's fields as JSON: a list of [name, dtype, shape]; `parse` is the inverse."""
    return json.dumps(
        [[name, record[name].base.str, record[name].shape] for name in record.names or ()],
        separators=(",", ":"),
    )


def parse(text: str, size: int) -> np.dtype:
    """Return the dtype of a JSON description from `describe`, padded to ``size`` bytes.

    Raises ValueError if the text is malformed, a field is not in the schema or differs from it in dtype or
    shape, the label or size field is missing, or the fields need more than ``size`` bytes.
    """
    try:
        packed = np.dtype([(str(name), str(dtype), tuple(shape)) for name, dtype, shape in json.loads(text)])
    except (TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"{text!r:.200}: expected a JSON list of [name, dtype, shape]") from error
    for name in packed.names or ():
        known = FEATURES[name] if name in (FEATURES.names or ()) else None
        if known != packed[name]:
            expected = f"expected {known}" if known else "expected a field of the schema"
            raise ValueError(f"the field {name!r} of type {packed[name]} is unknown: {expected}")
    if lacking := [name for name in _NEEDED if name not in (packed.names or ())]:
        raise ValueError(f"the record has no field {lacking[0]!r}: expected {' and '.join(_NEEDED)}")
    if packed.itemsize > size:
        raise ValueError(f"the record has {packed.itemsize} bytes, expected {size} at most")
    return padded(packed, size)


def padded(record: np.dtype, size: int) -> np.dtype:
    """Return a dtype with the same fields, padded to ``size`` bytes."""
    if record.itemsize == size:
        return record
    names = list(record.names or ())
    places = dict(record.fields or {})
    offsets = [places[name][1] for name in names]
    return np.dtype(
        {"names": names, "formats": [record[n] for n in names], "offsets": offsets, "itemsize": size}
    )


def own_format(formats: Formats) -> np.dtype | None:
    """Return the dtype among ``formats`` that has exactly the schema's fields; None if there is none."""
    text = describe(FEATURES)
    return next((record for record in formats.values() if describe(record) == text), None)


def new_format(formats: Formats) -> np.dtype:
    """Return a dtype with the schema's fields, padded to a length that ``formats`` does not have."""
    size = FEATURES.itemsize
    while size in formats:
        size += 1
    return padded(FEATURES, size)


def encode(features: np.ndarray, record: np.dtype) -> list[bytes]:
    """Return rows of dtype `schema.FEATURES` as bytes of dtype ``record``, which has the same fields."""
    stored = np.ascontiguousarray(features)
    if record != FEATURES:
        stored = np.zeros(len(features), dtype=record)
        for name in record.names or ():
            stored[name] = features[name]
    raw, step = stored.tobytes(), record.itemsize
    return [raw[i : i + step] for i in range(0, len(raw), step)]


def decode(stored: Sequence[bytes], formats: Formats) -> Rows:
    """Return the rows in the same order; attributes that a record lacks are absent.

    Raises ValueError for a record whose length no dtype in ``formats`` has.
    """
    sizes = set(map(len, stored))
    if len(sizes) == 1:
        return decode_joined(b"".join(stored), sizes.pop(), formats)
    rows = Rows.empty(np.zeros(len(stored), dtype=np.uint64))
    lengths = np.fromiter(map(len, stored), dtype=np.int64, count=len(stored))
    for size in sizes:
        places = np.flatnonzero(lengths == size)
        rows.put(places, decode_joined(b"".join(stored[i] for i in places.tolist()), size, formats))
    return rows


def decode_joined(joined: bytes, size: int, formats: Formats) -> Rows:
    """Return the rows of joined records of ``size`` bytes each; attributes that the records lack are absent.

    Raises ValueError if no dtype in ``formats`` has this size.
    """
    if size not in formats:
        expected = " or ".join(map(str, sorted(formats)))
        raise ValueError(f"a row has {size} bytes, expected {expected}")
    return _rows(bytearray(joined), formats[size])


def _rows(raw: bytearray, record: np.dtype) -> Rows:
    found = np.frombuffer(raw, dtype=record)
    if record == FEATURES:
        return Rows.complete(found)
    names = set(record.names or ())
    features = np.zeros(len(found), dtype=FEATURES)
    for name in names:
        features[name] = found[name]
    rows = Rows.complete(features)
    rows.present[:, ~np.isin(NAMES, list(names))] = False
    return rows
