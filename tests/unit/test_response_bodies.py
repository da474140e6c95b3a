"""Tests of gzipped response bodies, whose parts are made one after the other."""

from __future__ import annotations

import gzip
import weakref
from collections.abc import Iterable, Iterator

import pytest
from flask import Flask, Response

from api.response_bodies import ARROW, JSON, SHORTEST, Piece, body_response

GZIP = {"Accept-Encoding": "gzip"}


def response(parts: Iterable[Piece], mimetype: str = JSON) -> Response:
    with Flask(__name__).test_request_context(headers=GZIP):
        return body_response(parts, mimetype)


@pytest.mark.parametrize("parts", [[b"x" * (SHORTEST - 1)], [b"x"] * (SHORTEST - 1), [b""], []])
def test_short_json_is_not_gzipped(parts: list[bytes]) -> None:
    answer = response(parts)
    assert "Content-Encoding" not in answer.headers
    assert "Vary" not in answer.headers
    assert answer.data == b"".join(parts)
    assert answer.content_length == len(answer.data)


@pytest.mark.parametrize("parts", [[b"x" * SHORTEST], [b"x"] * SHORTEST, [b"", b"x", b"", b"y" * 999, b"z"]])
def test_other_json_is_gzipped(parts: list[bytes]) -> None:
    answer = response(parts)
    assert (answer.headers["Content-Encoding"], answer.headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert gzip.decompress(answer.data) == b"".join(parts)
    assert answer.content_length == len(answer.data)
    assert response(parts, ARROW).data == b"".join(parts)


def test_a_short_first_part_does_not_gather_the_others() -> None:
    """Check that at most two parts are in memory at once."""
    made: list[weakref.ref[memoryview]] = []

    def parts() -> Iterator[Piece]:
        yield b"{"
        for _ in range(9):
            assert sum(part() is not None for part in made) <= 2
            part = memoryview(b"x" * 1000)  # bytes have no weak references
            made.append(weakref.ref(part))
            yield part

    assert gzip.decompress(response(parts()).data) == b"{" + b"x" * 9000
