"""Dead letters: their JSON, the folder and the topic that they go to, and the command about them."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from google.pubsub_v1 import PublisherClient, PublishRequest, PubsubMessage, SubscriberClient
from hypothesis import given
from hypothesis import strategies as st

from l2features.cli import main
from l2features.config import load_dataset
from l2features.deadletters import (
    DeadLetter,
    DeadLetterError,
    Folder,
    LetterTopic,
    Refusal,
    box,
    dead_letter,
    open_dead_letters,
)
from l2features.deadletters.attributes import (
    MAX_ATTRIBUTES,
    MAX_VALUE_BYTES,
    letter_of,
    topic_message,
)
from l2features.deadletters.recorded import find_messages, read_message
from l2features.errors import ConfigError
from l2features.ids import as_ids
from l2features.messages import Reason
from l2features.pubsub.subscription import Subscription
from l2features.pubsub.topic import MAX_REQUEST_BYTES, ROOM_BYTES
from l2features.store import Store, open_store
from l2features.updates.outcomes import Outcome
from l2features.updates.parts import Delivery

from .emulator import PubSubEmulator

NOW = datetime(2026, 11, 21, 0, 27, 44, tzinfo=UTC)
LARGEST = (1 << 64) - 1
REFUSALS = (
    Refusal("other_layer", "2 ids, the first 7: is not of layer 2", (7, LARGEST), "sample"),
    Refusal("not_an_integer", "'x' among the ids is not an integer"),
)
LETTER = DeadLetter(b"\x80\x04\xff", {"table_id": "sample", "remesh": "true"}, REFUSALS, 2, NOW)
EDIT = {"table_id": "sample", "remesh": "true"}

texts = st.text(max_size=20)
refusals = st.builds(Refusal, texts, texts, st.lists(st.integers(0, LARGEST), max_size=4).map(tuple), texts)
letters = st.builds(
    DeadLetter,
    st.binary(max_size=50),
    st.dictionaries(texts, texts, max_size=4),
    st.lists(refusals, max_size=3).map(tuple),
    st.integers(1, 99),
    st.just(NOW),
)


def run(*args: Any) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


# ------------------------------------------------------------------ a letter
@given(letters)
def test_json_keeps_everything(letter: DeadLetter) -> None:
    again = DeadLetter.from_json(letter.to_json())
    assert again == letter
    assert again.name == letter.name


def test_the_json_is_for_other_programs_too() -> None:
    content = json.loads(LETTER.to_json())
    assert content["payload"] == "gAT/"
    assert content["attributes"] == LETTER.attributes
    assert content["time"] == "2026-11-21T00:27:44+00:00"
    assert content["reasons"][0]["l2_ids"] == ["7", "18446744073709551615"]
    assert (LETTER.reasons, LETTER.ids) == (["other_layer", "not_an_integer"], [7, LARGEST])


@pytest.mark.parametrize(
    "text", ["", "5", "{}", LETTER.to_json()[:-9], LETTER.to_json().replace("gAT/", "gAT"), b"\xff"]
)
def test_what_is_no_letter(text: str) -> None:
    with pytest.raises(DeadLetterError, match="this is no dead letter"):
        DeadLetter.from_json(text)


def test_of_a_message_and_its_causes() -> None:
    delivery = Delivery("key", b"abc", EDIT, attempts=3)
    causes = [Outcome.refused(Reason.OTHER_LAYER, "", as_ids([5, LARGEST]), "sample")]
    letter = dead_letter(delivery, causes, NOW)
    assert (letter.data, letter.attributes, letter.attempts, letter.time) == (b"abc", EDIT, 4, NOW)
    assert letter.refusals[0][0] == "other_layer"
    assert letter.refusals[0][2:] == ((5, LARGEST), "sample")
    assert letter.delivery("k") == Delivery("k", b"abc", EDIT, 4)


def test_names_tell_messages_apart_and_nothing_else() -> None:
    other = DeadLetter(LETTER.data, dict(sorted(LETTER.attributes.items())), (), 9, datetime.now(UTC))
    assert other.name == LETTER.name
    names = {DeadLetter(d, a, (), 1, NOW).name for d in (b"", b"a") for a in ({}, {"a": ""}, {"": "a"})}
    assert len(names) == 6


# ------------------------------------------------------------------ a folder
def test_a_folder_has_one_file_for_a_message(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "a" / "dead")
    for letter in (LETTER, DeadLetter(b"", {}, (), 1, NOW), LETTER):
        folder.put(letter)
    found = list(folder.letters())
    assert [file.name for file, _ in found] == sorted(f"{letter.name}.json" for _, letter in found)
    assert LETTER in [letter for _, letter in found]
    assert len(list(folder.path.iterdir())) == len(found) == 2


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeadLetterError, match="cannot keep a dead letter"):
        Folder(tmp_path / "file" / "dead").put(LETTER)
    with pytest.raises(DeadLetterError, match="there is no such folder"):
        list(Folder(tmp_path / "none").letters())
    with pytest.raises(ConfigError, match="expected projects/PROJECT/topics/NAME"):
        open_dead_letters("projects/p/subscriptions/dead")
    assert isinstance(open_dead_letters(str(tmp_path)), Folder)


def test_recorded_messages(tmp_path: Path) -> None:
    (tmp_path / "b.bin").write_bytes(b"payload")
    (tmp_path / "b.json").write_text('{"attributes": {"table_id": "t"}, "more": 1}')
    Folder(tmp_path).put(LETTER)
    (tmp_path / "notes.txt").write_text("")
    files = find_messages(tmp_path)
    assert len(files) == 2
    found = {delivery.data: delivery for delivery in map(read_message, files)}
    assert found[b"payload"][1:5] == (b"payload", {"table_id": "t"}, 0, True)
    assert found[LETTER.data][1:5] == (LETTER.data, LETTER.attributes, 2, True)
    assert find_messages(tmp_path / "b.json") == find_messages(tmp_path / "b.bin") == [tmp_path / "b.bin"]
    with pytest.raises(ConfigError, match="expected a folder of"):
        find_messages(tmp_path / "c.bin")


# ------------------------------------------------------------------ a topic
def test_attributes_keep_to_the_limits_of_pubsub() -> None:
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


def test_what_is_too_large_for_a_topic_is_told_without_its_payload() -> None:
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


def test_a_letter_is_rebuilt_from_what_a_topic_has() -> None:
    again = letter_of(*topic_message(LETTER), published=5.0)
    joint = Refusal(
        "other_layer,not_an_integer",
        "2 ids, the first 7: is not of layer 2; 'x' among the ids is not an integer",
        (7, LARGEST),
    )
    assert again == DeadLetter(LETTER.data, LETTER.attributes, (joint,), 2, NOW)
    assert (again.name, again.reasons, again.ids) == (LETTER.name, LETTER.reasons, LETTER.ids)
    many = DeadLetter(b"x", {}, (Refusal("bad_node", "", tuple(range(1, 2_000))),), 1, NOW)
    told = letter_of(*topic_message(many), published=5.0)
    assert len(told.ids) + told.more_ids == 1_999
    assert topic_message(told).attributes == topic_message(many).attributes


told_names = ["reasons", "attempts", "time", "id_count", "ids", "detail", "payload_bytes", "payload_sha256"]
strange_texts = st.one_of(
    st.sampled_from(["", "-1", "9" * 400, "1e5", "nan", "1,,x", "0001-01-01T00:00:00+23:59", "2026", "²"]),
    texts,
)


@given(st.binary(max_size=5), st.dictionaries(st.sampled_from(told_names), strange_texts))
def test_any_message_is_a_letter(data: bytes, told: dict[str, str]) -> None:
    letter = letter_of(data, {f"dead_letter_{name}": value for name, value in told.items()}, 5.0)
    assert (letter.data, letter.attributes) == (data, {})
    assert DeadLetter.from_json(letter.to_json()) == letter
    assert 0 <= letter.attempts < 10**9


class Subscribed:
    """A topic of a fresh name, and what arrives there."""

    def __init__(self) -> None:
        name = f"dead-{uuid.uuid4().hex}"
        self.path = f"projects/test-project/topics/{name}"
        self.subscription = f"projects/test-project/subscriptions/{name}"
        self.publisher = PublisherClient()
        self.publisher.create_topic(name=self.path)
        self.client = SubscriberClient()
        self.client.create_subscription(name=self.subscription, topic=self.path)

    def send(self, data: bytes, **attributes: str) -> None:
        message = PubsubMessage(data=data, attributes=attributes)
        self.publisher.publish(topic=self.path, messages=[message])

    def messages(self) -> list[bytes]:
        """The payloads of all that is there; they stay."""
        data: dict[str, bytes] = {}
        subscription = Subscription(self.subscription)
        held = []
        while received := subscription.pull(10, 1):
            held += [message.ack_id for message in received]
            data |= {message.message_id: message.data for message in received}
        subscription.hold(held, 0)
        return sorted(data.values())

    def message(self) -> tuple[bytes, dict[str, str]]:
        received = self.client.pull(subscription=self.subscription, max_messages=1, timeout=20)
        message = received.received_messages[0]
        self.client.acknowledge(subscription=self.subscription, ack_ids=[message.ack_id])
        return message.message.data, dict(message.message.attributes)


def test_a_topic_has_the_message_as_it_came_and_why(pubsub: PubSubEmulator) -> None:
    subscribed = Subscribed()
    topic = open_dead_letters(subscribed.path)
    topic.put(LETTER)
    topic.close()
    assert subscribed.message() == (
        LETTER.data,
        {
            **LETTER.attributes,
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


# ------------------------------------------------------------------ the command
@pytest.fixture
def config(undisturbed: Path, tmp_path: Path) -> Path:
    """The data sets file of the ingested sample, whose store may be written to."""
    entry = json.loads(undisturbed.read_text())["sample"]
    source = Path(entry["store"].removeprefix("sqlite://"))
    (tmp_path / "l2cache.db").write_bytes(source.read_bytes())
    path = tmp_path / "datasets.yml"
    path.write_text(json.dumps({"sample": {**entry, "store": f"sqlite://{tmp_path}/l2cache.db"}}))
    return path


def open_table(config: Path) -> Store:
    entry = load_dataset("sample", config)
    return open_store(entry.store, entry.l2cache_id)


def test_list_and_show(tmp_path: Path) -> None:
    folder = tmp_path / "dead"
    Folder(folder).put(LETTER)
    Folder(folder).put(DeadLetter(b"", {"table_id": "a\x1b[2Jb\n"}, (), 1, NOW))
    listed = run("deadletters", "list", folder)
    assert listed.exit_code == 0
    assert (
        f"{LETTER.name}  2026-11-21 00:27:44    2  sample  other_layer,not_an_integer  2 ids" in listed.stdout
    )
    assert "\x1b" not in listed.stdout
    assert len(listed.stdout.splitlines()) == 2
    lines = [json.loads(line) for line in run("deadletters", "list", folder, "--json").stdout.splitlines()]
    assert {line["name"]: line["bytes"] for line in lines}[LETTER.name] == 3
    shown = run("deadletters", "show", folder, LETTER.name[:8]).stdout
    assert "other_layer: data set sample: 2 ids, the first 7: is not of layer 2\n          7\n" in shown
    assert str(LARGEST) in shown
    assert "attribute table_id = sample" in shown
    command = [sys.executable, "-m", "l2features.cli", "deadletters", "show", str(folder), LETTER.name]
    assert subprocess.run([*command, "--payload"], capture_output=True, check=True).stdout == LETTER.data
    none = run("deadletters", "show", folder, "zz")
    assert (none.exit_code, f"0 of {folder} begin so" in none.output) == (2, True)
    assert run("deadletters", "show", folder, "").exit_code == 2
    assert run("deadletters", "list", tmp_path / "none").exit_code == 1
    (folder / "x.json").write_text("{}")
    assert "x.json: this is no dead letter" in run("deadletters", "list", folder).stderr


def test_replay_computes_what_it_can(config: Path, tmp_path: Path) -> None:
    store = open_table(config)
    geometry = store.geometry()
    assert geometry
    first = geometry.chunk_id((0, 0, 0))  # type: ignore[arg-type]
    rows = store.scan_chunk(first, geometry.layout.last_id(first))
    for node in rows.ids[:2].tolist():
        store.delete(node, node)
    edits = [pickle.dumps({"new_lvl2_ids": ids}) for ids in ([int(rows.ids[0])], [int(rows.ids[1]), 7])]
    for data in edits:
        Folder(tmp_path / "dead").put(DeadLetter(data, EDIT, REFUSALS, 4, NOW))
    (tmp_path / "dead" / f"{DeadLetter(edits[1], EDIT, (), 1, NOW).name}.json").rename(
        tmp_path / "dead" / "x.json"
    )
    done = run("deadletters", "replay", tmp_path / "dead", "--config", config)
    assert (done.exit_code, done.stdout) == (1, "1 done, 1 refused, 0 failed\n")
    assert "x: data set sample: id 7 is not of layer 2" in done.stderr
    again = store.scan_chunk(first, geometry.layout.last_id(first))
    assert again.features.tobytes() == rows.features.tobytes()
    left = list(Folder(tmp_path / "dead").letters())
    assert [(letter.data, letter.attempts, letter.ids) for _, letter in left] == [(edits[1], 5, [7])]
    assert left[0][0].stem == left[0][1].name


def test_replay_keeps_what_failed(config: Path, tmp_path: Path) -> None:
    Folder(tmp_path / "dead").put(DeadLetter(pickle.dumps({"new_lvl2_ids": [5]}), EDIT, (), 4, NOW))
    before = [file.read_bytes() for file in (tmp_path / "dead").iterdir()]
    (tmp_path / "l2cache.db").unlink()
    done = run("deadletters", "replay", tmp_path / "dead", "--config", config)
    assert (done.exit_code, done.stdout) == (1, "0 done, 0 refused, 1 failed\n")
    assert "there is no file" in done.stderr
    assert [file.read_bytes() for file in (tmp_path / "dead").iterdir()] == before


def test_replay_publishes_to_a_topic(pubsub: PubSubEmulator, tmp_path: Path) -> None:
    subscribed, folder = Subscribed(), tmp_path / "dead"
    other = DeadLetter(b"other", {"table_id": "t"}, (), 1, NOW)
    Folder(folder).put(LETTER)
    Folder(folder).put(other)
    wrong = run("deadletters", "replay", folder, "--topic", "dead")
    assert (wrong.exit_code, "expected projects/PROJECT/topics/NAME" in wrong.output) == (2, True)
    away = run("deadletters", "replay", folder, "--topic", "projects/test-project/topics/not-there")
    assert (away.exit_code, len(list(folder.iterdir()))) == (1, 2)
    done = run("deadletters", "replay", folder, other.name, "--topic", subscribed.path)
    assert (done.exit_code, done.stdout) == (0, "1 published\n")
    assert subscribed.message() == (other.data, other.attributes)
    assert [letter for _, letter in Folder(folder).letters()] == [LETTER]


# ------------------------------------------------------------------ the command and a subscription
@pytest.fixture
def queue(pubsub: PubSubEmulator, monkeypatch: pytest.MonkeyPatch) -> Subscribed:
    monkeypatch.setattr(box, "QUIET_S", 1.0)
    return Subscribed()


def test_a_subscription_is_listed_as_a_folder_is(queue: Subscribed, tmp_path: Path) -> None:
    """And the letters stay; one that came twice is listed once; strangers' attributes do no harm."""
    topic, large = LetterTopic(queue.path), DeadLetter(bytes(11_000_000), EDIT, REFUSALS[:1], 1, NOW)
    for letter in (LETTER, LETTER, large):
        Folder(tmp_path).put(letter)
        topic.put(letter)
    queue.send(b"x", dead_letter_time="soon", dead_letter_attempts="-1", dead_letter_ids="a,\x1b[2J")
    queue.send(bytes(9_000_000), table_id="\x1b[2J")
    for _ in range(2):
        listed = run("deadletters", "list", queue.subscription)
        assert listed.exit_code == 0, listed.output
        assert "4 dead letters" in listed.stderr
        lines = set(listed.stdout.splitlines())
        assert lines > set(run("deadletters", "list", tmp_path).stdout.splitlines())
        assert "\x1b" not in listed.stdout
    assert len(queue.messages()) == 5
    some = run("deadletters", "list", queue.subscription, "--limit", "2", "--json")
    assert len([json.loads(line) for line in some.stdout.splitlines()]) == 2
    shown = run("deadletters", "show", queue.subscription, LETTER.name[:8]).stdout
    assert "reason    other_layer,not_an_integer: 2 ids, the first 7: is not of layer 2; 'x'" in shown
    assert f"\n          7\n          {LARGEST}\n" in shown
    left_out = run("deadletters", "show", queue.subscription, large.name)
    assert "its payload of 11000000 bytes, sha256 " in left_out.stdout
    none = run("deadletters", "show", queue.subscription, "zz")
    assert (none.exit_code, "0 of projects/" in none.output) == (2, True)


