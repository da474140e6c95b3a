"""Tests of dead letters on a topic: the original message, with the reasons in its attributes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.pubsub_v1 import PublishRequest, PubsubMessage
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.update import main
from l2features.pubsub import topic as topic_module
from l2features.pubsub.dead_letters import open_dead_letters, open_letter_box
from l2features.pubsub.letter import DeadLetter, DeadLetterError, Refusal
from l2features.pubsub.letter_topic import (
    MAX_ATTRIBUTES,
    MAX_VALUE_BYTES,
    LetterTopic,
    letter_of,
    topic_message,
)
from l2features.pubsub.topic import MAX_REQUEST_BYTES, ROOM_BYTES, Topic
from l2features.testing.emulators import PubSubEmulator
from tests.support.jobs import run_job
from tests.support.letters import LARGEST, LETTER, NOW, REFUSALS, Subscribed, texts


def test_attributes_are_within_the_limits_of_pubsub() -> None:
    many = {f"a{i}": "b" * 1_024 for i in range(95)} | {"goog_x": "1", "k" * 257: "1", "v": "1" * 1_025}
    ids = tuple(range(1, 2_000))
    letter = DeadLetter(bytes(100), many, (Refusal("other_layer", "é" * 5_000, ids),), 1, NOW)
    data, attributes = topic_message(letter)
    assert data == letter.data
    assert len(attributes) <= MAX_ATTRIBUTES
    assert max(len(value.encode()) for value in attributes.values()) <= MAX_VALUE_BYTES
    assert attributes["dead_letter_ids"].startswith("1,2,3,")
    assert (attributes["dead_letter_id_count"], attributes["dead_letter_attempts"]) == ("1999", "1")
    assert attributes["dead_letter_reasons"] == "other_layer"
    assert attributes["a0"] == "b" * 1_024
    assert not {"goog_x", "k" * 257, "v"} & set(attributes)


def request_bytes(data: bytes, attributes: Mapping[str, str]) -> int:
    message = PubsubMessage(data=data, attributes=dict(attributes))
    request = PublishRequest(topic=f"projects/{'p' * 30}/topics/{'t' * 255}", messages=[message])
    return len(PublishRequest.serialize(request))


def test_a_payload_too_large_for_a_topic_is_left_out() -> None:
    full = topic_message(DeadLetter(bytes(ROOM_BYTES - 50), {"table_id": "t"}, REFUSALS, 1, NOW))
    assert len(full.data) == ROOM_BYTES - 50
    assert full.attributes["table_id"] == "t"
    many = {f"{i:03}{'k' * 253}": "v" * 1_024 for i in range(90)}
    room = ROOM_BYTES - 90 * (256 + 1_024)
    assert request_bytes(*topic_message(DeadLetter(bytes(room), many, REFUSALS, 1, NOW))) < MAX_REQUEST_BYTES
    large = DeadLetter(bytes(ROOM_BYTES), {"table_id": "t", "goog_x": "1"}, REFUSALS, 1, NOW)
    data, attributes = topic_message(large)
    assert data == b""
    assert attributes["dead_letter_payload_bytes"] == str(ROOM_BYTES)
    assert attributes["dead_letter_payload_sha256"] == hashlib.sha256(large.data).hexdigest()
    again = letter_of(data, attributes, 0.0)
    assert again.payload == large.payload
    assert again.name == DeadLetter(large.data, {"table_id": "t"}, (), 1, NOW).name
    assert topic_message(again) == (data, attributes)
    assert DeadLetter.from_json(again.to_json()) == again


def test_a_letter_is_rebuilt_from_its_attributes() -> None:
    again = letter_of(*topic_message(LETTER), published=5.0)
    joint = Refusal(
        "other_layer,not_an_integer",
        "2 ids, the first 7: is not of layer 2; 'x' among the ids is not an integer",
        (7, LARGEST),
    )
    assert again == DeadLetter(LETTER.data, LETTER.attributes, (joint,), 2, NOW)
    assert (again.name, again.reasons, again.ids) == (LETTER.name, LETTER.reasons, LETTER.ids)
    many = DeadLetter(b"x", {}, (Refusal("bad_node", "", tuple(range(1, 2_000))),), 1, NOW)
    read = letter_of(*topic_message(many), published=5.0)
    assert len(read.ids) + read.more_ids == 1_999
    assert topic_message(read).attributes == topic_message(many).attributes


letter_fields = [
    "reasons",
    "attempts",
    "time",
    "id_count",
    "ids",
    "detail",
    "payload_bytes",
    "payload_sha256",
]
any_texts = st.one_of(
    st.sampled_from(["", "-1", "9" * 400, "1e5", "nan", "1,,x", "0001-01-01T00:00:00+23:59", "2026", "²"]),
    texts,
)


@given(st.binary(max_size=5), st.dictionaries(st.sampled_from(letter_fields), any_texts))
def test_any_message_is_a_letter(data: bytes, fields: dict[str, str]) -> None:
    letter = letter_of(data, {f"dead_letter_{name}": value for name, value in fields.items()}, 5.0)
    assert (letter.data, letter.attributes) == (data, {})
    assert DeadLetter.from_json(letter.to_json()) == letter
    assert 0 <= letter.attempts < 10**9


def test_a_topic_has_the_original_message_and_the_reasons(pubsub: PubSubEmulator) -> None:
    subscribed = Subscribed()
    topic = open_dead_letters(subscribed.topic)
    topic.put(LETTER)
    topic.close()
    assert subscribed.message() == (
        LETTER.data,
        {
            **LETTER.attributes,
            "dead_letter_format": "1",
            "dead_letter_reasons": "other_layer,not_an_integer",
            "dead_letter_attempts": "2",
            "dead_letter_time": "2026-11-21T00:27:44+00:00",
            "dead_letter_id_count": "2",
            "dead_letter_ids": f"7,{LARGEST}",
            "dead_letter_detail": "2 ids, the first 7: is not of layer 2; "
            "'x' among the ids is not an integer",
        },
    )
    with pytest.raises(DeadLetterError, match="cannot publish"):
        LetterTopic("projects/test-project/topics/not-there").put(LETTER)


def test_a_letter_of_a_newer_format_stays_on_its_topic(
    pubsub: PubSubEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("l2features.pubsub.letter_topic.QUIET_S", 2.0)
    subscribed = Subscribed()
    with closing(Topic(subscribed.topic)) as topic:
        topic.publish(b"newer", {"dead_letter_format": "9"})
        topic.publish(*topic_message(LETTER))
    with closing(open_letter_box(subscribed.subscription)) as box:
        assert [letter for _, letter in box.letters()] == [letter_of(*topic_message(LETTER), 0.0)]
        [problem] = box.unread
        assert "dead letter of format 9, expected 1 at most" in problem
        box.remove(LETTER.name)
    assert subscribed.messages() == [b"newer"]


# ------------------------------------------------------------------ at the start
@pytest.fixture
def refusing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start a Pub/Sub server that answers each topic look-up with the same error status."""

    def say(_: bytes, context: Any) -> bytes:
        context.abort(request.param, "no")
        return b""

    methods = {"GetTopic": grpc.unary_unary_rpc_method_handler(say)}
    handler = grpc.method_handlers_generic_handler("google.pubsub.v1.Publisher", methods)
    server = grpc.server(ThreadPoolExecutor(1), handlers=(handler,))
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    monkeypatch.setattr(topic_module, "CHECK_S", 0.5)
    server.start()
    yield
    server.stop(None).wait()


