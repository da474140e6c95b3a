"""Dead letters: their JSON, the folder and the topic that they go to, and the command about them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from google.pubsub_v1 import PublisherClient, SubscriberClient
from hypothesis import given
from hypothesis import strategies as st

from l2features.cli import main
from l2features.config import load_dataset
from l2features.deadletters import (
    DeadLetter,
    DeadLetterError,
    Folder,
    Refusal,
    dead_letter,
    open_dead_letters,
)
from l2features.errors import ConfigError
from l2features.ids import as_ids
from l2features.messages import Reason
from l2features.outcomes import Outcome
from l2features.parts import Delivery
from l2features.recorded import find_messages, read_message
from l2features.store import Store, open_store
from l2features.topic import MAX_ATTRIBUTES, MAX_MESSAGE_BYTES, MAX_VALUE_BYTES, Topic, topic_attributes

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
    attributes = topic_attributes(letter)
    assert len(attributes) <= MAX_ATTRIBUTES
    assert max(len(value.encode()) for value in attributes.values()) <= MAX_VALUE_BYTES
    assert attributes["dead_letter_ids"].startswith("1,2,3,")
    assert (attributes["dead_letter_id_count"], attributes["dead_letter_attempts"]) == ("1999", "1")
    assert attributes["dead_letter_reasons"] == "other_layer"
    assert attributes["a0"] == "b" * 1_024
    assert not {"goog_x", "k" * 257, "v"} & set(attributes)
    full = topic_attributes(DeadLetter(bytes(MAX_MESSAGE_BYTES - 50), {"table_id": "t"}, REFUSALS, 1, NOW))
    assert sum(len(k) + len(v) for k, v in full.items()) <= 50
    assert full["table_id"] == "t"


class Subscribed:
    """A topic of a fresh name, and what arrives there."""

    def __init__(self) -> None:
        name = f"dead-{uuid.uuid4().hex}"
        self.path = f"projects/test-project/topics/{name}"
        self.subscription = f"projects/test-project/subscriptions/{name}"
        PublisherClient().create_topic(name=self.path)
        self.client = SubscriberClient()
        self.client.create_subscription(name=self.subscription, topic=self.path)

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
        Topic("projects/test-project/topics/not-there").put(LETTER)


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
    assert (none.exit_code, "0 of folder" in none.output) == (2, True)
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
