"""Tests of ids sent as floats: an error names them quickly, wherever they are."""

from __future__ import annotations

import json
import time

import numpy as np
import orjson
import pytest

from api.body import ids_of_json
from api.error_responses import MAX_SHOWN, ApiError
from tests.support.body import ID, packed, refused

FORMS = ["[%s]", "[144115188075855873,%s]", "%s", "[[%s]]", '["1",[%s]]', "[%s,0.5]"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "text",
    [
        *("1.44115188e17", "1.44115188E+17", "144115188075855872.0", "144115188075855873.0", "0.144e18"),
        *("9007199254740992.0", "9.007199254740993e15", "-9007199254740992.0", "-1.44115188e17"),
        *("1.8446744073709552e19", "1e300", "-1e300", "1e400", "-1.5E+999", "1" + "0" * 400 + ".0"),
    ],
)
def test_a_float_that_may_have_been_rounded_is_named(text: str, form: str) -> None:
    body = b'{"l2_ids":%b}' % (form % text).encode()
    for error in (refused(body), refused(packed(body), Content_Encoding="gzip")):
        assert (error.status, error.body.code, error.body.field) == (422, "not_an_id", "l2_ids")
        assert error.body.message.endswith("a float cannot hold an id exactly: send integers or strings")
        assert error.body.value
        assert error.body.message.startswith(f"{error.body.value} is not an id")
        if len(text) < 300:
            assert float(error.body.value) == float(text)


def test_a_column_with_a_gap() -> None:
    """If an id is missing, pandas makes the column floats and the missing id NaN. NaN is not JSON."""
    column = [float(ID), float("nan"), float("-inf")]
    error = refused(json.dumps({"l2_ids": column[:1]}).encode())
    assert (error.status, error.body.value) == (422, "1.4411518807585587e+17")
    for value, name in zip(column[1:], ("NaN", "-Infinity"), strict=True):
        error = refused(json.dumps({"l2_ids": [ID, value]}).encode())
        assert (error.status, error.body.code) == (400, "not_json")
        assert f": {name} is neither a JSON number nor an id" in error.body.message


def test_a_million_ids_are_read_and_a_million_floats_refused_in_time() -> None:
    ids = np.arange(ID, ID + 1_000_000, dtype=np.uint64)
    body = orjson.dumps({"l2_ids": ids}, option=orjson.OPT_SERIALIZE_NUMPY)
    start = time.process_time()
    assert (ids_of_json(body, len(ids)) == ids).all()
    floats = orjson.dumps({"l2_ids": ids.astype(float)}, option=orjson.OPT_SERIALIZE_NUMPY)
    digits = b'{"l2_ids":[%b]}' % (b"9" * 10_000_000)
    for bad in (floats, digits):
        with pytest.raises(ApiError) as caught:
            ids_of_json(bad, len(ids))
        assert caught.value.body.code == "not_an_id"
        assert len(caught.value.body.message) < 3 * MAX_SHOWN
    assert time.process_time() - start < 5