NOT_TOLD = [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED]


@pytest.mark.parametrize("refusing", NOT_TOLD, indirect=True, ids=str)
def test_a_topic_that_may_not_be_looked_up_passes_the_check(refusing: None) -> None:
    open_dead_letters("projects/test-project/topics/dead").check()


@pytest.mark.parametrize("refusing", [grpc.StatusCode.NOT_FOUND], indirect=True, ids=str)
def test_a_missing_topic(refusing: None) -> None:
    with pytest.raises(DeadLetterError, match="projects/test-project/topics/dead: cannot publish: 404"):
        open_dead_letters("projects/test-project/topics/dead").check()


@pytest.mark.parametrize(
    ("where", "status", "words"),
    [
        ("projects/test-project/topics/not-there", 1, "topic projects/test-project/topics/not-there: cannot"),
        ("gs://bucket/dead", 2, "'gs://bucket/dead': expected projects/PROJECT/topics/NAME, or a folder of"),
    ],
)
def test_the_updater_does_not_start_without_its_topic(
    pubsub: PubSubEmulator, config: Path, where: str, status: int, words: str
) -> None:
    subscribed = Subscribed()
    open_dead_letters(subscribed.topic).check()
    flags = ("--config", config, "--dead_letters", where, "--subscriptions", subscribed.subscription)
    done = run_job(main, *flags)
    assert done.returncode == status, done.stderr
    assert f"error: dead letters{': ' if status == 1 else ' '}{words}" in done.stderr
    assert "Traceback" not in done.stderr