def test_replay_of_a_subscription(queue: Subscribed, config: Path) -> None:
    """What is done is acknowledged; what dies again, or has no payload, is there once more."""
    store = open_table(config)
    geometry = store.geometry()
    assert geometry
    first = geometry.chunk_id((0, 0, 0))  # type: ignore[arg-type]
    rows = store.scan_chunk(first, geometry.layout.last_id(first))
    store.delete(int(rows.ids[0]), int(rows.ids[0]))
    good, bad = (pickle.dumps({"new_lvl2_ids": [node]}) for node in (int(rows.ids[0]), 7))
    for data in (good, bad, good, bytes(11_000_000)):
        LetterTopic(queue.path).put(DeadLetter(data, EDIT, REFUSALS, 4, NOW))
    done = run("deadletters", "replay", queue.subscription, "--config", config)
    assert (done.exit_code, done.stdout) == (1, "1 done, 2 refused, 0 failed\n"), done.stderr
    assert "data set sample: id 7 is not of layer 2" in done.stderr
    assert "too large for the topic" in done.stderr
    again = store.scan_chunk(first, geometry.layout.last_id(first))
    assert again.features.tobytes() == rows.features.tobytes()
    assert queue.messages() == [b"", bad]


def test_replay_of_a_subscription_to_a_topic(queue: Subscribed) -> None:
    target, other = Subscribed(), DeadLetter(b"other", {"table_id": "t"}, (), 1, NOW)
    for letter in (LETTER, other):
        LetterTopic(queue.path).put(letter)
    named = run("deadletters", "replay", queue.subscription, other.name[:9], "--topic", target.path)
    assert (named.exit_code, named.stdout) == (0, "1 published\n"), named.stderr
    assert target.message() == (other.data, other.attributes)
    assert queue.messages() == [LETTER.data]
    assert run("deadletters", "replay", queue.subscription, "--topic", target.path).exit_code == 0
    assert target.message() == (LETTER.data, LETTER.attributes)
    assert queue.messages() == []


def test_a_subscription_that_is_none(pubsub: PubSubEmulator) -> None:
    topic = run("deadletters", "list", "projects/p/topics/dead")
    assert (topic.exit_code, "expected projects/PROJECT/subscriptions/NAME" in topic.output) == (2, True)
    away = run("deadletters", "list", "projects/test-project/subscriptions/not-there")
    assert (away.exit_code, "not-there: cannot pull: 404" in away.output) == (1, True)


def test_a_folders_letter_that_no_topic_takes_stays(pubsub: PubSubEmulator, tmp_path: Path) -> None:
    """And it does not keep the others."""
    for letter in (DeadLetter(bytes(50_000_000), EDIT, (), 1, NOW), LETTER, DeadLetter(b"", {}, (), 1, NOW)):
        Folder(tmp_path).put(letter)
    target = Subscribed()
    done = run("deadletters", "replay", tmp_path, "--topic", target.path)
    assert (done.exit_code, done.stdout) == (1, "1 published\n"), done.stderr
    assert "cannot publish 50000000 bytes: expected 9996000 at most" in done.stderr
    assert target.message() == (LETTER.data, LETTER.attributes)
    assert len(list(tmp_path.iterdir())) == 2
