"""Tests of the 65 recorded PCGL2Cache exchanges: successes are equal; the docs list changed statuses."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from l2features.testing.emulators import PubSubEmulator
from l2features.testing.server import Server
from l2features.testing.stores import INSTANCE, PROJECT
from tests.support.jobs import ROOT, Recordings
from tests.support.missing import Topic

DELIBERATE = {"attributes_ids_float"}
"""Exchanges that were no errors, and are now."""
DIFFERENCES = "<!-- differences: begin -->\n(.*?)<!-- differences: end -->"


class Answer(NamedTuple):
    """An answer with its body decompressed."""

    status: int
    headers: dict[str, str]
    body: bytes


def differences() -> dict[str, tuple[int, int]]:
    """Return the old and the new status of each exchange that the docs list as different."""
    found = re.search(DIFFERENCES, (ROOT / "docs" / "api.md").read_text(), re.S)
    assert found
    rows = [line.split("|")[1:4] for line in found[1].splitlines() if line.startswith("| `")]
    return {name: (int(old), int(new)) for names, old, new in rows for name in re.findall(r"`(\w+)`", names)}


def exchanges(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "http" / "index.json").read_text())["exchanges"]


def body_of(message: dict[str, Any]) -> bytes:
    return (
        base64.b64decode(message["body_base64"])
        if "body_base64" in message
        else message.get("body", "").encode()
    )


def send(server: Server, request: dict[str, Any]) -> Answer:
    """Send a recorded request with its recorded headers and no others."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest(request["method"], request["path"], skip_host=True, skip_accept_encoding=True)
    for name, value in request["headers"]:
        connection.putheader(name, value)
    connection.endheaders(body_of(request))
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    raw = response.read()
    connection.close()
    packed = headers.get("content-encoding") == "gzip" and raw
    return Answer(response.status, headers, gzip.decompress(raw) if packed else raw)


def recorded(exchange: dict[str, Any]) -> Answer:
    response = exchange["response"]
    headers = {name.lower(): value for name, value in response["headers"]}
    raw = body_of(response)
    packed = headers.get("content-encoding") == "gzip" and raw
    return Answer(response["status"], headers, gzip.decompress(raw) if packed else raw)


def values(answer: Answer) -> Any:
    """Return the body; JSON is parsed, keeping the order of keys."""
    if answer.headers.get("content-type", "").startswith("application/json") and answer.body:
        return json.loads(answer.body, object_pairs_hook=list)
    return answer.body


def faults(answer: Answer, was: Answer, recordings: Recordings) -> Iterator[Any]:
    """Yield each difference between an answer and the recorded one, which reports success."""
    port = f":{recordings.graphene_port}/".encode()
    if values(answer._replace(body=answer.body.replace(port, b":9001/"))) != values(was):
        yield answer.body, was.body
    for header in ("content-type", "content-encoding", "vary", "allow", "location"):
        ours, theirs = (sorted(re.split(", *", a.headers.get(header, ""))) for a in (answer, was))
        if ours != theirs:
            yield header, ours, theirs


def error_faults(answer: Answer) -> Iterator[Any]:
    """Yield an error's body if its form is not the documented one."""
    error = json.loads(answer.body)
    if not {"code", "message", "request_id"} <= set(error) or b"Traceback" in answer.body:
        yield answer.body


def cors(answer: Answer) -> list[str | None]:
    names = ("access-control-allow-origin", "access-control-expose-headers")
    return [answer.headers.get(name) for name in names]


@pytest.fixture(scope="module")
def topic(pubsub: PubSubEmulator) -> Topic:
    return Topic()


@pytest.fixture(scope="module")
def server(
    recordings: Recordings, pubsub: PubSubEmulator, topic: Topic, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Serve the recorded table with the recorded server's data set entry."""
    config = tmp_path_factory.mktemp("contract") / "datasets.yml"
    entry = {"cv_path": recordings.cv_path("fixture_v2"), "l2cache_id": "l2cache_fixture"}
    config.write_text(json.dumps({"fixture_v2": entry}))
    server = Server(
        config,
        {
            "BIGTABLE_PROJECT": PROJECT,
            "BIGTABLE_INSTANCE": INSTANCE,
            "L2CACHE_EXCHANGE": topic.path,
            "L2CACHE_PUBLISH_INTERVAL_S": "0.000001",
        },
    )
    yield server
    server.stop()


def test_every_exchange(server: Server, recordings: Recordings, topic: Topic) -> None:
    different, expected = differences(), Counter[int]()
    wrong: list[Any] = []
    for exchange in exchanges(recordings.folder):
        name, was = exchange["name"], recorded(exchange)
        answer = send(server, exchange["request"])
        old, new = different.get(name, (was.status, was.status))
        if (was.status, answer.status) != (old, new):
            wrong.append((name, answer.status, answer.body[:200]))
        elif answer.status >= 400:
            wrong += [(name, error) for error in error_faults(answer)]
        elif name not in different:
            wrong += [(name, fault) for fault in faults(answer, was, recordings)]
        if cors(answer) != cors(was):
            wrong.append((name, cors(answer), cors(was)))
        for message in exchange["published"] if name not in DELIBERATE else ():
            expected.update(i for i in message["ids"] if i >> 56 == 2)
    failed_then = {e["name"] for e in exchanges(recordings.folder) if e["response"]["status"] == 500}
    assert set(different) == failed_then | DELIBERATE
    assert not wrong
    assert server.stop() == 0  # it publishes what is queued
    assert Counter(topic.ids()) == expected
