"""A parser of the recorded authentication cases in auth.txt."""

from __future__ import annotations

import re
from typing import NamedTuple


class Case(NamedTuple):
    """A recorded request, its answer, and the calls to the authentication service."""

    method: str
    path: str
    headers: dict[str, str]
    body: str | None
    status: int
    answer_headers: dict[str, str]
    answer: str
    calls: list[str]


def parse_cases(text: str) -> dict[str, Case]:
    blocks = re.split(r"^=== (\w+)\n", text, flags=re.M)[1:]
    return {name: parse_case(block) for name, block in zip(blocks[::2], blocks[1::2], strict=True)}


def parse_case(block: str) -> Case:
    request, rest = block.removeprefix("request: ").split("\n", 1)
    method = "GET"
    if request.startswith("-X"):
        _, method, request = request.split(" ", 2)
    request, _, body = request.partition(" -d ")
    path, *headers = request.split(" -H ")
    body, *more_headers = body.split(" -H ")
    head, _, rest = rest.partition("\n\n")
    status, *answer_headers = head.split("\n")
    answer, *calls = re.split(r"^    auth service: ", rest, flags=re.M)
    return Case(
        method,
        path,
        dict(header.split(": ", 1) for header in headers + more_headers),
        body or None,
        int(status.split()[1]),
        dict(header.split(": ", 1) for header in answer_headers),
        answer.strip(),
        [re.sub(r"( -> \d+) .*", r"\1", call.strip(), flags=re.S) for call in calls],
    )
