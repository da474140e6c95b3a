"""Tests of files of root ids: lines, CSV columns, and errors with the line's number."""

from __future__ import annotations

import io

import pytest

from l2features.cli.root_ids import read_root_ids
from l2features.core.errors import ConfigError

ROOT = 864691136040432126


def read(text: str, column: str | None = None) -> list[int]:
    return read_root_ids(io.StringIO(text), "cells.csv", column).tolist()


@pytest.mark.parametrize(
    ("text", "column"),
    [
        (f"{ROOT}\n5\n", None),
        (f"# roots\n\n {ROOT} \r\n5\n5\n{ROOT}", None),
        (f"root_id\n{ROOT}\n5\n", None),
        (f"\ufeffanything\n{ROOT}\n5\n", None),
        (f'name,pt_root_id\n"a, b",{ROOT}\nc,5\n', None),
        (f"name,cell\na,{ROOT}\nb,5\n", "cell"),
        (f"7,8\n{ROOT},1\n5,1\n", "7"),
    ],
)
def test_ids_once_and_in_their_order(text: str, column: str | None) -> None:
    assert read(text, column) == [ROOT, 5]


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("", None, "cells.csv: no root id"),
        ("# nothing\n\n", None, "no root id"),
        ("root_id\n", None, "no root id"),
        ("5\nx\n", None, "line 2: 'x' is not a root id: expected an integer from 0 to 18446744073709551615"),
        (
            "8.64691136040432e+17\n",
            None,
            "line 1: '8.64691136040432e+17' is not a root id: expected an integer, since",
        ),
        ("root_id\n5.0\n", None, "line 2: '5.0' is not a root id: expected an integer, since floats"),
        ("-5\n", None, "line 1: '-5'"),
        (f"{1 << 64}\n", None, "line 1: '18446744073709551616'"),
        ("5,6\n", None, "line 1 has 2 cells: expected one id, or a header above this line"),
        ("a,b\n5,6\n", None, "no known column of root ids: expected --column with one of a, b"),
        ("a,b\n5,6\n", "c", "no column 'c': expected --column with one of a, b"),
        ("a,root_id\n5\n", None, "line 2 has 1 cells: expected 2 or more"),
        ("5\n\n\u0665\n", None, "line 3"),
    ],
)
def test_what_is_refused(text: str, column: str | None, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, column)
    assert said in str(caught.value)
